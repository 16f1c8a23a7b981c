"""The bugs that are planted: where, what, and which tests are run to catch each.

A text is as short as it can be while it stands in its file exactly once. When the code around it is
changed, it has to follow; tests/planted/test_bugs.py says so at once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SRC = Path("src/card_worker")


class Misplaced(Exception):
    """The text of a bug doesn't stand in its file exactly once."""


@dataclass(frozen=True)
class Bug:
    """A text of a file and what is put in its place; `tests` are arguments of pytest."""

    name: str
    file: str
    text: str
    instead: str
    tests: tuple[str, ...]

    def place(self, root: Path) -> Path:
        """Return the file below `root`. Raises Misplaced."""
        path = root / SRC / self.file
        found = path.read_text().count(self.text) if path.exists() else 0
        if found != 1:
            raise Misplaced(f"{self.text!r} stands {found} times in {self.file}")
        return path

    @contextmanager
    def planted(self, root: Path) -> Iterator[None]:
        """Let the file below `root` have the bug. Raises Misplaced."""
        path = self.place(root)
        whole = path.read_text()
        path.write_text(whole.replace(self.text, self.instead))
        try:
            yield
        finally:
            path.write_text(whole)


def _commit_between(indent: int, statement: str, *rest: str) -> str:
    """Return `statement`, a commit of its own, and what comes after that in a second one."""
    lines = ('connection.exec_driver_sql("COMMIT")', 'connection.exec_driver_sql("BEGIN")', *rest)
    return statement + "".join(f"\n{' ' * indent}{line}" for line in lines)


SENDERS = "tests/storage/test_senders.py"
ATTEMPTS = "tests/storage/test_attempts.py"
GROUPS = "tests/storage/test_handler_groups.py"
HANDLER = "tests/storage/test_handler.py"
TRANSPORT = "tests/transport/test_transport.py"
FAILURES = "tests/flow/test_failures.py"
RELAY = "tests/flow/test_relay.py"
STORIES = "tests/domain/test_stories.py"
CONSTRAINTS = "tests/storage/test_constraints.py"
CODES = "tests/storage/test_codes.py"
SWEEP = "tests/flow/test_sweep.py"
OUTAGES = "tests/flow/test_outages.py"
LOCKED = "tests/flow/test_locked_rows.py"
LEASES = "tests/storage/test_leases.py"
SESSIONS = "tests/storage/test_sessions.py"
_WRITE = "save(connection, books.take_changes(), emitted)"

BUGS = (
    # --- one commit, one answer ------------------------------------------------------------------
    Bug(
        "a key is claimed in a commit of its own",
        "storage/idempotency.py",
        "fresh = frozenset(inserted())",
        _commit_between(8, "fresh = frozenset(inserted())"),
        (HANDLER,),
    ),
    Bug(
        "the outbox is written in a second commit",
        "handler.py",
        _WRITE,
        _commit_between(8, _WRITE.replace("emitted", "[]"), _WRITE),
        (HANDLER,),
    ),
    Bug(
        "a refusal is not stored",
        "handler.py",
        _WRITE,
        _WRITE.replace("emitted", "[each for each in emitted if each.reason is None]"),
        (GROUPS, HANDLER),
    ),
    Bug(
        "a conflict is answered with the first answer",
        "handler.py",
        "if digests[request.key] == request.sent.digest",
        "if digests[request.key]",
        (GROUPS,),
    ),
    Bug(
        "a dry run stores",
        "handler.py",
        "books = _aside(books, decision, released)",
        "pass",
        (GROUPS,),
    ),
    Bug(
        "ids of answers are drawn by chance",
        "contracts/commands.py",
        'return _event_id(f"{account_id}/{key}")',
        'return UUID(bytes=__import__("os").urandom(16))',
        ("tests/contracts/test_digests.py",),
    ),
    Bug(
        "all contents have one digest",
        "contracts/commands.py",
        'return hashlib.sha256(f"{command.command} {content}".encode()).hexdigest()',
        'return hashlib.sha256(b"").hexdigest()',
        ("tests/contracts/test_digests.py",),
    ),
    # --- rules -----------------------------------------------------------------------------------
    Bug(
        "cards are read before they are locked",
        "storage/loading.py",
        "find_rows(connection, cards, Card, by_key, lock=True)",
        "find_rows(connection, cards, Card, by_key)",
        ("tests/storage/test_loading.py",),
    ),
    Bug(
        "a capture doesn't look at what is held",
        "domain/spending.py",
        "if amount > locked:",
        "if amount < 0:",
        (STORIES,),
    ),
    Bug(
        "a refund has no limit",
        "domain/spending.py",
        "if amount > left or left == 0:",
        "if amount < 0:",
        (STORIES,),
    ),
    Bug(
        "a command that is too late is done",
        "domain/decide.py",
        "command.not_after < now",
        "command.not_after > now",
        (STORIES, "tests/domain/test_stories_times.py"),
    ),
    Bug(
        "a token that serves once serves again",
        "domain/codes.py",
        "spent_at = event.at if token.expires_after_transaction else None",
        "spent_at = None",
        (STORIES,),
    ),
    Bug(
        "a transfer never arrives",
        "domain/spending.py",
        "return Decision("
        "out, after=(TransferredIn(command, context.now, to.key, amount, key=key),))",
        "return Decision(out)",
        (STORIES,),
    ),
    # --- PINs and secrets ------------------------------------------------------------------------
    Bug(
        "PIN attempts are not recorded before they are judged",
        "worker/groups.py",
        "record_attempts(engine, permitted,",
        "record_attempts(engine, [],",
        ("tests/flow/test_pin_attempts.py",),
    ),
    Bug(
        "any number of wrong PINs is compared",
        "domain/access.py",
        "        or _undecided(counting, attempt, books.now) >= max(WRONG_MAX - wrong, 1)\n",
        "",
        ("tests/flow/test_pin_attempts.py",),
    ),
    Bug(
        "the fifth wrong PIN doesn't lock the PIN",
        "domain/access.py",
        "if wrong + 1 >= WRONG_MAX:",
        "if wrong >= WRONG_MAX:",
        (CODES,),
    ),
    Bug(
        "a locked PIN is compared",
        "domain/access.py",
        "        or pin.is_locked(books.now)\n",
        "",
        (STORIES,),
    ),
    Bug(
        "a lock ends by the time of the card",
        "domain/access.py",
        "books.pins[card.id].is_locked(books.now)",
        "books.pins[card.id].is_locked(now)",
        (CODES,),
    ),
    Bug(
        "secrets stand in dead letters",
        "storage/dead_letters.py",
        "masked(letter.headers, letter.task), masked_body(letter.body, letter.task)",
        "letter.headers, letter.body",
        ("tests/flow/test_leaks.py",),
    ),
    Bug(
        "the limit of a producer is not looked at within a group",
        "attempts.py",
        "so_far = self._stored.get(source, Tally()).plus(*self._made.get(source, Tally()))",
        "so_far = self._stored.get(source, Tally())",
        (ATTEMPTS,),
    ),
    Bug(
        "two workers at once exceed the limit of a producer",
        "attempts.py",
        "raise LimitReached(self._refused)",
        "pass",
        (ATTEMPTS,),
    ),
    Bug(
        "beyond its limit, a producer may try right PINs",
        "rights.py",
        "if self._attempts.is_refused(command, sender):",
        "if False:",
        (ATTEMPTS,),
    ),
    # --- signatures ------------------------------------------------------------------------------
    Bug(
        "a signature is not compared",
        "worker/senders.py",
        "if not verify(signature.base, signature.value):",
        "if False:",
        (SENDERS,),
    ),
    Bug(
        "the rights of a key are not checked",
        "rights.py",
        "        check_rights(command, sender)\n",
        "",
        (SENDERS,),
    ),
    Bug(
        "a revocation is not seen before the registry is read again",
        "storage/engine.py",
        "if version != registry_version:",
        "if False:",
        (SENDERS,),
    ),
    Bug(
        "a signature has no end",
        "domain/producers.py",
        "if age_s > window_s:",
        "if False:",
        (SENDERS,),
    ),
    Bug(
        "a refusal for the sender takes the key of the command",
        "handler.py",
        "            each.refused_key,\n",
        "            each.key,\n",
        (SENDERS,),
    ),
    Bug(
        "whoever has read a signed query gets its result",
        "worker/queries.py",
        'message.kwargs["command_id"] != message.id',
        "False",
        (SENDERS,),
    ),
    # --- time ------------------------------------------------------------------------------------
    Bug(
        "the time of a commit is that of the worker",
        "storage/engine.py",
        "now = now.astimezone(UTC) if isinstance(now, datetime) else read_time(now)",
        "now = datetime.now(UTC)",
        ("tests/flow/test_clocks.py",),
    ),
    Bug(
        "a sweep has no end",
        "sweeps.py",
        "len(rows) < slice_rows or swept >= SLICES_MAX * slice_rows",
        "len(rows) < slice_rows",
        (SWEEP, "tests/flow/test_sweep_holds.py"),
    ),
    Bug(
        "a sweep stops at rows that it can't change",
        "sweeps.py",
        "Swept(changed, Place(swept, last.expires_at, last.id))",
        "Swept(changed, None)",
        (SWEEP, "tests/flow/test_sweep_holds.py"),
    ),
    Bug(
        "a lease keeps nobody out",
        "storage/leases.py",
        "free = leases.c.holder == holder",
        "free = leases.c.holder != holder",
        (LEASES,),
    ),
    Bug(
        "a lease is judged by what was seen once",
        "storage/leases.py",
        ", leases.c.renewals == held.renewals))",
        "))",
        (LEASES,),
    ),
    # --- the database ----------------------------------------------------------------------------
    Bug(
        "a commit may be idle for ever",
        "storage/engine.py",
        'func.set_config("idle_in_transaction_session_timeout", f"{IDLE_MAX_S}s", true()),',
        "",
        (OUTAGES,),
    ),
    Bug(
        "a commit may wait for a lock for ever",
        "storage/engine.py",
        'func.set_config("lock_timeout", bindparam("lock_timeout"), true()),',
        "",
        (LOCKED,),
    ),
    Bug(
        "a group waits for one locked card",
        "worker/delivery.py",
        "                done = self._locked_rows.commit(reads, locked)\n",
        "                done = self._groups.commit(reads)\n",
        (LOCKED,),
    ),
    Bug(
        "a message passes one that waits for the same card",
        "worker/locked_rows.py",
        "            locked |= needed\n",
        "            pass\n",
        (LOCKED,),
    ),
    Bug(
        "a session without a reply is waited for for ever",
        "storage/sessions.py",
        "            driver.pgconn.finish()\n",
        "            return wait_for_ever(gen, interval)\n",
        (SESSIONS,),
    ),
    Bug(
        "a session that can only read goes back to the pool",
        "storage/sessions.py",
        "            context.is_disconnect = True\n",
        "            pass\n",
        (SESSIONS,),
    ),
    Bug(
        "behind a pooler statements are prepared",
        "storage/sessions.py",
        "driver.prepare_threshold = None",
        "pass",
        (SESSIONS,),
    ),
    Bug(
        "a right that is missing is a message's fault",
        "storage/errors.py",
        "return not state.startswith(_DATA_STATES)",
        "return state.startswith(_TEMPORARY_STATES)",
        ("tests/flow/test_server_faults.py",),
    ),
    Bug(
        "two cards may have one name",
        "storage/migrations/versions/0001_first.py",
        'unique=["account_id, card_id"],',
        "",
        (CONSTRAINTS,),
    ),
    Bug(
        "transactions can be changed",
        "storage/migrations/versions/0001_first.py",
        '    _make_append_only("transactions")\n',
        "",
        (CONSTRAINTS,),
    ),
    Bug(
        "a file is in its place before it is on the disk",
        "file_store.py",
        "            file.flush()\n"
        "            os.fsync(file.fileno())\n"
        "        Path(unfinished).replace(path)\n",
        "            Path(unfinished).replace(path)\n"
        "            file.flush()\n"
        "            os.fsync(file.fileno())\n",
        ("tests/storage/test_files.py",),
    ),
    # --- the way in ------------------------------------------------------------------------------
    Bug(
        "messages are acknowledged before their commit",
        "worker/grouping.py",
        "        self._run(group, started=monotonic())",
        "        self._acknowledge([one.raw for one in group])\n"
        "        self._run(group, started=monotonic())",
        (f"{FAILURES}::test_starts_that_killed_the_worker_count",),
    ),
    Bug(
        "messages that expire are dropped",
        "worker/grouping.py",
        "self._unreadable.append((raw, Failed(problem.reason, problem.detail)))",
        'raw.ack() if problem.detail == "expires" else self._unreadable.append((raw, problem))',
        ("tests/flow/test_unreadable.py",),
    ),
    Bug(
        "starts aren't counted",
        "worker/starts.py",
        "return starts < STARTS_MAX",
        "return True",
        (f"{FAILURES}::test_a_defect_is_started_five_times_and_then_kept_with_its_traceback",),
    ),
    Bug(
        "a start that the worker breaks off counts",
        "storage/starts.py",
        "case((is_over, starts.c.starts + 1), else_=starts.c.starts)",
        "starts.c.starts + 1",
        ("tests/storage/test_starts.py",),
    ),
    Bug(
        "a message passes an earlier one that goes back to its queue",
        "worker/delivery.py",
        "            if not outcomes.keys().isdisjoint(reads) and self._stopping():\n",
        "            if False:\n",
        ("tests/flow/test_order.py",),
    ),
    Bug(
        "dead letters are acknowledged and not kept",
        "worker/dead_letters.py",
        "stored = self._retries.run(partial(self._store, letters), gives_up=needs_operator)",
        "stored = list[DeadLetter]()",
        ("tests/flow/test_unreadable.py",),
    ),
    Bug(
        "messages are taken without a note of it",
        "transport/take.lua",
        "redis.call('HSET', inflight, unpack(fields))",
        "",
        (TRANSPORT,),
    ),
    Bug(
        "messages are taken and stay in their list",
        "transport/take.lua",
        "redis.call('LTRIM', list, 0, -#fields / 2 - 1)",
        "",
        (TRANSPORT,),
    ),
    Bug(
        "an oversize entry is dropped",
        "transport/take.lua",
        "    split_off(list, about.key, #raw)",
        "    redis.call('RPOP', list)",
        (TRANSPORT,),
    ),
    Bug(
        "messages are given back in the wrong order",
        "transport/give_back.lua",
        "return one > other end",
        "return one < other end",
        (TRANSPORT,),
    ),
    Bug("returns aren't counted", "transport/give_back.lua", "raw .. ARGV[3]", "raw", (TRANSPORT,)),
    Bug(
        "messages are taken off and not put back",
        "transport/give_back.lua",
        "if (allowed and push(list, raw)) or push(KEYS[3], raw) then",
        "do",
        (TRANSPORT,),
    ),
    Bug(
        "what can't go back to its list is dropped",
        "transport/give_back.lua",
        "(allowed and push(list, raw)) or push(KEYS[3], raw)",
        "not allowed or push(list, raw)",
        (TRANSPORT,),
    ),
    Bug(
        "one that lives again is returned as dead",
        "transport/give_back.lua",
        "if beats and redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= ARGV[2] then return -1 end",
        "",
        (TRANSPORT,),
    ),
    Bug(
        "after its own outage a heart takes all others for dead",
        "transport/liveness.py",
        "passed if passed <= REPLY_GAP_S_MAX else 0.0",
        "passed",
        (TRANSPORT,),
    ),
    Bug(
        "a worker goes on when settling failed",
        "transport/channel.py",
        "        self._failure = error\n",
        "        pass\n",
        ("tests/flow/test_broker_trouble.py",),
    ),
    # --- the way out -----------------------------------------------------------------------------
    Bug(
        "the relay forgets events before they are published",
        "relay.py",
        "        for part in _publications([*events, *again]):\n",
        "        self._published = events\n"
        "        self._mark_published()\n"
        "        for part in _publications([*events, *again]):\n",
        (RELAY,),
    ),
    Bug(
        "a relay that is paused keeps its lease",
        "storage/leases.py",
        "ABANDONED_S = 10.0",
        "ABANDONED_S = 1e9",
        (f"{RELAY}::test_a_relay_that_was_paused_past_its_lease_changes_no_order",),
    ),
    Bug(
        "the relay publishes in the order of ids",
        "storage/outbox.py",
        ".order_by(outbox.c.position)",
        ".order_by(outbox.c.id)",
        (RELAY,),
    ),
    # --- reports and exports ---------------------------------------------------------------------
    Bug(
        "what happens at midnight belongs to the month before",
        "storage/finance.py",
        "time < bounds[middle]",
        "time <= bounds[middle]",
        ("tests/report/test_figures.py",),
    ),
    Bug(
        "a report ends after an open commit began",
        "storage/settled.py",
        "min(now, oldest.astimezone(UTC))",
        "now",
        ("tests/report/test_report.py",),
    ),
    Bug(
        "a spreadsheet reads a cell as a formula",
        "cli/export.py",
        '_FORMULA.sub(r"\\1\'", value)',
        "value",
        ("tests/cli/test_export.py",),
    ),
)
