"""Kill everything while an order is made, hundreds of times, and hold the cards against the file.

python -m tests.chaos.orders --cards 100000 --kills 200 --seed 1

Workers and a relay are killed with SIGKILL one after the other, most of them with a chunk in hand:
its cards, tokens and PINs are in the database, and its commit is held up until they are dead. A
third of the way Redis is killed and loses all it had, at two thirds PostgreSQL is stopped at once.
Each comes back. What must hold in the end:

- there are exactly as many cards as were ordered, each number once
- file and rows agree one to one: each card's token and PIN in the file are those that are kept
- the tokens and PINs of the file open cards that are activated
- the order is told to be complete once, with the digest of the file
- the books add up
"""

import argparse
import csv
import hashlib
import io
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from uuid import UUID

from redis.exceptions import RedisError
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from card_worker.domain.ids import card_uuids
from card_worker.embedded.valkey import Valkey, valkey
from card_worker.secrets.peppers import Peppers, new_pepper
from card_worker.secrets.sealing import new_key_pair, open_sealed
from card_worker.storage.engine import reading
from card_worker.storage.migrations import upgrade
from card_worker.storage.tables import batches, cards, chunks, pins, tokens
from tests import servers
from tests.flow.processes import Part, until
from tests.flow.system import ACCOUNT, System, system
from tests.servers import Postgres

WORKERS = 3
BATCH, PATTERN = "B1", "B1-{n:08d}"
PAID = 25
"""So many cards of the file are activated and paid with."""
AT_WORK_S = 2.5
"""How long a commit is held up; after three seconds it would give up by itself."""
DONE_S = 600.0
"""A system that gets nothing done for so long is stuck."""

TOKEN_PEPPERS, PIN_PEPPERS = new_pepper("t1"), new_pepper("p1")
BUREAU = new_key_pair()


@dataclass
class Report:
    """What was done, and what was seen."""

    cards: int
    kills: int
    seed: int
    killed: dict[str, int] = field(default_factory=dict)
    with_a_chunk: int = 0
    """How many chunks were at work, held up, when all or some of the workers were killed."""
    too_late: int = 0
    """Kills that came when the order was complete, and so prove nothing."""
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not self.violations

    def __str__(self) -> str:
        killed = ", ".join(f"{name} {times}" for name, times in sorted(self.killed.items()))
        lines = [
            f"an order of {self.cards} cards, {sum(self.killed.values())} kills, seed {self.seed}",
            f"  killed                       {killed}",
            f"  chunks at work when killed   {self.with_a_chunk}",
            f"  killed when it was complete  {self.too_late}",
            f"  seconds                      {self.seconds:.0f}",
            f"  wrong                        {len(self.violations)}",
            *(f"  WRONG: {violation}" for violation in self.violations[:20]),
        ]
        return "\n".join(lines)


class Run:
    """One run on a system of which no part runs yet, with servers of its own."""

    def __init__(
        self,
        running: System,
        server: Postgres,
        broker: Valkey,
        report: Report,
        *,
        spoil: Callable[[System], None],
    ) -> None:
        self._spoil = spoil
        self._system, self._server, self._broker = running, server, broker
        self._report = report
        self._chance = random.Random(report.seed)
        self._files = running.parts.folder / "files"
        self._workers: list[Part] = []
        self._started = 0
        self._chunks = 0

    def run(self) -> Report:
        """Do it all; say what was seen."""
        began = monotonic()
        self._relay = self._system.start("relay")
        # It returns what the dead held, and asks again for what was lost. It makes no cards.
        self._worker("--queues=cards,cards.system")
        self._system.start("beat", SWEEP_INTERVAL_S="1")
        self._workers = [self._worker("--queues=cards.bulk") for _ in range(WORKERS)]
        self._order()
        self._kill_at_work()
        self._finish()
        self._spoil(self._system)
        self._report.seconds = monotonic() - began
        self._look()
        return self._report

    def _worker(self, queues: str) -> Part:
        self._started += 1
        name = f"--hostname=worker{self._started}@%h"
        settings = {"TOKEN_PEPPERS": TOKEN_PEPPERS, "PIN_PEPPERS": PIN_PEPPERS}
        return self._system.start("worker", name, queues, **settings, FILES_URL=str(self._files))

    def _order(self) -> None:
        made = {"options": {"card_token": {}, "pin": {}}, "seal_to": [BUREAU.recipient]}
        asked = {"count": self._report.cards, "card_id_pattern": PATTERN, "batch_id": BATCH}
        self._system.send("cards.batch_create", "order", **asked, **made)
        until(lambda: self._found(batches) == 1, "the order", within_s=DONE_S)
        self._chunks = self._found(chunks)

    # --- kills --------------------------------------------------------------------------------

    def _kill_at_work(self) -> None:
        report = self._report
        deadline = monotonic() + DONE_S
        disasters = {
            report.kills // 3: self._lose_redis,
            2 * report.kills // 3: self._crash_database,
        }
        while (done := sum(report.killed.values())) < report.kills:
            assert monotonic() < deadline, "no chunk is worked at"
            due = [at for at in disasters if at <= done]
            if due:
                disasters.pop(due[0])()
                continue
            with suppress(DBAPIError):
                self._kill_some(report.kills - done)
            if sum(report.killed.values()) > done:
                deadline = monotonic() + DONE_S

    def _kill_some(self, kills_left: int) -> None:
        """Hold the order up until chunks are at work, and kill workers; kill none if none are."""
        with self._held_up() as is_complete:
            before = sum(self._report.killed.values())
            if not is_complete and not self._is_at_work():
                return
            # Whoever lives gets on. So that some of the order is left for the last kill, nobody
            # does while more of it is done than of the kills.
            left = self._chunks_left() - 1
            is_ahead = left * self._report.kills < kills_left * self._chunks
            dying = WORKERS if is_ahead else self._chance.randint(1, WORKERS - 1)
            self._kill(self._chance.sample(self._workers, dying))
            if self._chance.random() < 0.1:
                self._kill_relay()
            if is_complete:
                self._report.too_late += sum(self._report.killed.values()) - before
        sleep(self._chance.uniform(0, 0.05))

    @contextmanager
    def _held_up(self) -> Iterator[bool]:
        """Let no chunk be committed; say whether there is none left."""
        with self._system.engine.begin() as connection:
            wanted = select(batches.c.state).with_for_update()
            yield connection.execute(wanted).scalar_one() == "completed"

    def _is_at_work(self) -> bool:
        """Say whether a chunk waits for its commit before it would give up."""
        deadline = monotonic() + AT_WORK_S
        while monotonic() < deadline:
            if at_work := self._waiting():
                self._report.with_a_chunk += at_work
                return True
            sleep(0.02)
        return False

    def _waiting(self) -> int:
        statement = text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock' AND query LIKE 'UPDATE batches%'"
        )
        with reading(self._system.engine) as connection:
            return int(connection.execute(statement).scalar_one())

    def _kill(self, victims: Sequence[Part]) -> None:
        for victim in victims:
            victim.kill9()
            self._count("workers")
            self._workers.remove(victim)
            self._workers.append(self._worker("--queues=cards.bulk"))

    def _kill_relay(self) -> None:
        self._relay.kill9()
        self._count("relay")
        self._relay = self._system.start("relay")

    def _lose_redis(self) -> None:
        """Kill Redis, and all that it knew with it."""
        with suppress(RedisError):
            self._system.redis.flushall()
        self._broker.kill()
        self._broker.start()
        self._count("Redis")

    def _crash_database(self) -> None:
        self._server.crash()
        self._server.start()
        self._system.engine.dispose()
        self._count("PostgreSQL")

    def _count(self, what: str) -> None:
        self._report.killed[what] = self._report.killed.get(what, 0) + 1

    def _chunks_left(self) -> int:
        statement = select(func.count()).where(chunks.c.done_at.is_(None))
        with reading(self._system.engine) as connection:
            return int(connection.execute(statement).scalar_one())

    def _finish(self) -> None:
        until(self._is_complete, "the end of the order", within_s=DONE_S)
        until((self._files / ACCOUNT / f"{BATCH}.csv.age").exists, "the file", within_s=DONE_S)
        until(lambda: self._system.events_of("batch.completed"), "the word of it", within_s=DONE_S)

    def _is_complete(self) -> bool:
        with suppress(DBAPIError), reading(self._system.engine) as connection:
            state = connection.execute(select(batches.c.state)).scalar_one()
            return str(state) == "completed"
        return False

    # --- what came of it ----------------------------------------------------------------------

    def _found(self, table: object) -> int:
        with suppress(DBAPIError), reading(self._system.engine) as connection:
            return int(
                connection.execute(select(func.count()).select_from(table)).scalar_one()  # type: ignore[arg-type]
            )
        return 0

    def _look(self) -> None:
        rows = self._read_file()
        self._look_at_rows(rows)
        self._look_at_events()
        self._pay(self._chance.sample(rows, min(PAID, len(rows))))
        proof = self._system.cli("reconcile")
        if proof.exit_code != 0:
            self._wrong(f"the books don't add up: {proof.output}")

    def _wrong(self, what: str) -> None:
        self._report.violations.append(what)

    def _read_file(self) -> list[dict[str, str]]:
        sealed = (self._files / ACCOUNT / f"{BATCH}.csv.age").read_bytes()
        self._digest = hashlib.sha256(sealed).hexdigest()
        plain = open_sealed([BUREAU.identity], sealed)
        rows = list(csv.DictReader(io.StringIO(plain.decode(), newline="")))
        names = [f"B1-{number:08d}" for number in range(1, self._report.cards + 1)]
        if [row["card_id"] for row in rows] != names:
            self._wrong(f"the file names {len(rows)} cards, or not in their order")
        return rows

    def _look_at_rows(self, rows: Sequence[dict[str, str]]) -> None:
        with reading(self._system.engine) as connection:
            made = connection.execute(select(cards.c.card_id).order_by(cards.c.card_id))
            if [name for (name,) in made] != [row["card_id"] for row in rows]:
                self._wrong("the cards are not those of the file")
            wanted = select(tokens.c.card, tokens.c.digest)
            kept_tokens = {row.card: row.digest for row in connection.execute(wanted)}
            wanted = select(pins.c.id, pins.c.digest)
            kept_pins = {row.id: row.digest for row in connection.execute(wanted)}
        raw_ids = card_uuids(ACCOUNT, [row["card_id"] for row in rows])
        ids = [UUID(bytes=raw) for raw in raw_ids]
        told = Peppers.read(TOKEN_PEPPERS).hash_tokens(ACCOUNT, [row["token"] for row in rows])
        if kept_tokens != dict(zip(ids, told.digests, strict=True)):
            self._wrong("the tokens are not those of the file")
        told = Peppers.read(PIN_PEPPERS).hash_pins(raw_ids, [row["pin"] for row in rows])
        if kept_pins != dict(zip(ids, told.digests, strict=True)):
            self._wrong("the PINs are not those of the file")

    def _look_at_events(self) -> None:
        told = {event["id"]: event for event in self._system.events_of("batch.completed")}
        if len(told) != 1:
            self._wrong(f"{len(told)} events say that the order is complete")
        for event in told.values():
            file = event["data"]["file"]
            if (file["sha256"], file["cards"]) != (self._digest, self._report.cards):
                self._wrong("what was told of the file isn't so")

    def _pay(self, rows: Sequence[dict[str, str]]) -> None:
        names = []
        for row in rows:
            name, load = row["card_id"], {"amount": 500, "currency": "NOK"}
            self._system.send("cards.activate", f"on-{name}", card_id=name, **load)
            self._system.answers(f"on-{name}")
            named = {"token": row["token"], "pin": row["pin"], "ref_id": "pay"}
            self._system.send("transactions.create", f"pay-{name}", **named, **load)
            names.append(f"pay-{name}")
        refused = [told for told in self._system.types(*names) if told != "card.drawn_down"]
        if refused:
            self._wrong(f"{len(refused)} tokens of the file don't open their cards: {refused[0]}")


def run(
    folder: Path,
    server: Postgres,
    *,
    cards_wanted: int,
    kills: int,
    seed: int,
    spoil: Callable[[System], None] = lambda _: None,
) -> Report:
    """Order cards on servers of its own, and kill what makes them; say what was seen.

    `spoil` is done to the system before it is looked at.
    """
    report = Report(cards_wanted, kills, seed)
    with valkey(folder / "broker") as broker, servers.database(server) as url:
        upgrade(url)
        with system(folder, database_url=url, broker_url=broker.url) as running:
            return Run(running, server, broker, report, spoil=spoil).run()


def main() -> int:
    """Run on servers of its own; print what was seen; 1 if anything was wrong."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--cards", type=int, default=100_000)
    options.add_argument("--kills", type=int, default=200)
    options.add_argument("--seed", type=int, default=1)
    asked = options.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="orders-") as folder,
        servers.postgres(durable=True) as server,
    ):
        report = run(
            Path(folder), server, cards_wanted=asked.cards, kills=asked.kills, seed=asked.seed
        )
    sys.stdout.write(f"{report}\n")
    return 0 if report.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
