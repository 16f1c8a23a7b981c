"""Messages from the queue to their commit, and what each kind of failure means for them.

refusal      an answer like any other; not a failure
unreadable   Failed: a dead letter with the reason
race         another commit has inserted the same row: rolled back and tried again at once
transient    rolled back and tried again until it succeeds; Returned when the worker stops
locked       another session holds a row for longer than LOCK_TIMEOUT_MS: Waiting, and so are later
             messages that need the same rows; the other messages of the group are committed
defect       rolled back; each message of the group is started again alone, at most 5 times in
             all; then Failed
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby

import structlog
from sqlalchemy import Engine

from card_worker.batches.chunks import Chunk
from card_worker.contracts.commands import CHUNK
from card_worker.contracts.dead_letters import Unreadable
from card_worker.contracts.message import NO_VAULT, read_commands
from card_worker.contracts.queries import QUERIES
from card_worker.defects import log_defect
from card_worker.secret_issuer import SecretIssuer
from card_worker.secrets.peppers import Peppers
from card_worker.secrets.signing import Signatures
from card_worker.secrets.vault import Vault
from card_worker.storage.contention import Contention, Row
from card_worker.storage.engine import (
    LOCK_TIMEOUT_MS,
    SHORT_LOCK_TIMEOUT_MS,
    RegistryChanged,
)
from card_worker.worker.chunks import Chunks
from card_worker.worker.dead_letters import (
    UNAUTHENTICATED_MAX,
    DeadLetterAt,
    DeadLetters,
)
from card_worker.worker.fair_share import FairShare
from card_worker.worker.groups import Groups
from card_worker.worker.isolation import Isolation, is_suspect
from card_worker.worker.locked_rows import UNKNOWN, LockedRows, rows_of
from card_worker.worker.messages import Message, Outcome, ReadMessage, Returned, Waiting
from card_worker.worker.queries import Queries
from card_worker.worker.resources import Resources
from card_worker.worker.retries import Blocked, Interrupted, Retries
from card_worker.worker.senders import Senders
from card_worker.worker.starts import Starts

log = structlog.get_logger(__name__)


class Delivery:
    """Takes messages to their commit.

    `stopping` says whether the worker has been told to stop; `vault` keys tokens and PINs;
    `put_files` starts writing files to the file store and returns at once; `recipients` are the age
    recipients of the secrets in dead letters; `request` sends messages for chunks (by default a
    sweep does that later); `peppers` are those of the HMAC keys of producers, and `signatures` says
    which commands all accounts accept at most; `unauthenticated_max` is how many messages of
    unknown senders are stored per UTC day.
    """

    def __init__(
        self,
        engine: Engine,
        stopping: Callable[[], bool],
        *,
        vault: Vault = NO_VAULT,
        put_files: Callable[[], None] = lambda: None,
        recipients: Sequence[str] = (),
        request: Callable[[Sequence[Chunk]], None] = lambda _: None,
        peppers: Peppers | None = None,
        signatures: Signatures = Signatures.ACCEPTED,
        unauthenticated_max: int = UNAUTHENTICATED_MAX,
    ) -> None:
        self._vault, self._stopping = vault, stopping
        self._retries, self._starts = Retries(stopping), Starts(engine)
        is_required = signatures is Signatures.REQUIRED
        self._senders = Senders(engine, self._retries, peppers, is_required=is_required)
        self._dead_letters = DeadLetters(
            engine, self._retries, recipients, unauthenticated_max=unauthenticated_max
        )
        resources = Resources(
            engine=engine,
            issuer=SecretIssuer(vault),
            retries=self._retries,
            starts=self._starts,
            senders=self._senders,
            dead_letters=self._dead_letters,
            fair_share=FairShare(engine),
            put_files=put_files,
            request=request,
        )
        self._chunks, self._queries = Chunks(resources), Queries(resources)
        self._groups = Groups(resources, self._chunks)
        self._locked_rows = LockedRows(resources, self._groups)
        self._isolation = Isolation(resources)

    def deliver(
        self, messages: Sequence[Message], locked: frozenset[Row] = frozenset()
    ) -> list[Outcome]:
        """Return the outcome of each message, in their order.

        Messages with commands are handled as one group, in one commit; one that may kill its worker
        is started alone, in its place among the others. `locked` are rows that earlier messages
        wait for.
        """
        self._senders.expire()
        outcomes: dict[int, Outcome] = {}
        all_locked = set(locked)
        try:
            while len(outcomes) < len(messages):
                try:
                    self._deliver(messages, all_locked, outcomes)
                except RegistryChanged:
                    log.info("registry of producers has changed")
                    self._senders.refresh()
        except Interrupted:
            pass
        waiting = [place for place, end in outcomes.items() if isinstance(end, Waiting)]
        if waiting:
            log.warning("rows locked by another session, messages wait", messages=len(waiting))
            outcomes |= dict.fromkeys(waiting, Waiting(frozenset(all_locked)))
        return [outcomes.get(place, Returned()) for place in range(len(messages))]

    def _deliver(
        self, messages: Sequence[Message], locked: set[Row], outcomes: dict[int, Outcome]
    ) -> None:
        """Add the outcomes of the messages that have none yet; add rows found locked.

        Raises RegistryChanged and Interrupted; what is done then is in the outcomes.
        """
        left = [(place, each) for place, each in enumerate(messages) if place not in outcomes]
        with_commands = {
            place: each for place, each in left if each.task not in QUERIES and each.task != CHUNK
        }
        self._deliver_in_order(self._read(with_commands, outcomes), locked, outcomes)
        # After the commit, so that queries see the effects of earlier messages.
        for place, message in left:
            if message.task in QUERIES:
                outcomes[place] = self._queries.deliver(message)
        for place, message in left:
            if message.task == CHUNK:
                outcomes[place] = self._chunks.deliver(message)

    def dead_letter(self, letters: Sequence[DeadLetterAt]) -> bool:
        """Store dead letters in one commit. Their messages may be acknowledged afterwards.

        Return False if that failed: the messages go back to their queues.
        """
        return self._dead_letters.store(letters)

    def _read(
        self, messages: Mapping[int, Message], outcomes: dict[int, Outcome]
    ) -> dict[int, ReadMessage]:
        """Return the commands of messages; store those that are unreadable as dead letters.

        All are verified with one version of the registry, and refused for their senders only by one
        that was read after they were taken. Raises Interrupted.
        """
        while True:
            reads: dict[int, ReadMessage] = {}
            failed: dict[int, Exception] = {}
            for place, message in messages.items():
                try:
                    reads[place] = self._read_verified(message)
                except Interrupted:
                    raise
                except Exception as error:
                    # Reading depends on the message only: the next try would fail in the same way.
                    failed[place] = error
            reasons = {item.reason for read in reads.values() for item in read.unreadable}
            reasons |= {error.reason for error in failed.values() if isinstance(error, Unreadable)}
            if not self._senders.refresh_for(reasons):
                break
        unread = [(messages[place], error) for place, error in failed.items()]
        outcomes |= zip(failed, self._dead_letters.dead_letter_unread(unread), strict=True)
        return reads

    def _read_verified(self, message: Message) -> ReadMessage:
        sender, signed_by = self._senders.authenticate(message.signature)
        items = read_commands(
            message.task,
            message.id,
            message.kwargs,
            self._vault,
            message.conditions,
            signed_by=signed_by,
        )
        return ReadMessage(message, items, sender)

    def _deliver_in_order(
        self, reads: dict[int, ReadMessage], locked: set[Row], outcomes: dict[int, Outcome]
    ) -> None:
        """Deliver messages with commands, none before an earlier one."""
        for is_alone, part in groupby(reads.items(), lambda item: is_suspect(item[1].message)):
            group = dict(part)
            if not outcomes.keys().isdisjoint(reads) and self._stopping():
                # If an earlier message goes back to its queue, a later one must not be handled.
                outcomes |= dict.fromkeys(group, Returned())
            elif is_alone:
                self._deliver_each(group, locked, outcomes)
            else:
                self._deliver_group(group, locked, outcomes)

    def _deliver_group(
        self, group: dict[int, ReadMessage], locked: set[Row], outcomes: dict[int, Outcome]
    ) -> None:
        """Commit a group, except messages that need `locked` rows; add rows found locked."""
        reads = list(group.values())
        is_blocked = bool(locked) or any(read.message.is_waiting for read in reads)
        try:
            counted = self._count_returned(reads)
            if not is_blocked:
                try:
                    done = self._retries.run(partial(self._groups.commit, reads))
                except Blocked:
                    is_blocked = True
            if is_blocked:
                done = self._locked_rows.commit(reads, locked)
                waiting = [at for at in counted if isinstance(done[at], Waiting)]
                self._starts.take_back([reads[at].message for at in waiting])
            outcomes |= zip(group, done, strict=True)
        except Interrupted:
            outcomes |= dict.fromkeys(group, Returned())
        except Blocked:
            for read in reads:
                locked |= rows_of(UNKNOWN, read)
            outcomes |= dict.fromkeys(group, Waiting())
        except RegistryChanged:
            raise
        except Exception as defect:
            log_defect(defect, messages=len(group))
            self._deliver_each(group, locked, outcomes, defect)

    def _count_returned(self, reads: Sequence[ReadMessage]) -> list[int]:
        """Count a start of each message of which a worker has died; return their places."""
        places = [at for at, read in enumerate(reads) if read.message.deaths]
        if places:
            messages = [reads[at].message for at in places]
            self._retries.run(partial(self._starts.count, messages))
        return places

    def _deliver_each(
        self,
        group: dict[int, ReadMessage],
        locked: set[Row],
        outcomes: dict[int, Outcome],
        defect: Exception | None = None,
    ) -> None:
        """Start each message alone, except those that need `locked` rows; add rows found locked."""
        contention: Contention | None = None
        try:
            for number, (place, read) in enumerate(group.items()):
                if number and self._stopping():
                    break
                if locked and contention is None:
                    contention = self._locked_rows.find(list(group.values()), locked)
                outcome = self._start_alone(read, contention or UNKNOWN, locked, defect)
                if isinstance(outcome, Waiting):
                    contention = contention or self._locked_rows.find([*group.values()], locked)
                    locked |= rows_of(contention, read)
                outcomes[place] = outcome
        except Interrupted:
            pass
        outcomes |= dict.fromkeys(group.keys() - outcomes.keys(), Returned())

    def _start_alone(
        self, read: ReadMessage, contention: Contention, locked: set[Row], defect: Exception | None
    ) -> Outcome:
        if rows_of(contention, read) & locked:
            return Waiting()
        may_block = bool(locked) or read.message.is_waiting
        lock_timeout_ms = SHORT_LOCK_TIMEOUT_MS if may_block else LOCK_TIMEOUT_MS
        start = partial(self._groups.commit_counted, read, lock_timeout_ms)
        return self._isolation.run(read.message, start, defect)
