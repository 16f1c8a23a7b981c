"""Messages from the queue to their commit, and what each kind of failure means for them.

refusal      an answer like any other; not a failure
unreadable   Failed: a dead letter with the reason
race         another commit has made the same before: rolled back and tried again at once
transient    rolled back and tried again until it works; Returned when the worker stops
locked       another session holds a row for longer than LOCK_TIMEOUT_MS: Waiting, and so is what
             needs the same rows and comes later; the rest of the group is done without it
defect       rolled back; each message of the group is started again alone, at most 5 times in
             all; then Failed
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count, groupby
from time import perf_counter, sleep

import structlog
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from card_worker.batches.chunks import Chunk, do, first_chunks, note_trouble
from card_worker.contracts.commands import CHUNK, Command, InvalidCommand
from card_worker.contracts.dead_letters import DeadLetterReason
from card_worker.contracts.enums import EventType
from card_worker.contracts.message import (
    NO_VAULT,
    Unreadable,
    UnreadableItem,
    read_commands,
    read_query,
)
from card_worker.contracts.queries import QUERIES, Look, Query
from card_worker.domain.answers import Answer
from card_worker.domain.needs import needs
from card_worker.handler import handle
from card_worker.pauses import described
from card_worker.query_handler import Seen, look, look_as_holder
from card_worker.secret_issuer import Mint
from card_worker.secrets.vault import Vault
from card_worker.storage import outbox
from card_worker.storage.contention import Contention, Row, find_contention
from card_worker.storage.engine import LOCK_TIMEOUT_AGAIN_MS, LOCK_TIMEOUT_MS, begin, reading
from card_worker.storage.errors import is_retryable, own_fault
from card_worker.storage.pin_attempts import guessing, note_guesses
from card_worker.worker.dead_letters import (
    DeadLetterAt,
    DeadLetters,
    dead_letter_of_items,
    describe_defect,
    log_defect,
)
from card_worker.worker.messages import Answered, Failed, Fate, Message, Returned, Shown, Waiting
from card_worker.worker.retries import Blocked, Interrupted, Retries
from card_worker.worker.starts import Starts

BATCH_COMPLETED = EventType.BATCH_COMPLETED
BEGINNINGS = frozenset(
    [
        EventType.BATCH_ACCEPTED,
        EventType.BATCH_APPROVED,
        EventType.BATCH_CANCELLED,
        EventType.BATCH_RECALLING,
    ]
)
"""What tells that something begins which is done chunk by chunk."""
DEATHS_TOGETHER_MAX = 1
"""A message of which more workers than this have died is started alone: it may be what kills."""
RESTS = 9.0
"""So many times as long as a chunk has taken, its worker leaves the database to those who wait for
answers, if there are any. An order then takes a tenth of what one worker could do."""
NAP_S_MAX = 5.0
"""Within a commit, which PostgreSQL ends when it is left alone for IDLE_MAX_S."""
TOLD_BY_CHUNKS = frozenset(
    [
        *(type for type in EventType if type.startswith("batch.")),
        *(EventType.CARD_BLOCKED, EventType.CARD_UNBLOCKED, EventType.CARD_CLOSED),
        *(EventType.CARD_UPDATED, EventType.COMMAND_REJECTED),
    ]
)
"""What chunks tell of themselves, and of the cards that they call back. Tills wait for others."""
IDS_SHOWN_MAX = 10

_UNKNOWN = Contention({}, frozenset())
_CHUNK = TypeAdapter(Chunk)

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Read:
    """A message with what could be read of it."""

    message: Message
    parts: list[Command | UnreadableItem]

    @property
    def commands(self) -> list[Command]:
        return [part for part in self.parts if not isinstance(part, UnreadableItem)]

    @property
    def unreadable(self) -> list[UnreadableItem]:
        return [part for part in self.parts if isinstance(part, UnreadableItem)]

    @property
    def is_suspect(self) -> bool:
        """Whether the message may be what kills the workers that take it."""
        return self.message.deaths > DEATHS_TOGETHER_MAX


def _ask_nobody(_: Sequence[Chunk]) -> None:
    """Leave it to the sweep."""


class Delivery:
    """Takes messages to their commit.

    `stopping` says whether the worker has been told to stop, `vault` keys tokens and PINs,
    `put_files` starts putting sealed files in place and returns at once, `letters_to` names who may
    open what is secret in dead letters, `ask` sends messages that ask for chunks.
    """

    def __init__(
        self,
        engine: Engine,
        stopping: Callable[[], bool],
        *,
        vault: Vault = NO_VAULT,
        put_files: Callable[[], None] = lambda: None,
        letters_to: Sequence[str] = (),
        ask: Callable[[Sequence[Chunk]], None] = _ask_nobody,
    ) -> None:
        self._engine = engine
        # Whether others wait while chunks are made; those whom this worker serves, or another one.
        self._newest: int | None = None
        self._in_company = self._has_served = False
        self._rested: list[float] = []
        self._ask = ask
        self._put_files = put_files
        self._mint = Mint(vault)
        self._stopping = stopping
        self._retries = Retries(stopping)
        self._dead_letters = DeadLetters(engine, self._retries, letters_to)
        self._starts = Starts(engine)

    def deliver(
        self, messages: Sequence[Message], locked: frozenset[Row] = frozenset()
    ) -> list[Fate]:
        """Return the fate of each message, in their order.

        Those that are well are one group: handled together, in one commit. One that may be what
        kills is started alone, in its place among the others. `locked` are rows that earlier
        messages wait for.
        """
        fates: dict[int, Fate] = {}
        reads: dict[int, _Read] = {}
        for place, message in enumerate(messages):
            if message.task in QUERIES or message.task == CHUNK:
                continue
            read = self._read(message)
            if isinstance(read, _Read):
                reads[place] = read
            else:
                fates[place] = read
        held = set(locked)
        fates |= self._deliver_in_order(reads, held)
        # After the commit, so that they see what was sent before them.
        for place, message in enumerate(messages):
            if message.task in QUERIES:
                fates[place] = self._show(message)
        for place, message in enumerate(messages):
            if message.task == CHUNK:
                fates[place] = self._work(message)
        waiting = [place for place, fate in fates.items() if isinstance(fate, Waiting)]
        if waiting:
            log.warning("rows locked by another session, messages wait", messages=len(waiting))
            fates |= dict.fromkeys(waiting, Waiting(frozenset(held)))
        return [fates[place] for place in range(len(messages))]

    def _deliver_in_order(self, reads: dict[int, _Read], locked: set[Row]) -> dict[int, Fate]:
        """Bring messages with commands to their ends, none before an earlier one."""
        fates: dict[int, Fate] = {}
        for is_suspect, part in groupby(reads.items(), lambda item: item[1].is_suspect):
            group = dict(part)
            if fates and self._stopping():
                # Where an earlier message goes back to its queue, a later one mustn't be done.
                fates |= dict.fromkeys(group, Returned())
            elif is_suspect:
                fates |= self._each_alone(group, locked)
            else:
                fates |= self._deliver_together(group, locked)
        return fates

    def _read(self, message: Message) -> _Read | Fate:
        """Return what a message says; its fate, if it can't be read."""
        try:
            parts = read_commands(message.task, message.id, message.kwargs, self._mint.vault)
        except Unreadable as problem:
            return self._dead_letters.dead_letter(message, problem.reason, problem.detail)
        except Exception as defect:
            # Reading depends on nothing but the message: another start would end the same.
            log_defect(defect, messages=1)
            return self._dead_letters.dead_letter(
                message, DeadLetterReason.DEFECT, type(defect).__name__
            )
        return _Read(message, parts)

    def dead_letter(self, letters: Sequence[DeadLetterAt]) -> bool:
        """Store dead letters in one commit. Their messages may be acknowledged afterwards.

        Return False if that failed: the messages go back to their queues.
        """
        return self._dead_letters.store(letters)

    def _deliver_together(self, group: dict[int, _Read], locked: set[Row]) -> dict[int, Fate]:
        """Commit a group, around the rows that are `locked`; add those that turn out to be."""
        reads = list(group.values())
        waited = bool(locked) or any(read.message.is_waiting for read in reads)
        try:
            counted = self._count_returned(reads)
            if not waited:
                try:
                    fates = self._retries.run(partial(self._commit, reads))
                except Blocked:
                    waited = True
            if waited:
                fates = self._commit_around_locks(reads, locked)
                waiting = [at for at in counted if isinstance(fates[at], Waiting)]
                self._starts.take_back([reads[at].message for at in waiting])
        except Interrupted:
            return dict.fromkeys(group, Returned())
        except Blocked:
            for read in reads:
                locked |= _rows(_UNKNOWN, read)
            return dict.fromkeys(group, Waiting())
        except Exception as defect:
            log_defect(defect, messages=len(group))
            return self._each_alone(group, locked, defect)
        return dict(zip(group, fates, strict=True))

    def _count_returned(self, reads: Sequence[_Read]) -> list[int]:
        """Note a start of each message of which a worker has died; return their places."""
        places = [at for at, read in enumerate(reads) if read.message.deaths]
        if places:
            messages = [reads[at].message for at in places]
            self._retries.run(partial(self._starts.count, messages))
        return places

    def _commit_around_locks(self, reads: Sequence[_Read], locked: set[Row]) -> list[Fate]:
        """Commit the messages that need no locked row, together or one by one.

        Those that need one wait, and so do all later ones that need a row which one of them needs:
        what is done to a card stays in its order.
        """
        contention = self._look_for_contention(reads, locked)
        rows = [_rows(contention, read) for read in reads]
        fates: dict[int, Fate] = {}
        # What has waited comes first, and apart: where no card of it is locked, but such as the key
        # of a command, it would fail the commit of the others each time.
        for is_waiting in (True, False):
            places = [at for at, read in enumerate(reads) if read.message.is_waiting == is_waiting]
            free = [places[at] for at in _free([rows[at] for at in places], locked)]
            try:
                done = self._retries.run(partial(self._commit_at_once, [reads[at] for at in free]))
            except Blocked:
                done = [self._commit_one(reads[at], rows[at], locked) for at in free]
            fates |= zip(free, done, strict=True)
        return [fates.get(at, Waiting()) for at in range(len(reads))]

    def _commit_one(self, read: _Read, rows: set[Row], locked: set[Row]) -> Fate:
        if not rows & locked:
            with suppress(Blocked):
                (fate,) = self._retries.run(partial(self._commit_at_once, [read]))
                return fate
        locked |= rows
        return Waiting()

    def _commit_at_once(self, reads: Sequence[_Read]) -> list[Fate]:
        return self._commit(reads, lock_timeout_ms=LOCK_TIMEOUT_AGAIN_MS) if reads else []

    def _look_for_contention(self, reads: Sequence[_Read], locked: set[Row]) -> Contention:
        """Return what the messages' names of rows stand for; add what is locked of that."""
        try:
            contention = self._retries.run(partial(self._find_contention, reads))
        except Blocked:
            # A whole table is locked.
            return _UNKNOWN
        locked |= contention.locked
        return contention

    def _find_contention(self, reads: Sequence[_Read]) -> Contention:
        needed = [needs(command) for read in reads for command in read.commands]
        with begin(self._engine, lock_timeout_ms=LOCK_TIMEOUT_AGAIN_MS) as (connection, _):
            return find_contention(connection, needed)

    def _each_alone(
        self, group: dict[int, _Read], locked: set[Row], defect: Exception | None = None
    ) -> dict[int, Fate]:
        """Start each message alone, but those that need a `locked` row; add those that turn up."""
        fates: dict[int, Fate] = {}
        known: Contention | None = None
        try:
            for place, read in group.items():
                if fates and self._stopping():
                    break
                if locked and known is None:
                    known = self._look_for_contention(list(group.values()), locked)
                fate = self._start_alone(read, known or _UNKNOWN, locked, defect)
                if isinstance(fate, Waiting):
                    known = known or self._look_for_contention(list(group.values()), locked)
                    locked |= _rows(known, read)
                fates[place] = fate
        except Interrupted:
            pass
        return dict.fromkeys(group, Returned()) | fates

    def _start_alone(
        self, read: _Read, known: Contention, locked: set[Row], defect: Exception | None
    ) -> Fate:
        if _rows(known, read) & locked:
            return Waiting()
        in_doubt = bool(locked) or read.message.is_waiting
        lock_timeout_ms = LOCK_TIMEOUT_AGAIN_MS if in_doubt else LOCK_TIMEOUT_MS
        start = partial(self._commit_counted, read, lock_timeout_ms)
        return self._alone(read.message, start, defect)

    def _alone(
        self,
        message: Message,
        start: Callable[[], Fate],
        defect: Exception | None = None,
        give_up: Callable[[Failed], None] = lambda _: None,
    ) -> Fate:
        """Start a message by itself until it comes to an end, STARTS_MAX times at most.

        Each start but the first is noted before, in a commit of its own, so that one which kills
        its process is counted too. The first needs no note, so an ordinary message costs none.
        `give_up` is called before the message becomes a dead letter, perhaps more than once.
        """
        with structlog.contextvars.bound_contextvars(message_id=message.id, task=message.task):
            while True:
                failed = defect is not None
                try:
                    if self._retries.run(partial(self._starts.has_left, message, failed=failed)):
                        return self._retries.run(start)
                    failure = _failure(defect)
                    self._retries.run(partial(give_up, failure))
                except Interrupted:
                    return Returned()
                except Blocked:
                    self._starts.take_back([message])
                    return Waiting()
                except Exception as another:
                    log_defect(another, messages=1)
                    defect = another
                    continue
                fate = self._dead_letters.dead_letter(message, failure.reason, failure.detail)
                if isinstance(fate, Failed):
                    self._starts.forget([message])
                return fate

    def _work(self, message: Message) -> Fate:
        """Do a chunk of what is done to the cards of a batch."""
        try:
            chunk = _CHUNK.validate_python(message.kwargs)
        except ValidationError:
            return self._dead_letters.dead_letter(message, DeadLetterReason.CHUNK_INVALID)
        # How often it may have been begun before.
        begun = count(message.returns)
        counted = partial(self._do_chunk, message, chunk, begun, counted=True)
        if message.deaths > DEATHS_TOGETHER_MAX:
            return self._chunk_alone(message, chunk, counted)
        try:
            return self._retries.run(partial(self._do_chunk, message, chunk, begun))
        except Interrupted:
            return Returned()
        except Blocked:
            return Waiting()
        except Exception as defect:
            log_defect(defect, messages=1)
            return self._chunk_alone(message, chunk, counted, defect)

    def _chunk_alone(
        self,
        message: Message,
        chunk: Chunk,
        start: Callable[[], Fate],
        defect: Exception | None = None,
    ) -> Fate:
        return self._alone(message, start, defect, partial(self._note_trouble, chunk))

    def _note_trouble(self, chunk: Chunk, failure: Failed) -> None:
        try:
            note_trouble(self._engine, chunk, failure.explanation)
        except DBAPIError as error:
            if is_retryable(error):
                raise
            log.warning("trouble of a batch not noted", **described(error))

    def _do_chunk(
        self, message: Message, chunk: Chunk, begun: Iterator[int], *, counted: bool = False
    ) -> Fate:
        started = perf_counter()
        # SQLite has one commit at a time: who rested within it would keep out whom he rests for.
        rests = self._in_company and self._engine.dialect.name == "postgresql"
        company = self._give_way if rests else None
        again = next(begun) > 0
        lock_timeout_ms = LOCK_TIMEOUT_AGAIN_MS if message.is_waiting else LOCK_TIMEOUT_MS
        following = do(
            self._engine, self._mint, chunk, company, again=again, lock_timeout_ms=lock_timeout_ms
        )
        seconds = perf_counter() - started
        if counted:
            self._starts.forget([message])
        self._in_company = self._others_are_served()
        if self._rested:
            # It has given way in between, and only the last piece is left to rest from.
            seconds, self._rested = self._rested[-1], []
        rest_s = seconds * RESTS if self._in_company else 0.0
        self._has_served = self._has_served and self._in_company
        if following:
            self._ask_for(following)
        else:
            self._put_files()
        return Answered((), rest_s)

    def _give_way(self, seconds: float) -> None:
        """Let others at the database after so many seconds of work.

        Not when they are those whom this worker itself serves: they wait for it to get on.
        """
        if not self._has_served:
            self._rested.append(seconds)
            sleep(min(seconds * RESTS, NAP_S_MAX))

    def _others_are_served(self) -> bool:
        """Say whether anybody got answers since this was asked last, in whichever process."""
        with reading(self._engine) as connection:
            before, self._newest = self._newest, outbox.newest(connection)
            return before is not None and outbox.is_told(connection, before, but=TOLD_BY_CHUNKS)

    def _show(self, message: Message) -> Fate:
        try:
            query = read_query(message.task, message.id, message.kwargs, self._mint.vault)
            return Shown(self._retries.run(partial(self._look, query)))
        except Interrupted:
            return Returned()
        except Blocked:
            return Waiting()
        except Unreadable as problem:
            return self._dead_letters.dead_letter(message, problem.reason, problem.detail)
        except Exception as defect:
            # It has changed nothing, and would find the same again.
            log_defect(defect, messages=1)
            return self._dead_letters.dead_letter(
                message, DeadLetterReason.DEFECT, type(defect).__name__
            )

    def _look(self, query: Query | InvalidCommand) -> Seen:
        if isinstance(query, Look) and (query.token is not None or query.pin is not None):
            self._note_guesses([query])
            with begin(self._engine) as (connection, now):
                return look_as_holder(connection, query, now)
        with reading(self._engine) as connection:
            return look(connection, query)

    def _commit(
        self,
        reads: Sequence[_Read],
        *,
        counted: bool = False,
        lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    ) -> list[Fate]:
        started = perf_counter()
        commands = [command for read in reads for command in read.commands]
        self._note_guesses(commands, lock_timeout_ms)
        with begin(self._engine, lock_timeout_ms=lock_timeout_ms) as (connection, now):
            answers = handle(connection, commands, now, self._mint)
        self._has_served = True
        _log_group(commands, answers, messages=len(reads), ms=(perf_counter() - started) * 1000)
        self._follow_up(answers)
        self._starts.forget([one.message for one in reads if counted or one.message.deaths])
        left = iter(answers)
        fates = [Answered(tuple(next(left) for _ in read.commands)) for read in reads]
        return [self._keep_parts(read, fate) for read, fate in zip(reads, fates, strict=True)]

    def _keep_parts(self, read: _Read, fate: Answered) -> Fate:
        """Keep the parts of a list that can't be read. Without that, the list comes again."""
        letter = partial(dead_letter_of_items, read.message, read.unreadable, len(read.parts))
        if not read.unreadable or self._dead_letters.store([letter]):
            return fate
        return Returned()

    def _commit_counted(self, read: _Read, lock_timeout_ms: int) -> Fate:
        (fate,) = self._commit([read], counted=True, lock_timeout_ms=lock_timeout_ms)
        return fate

    def _follow_up(self, answers: Sequence[Answer]) -> None:
        """Do what begins with a commit, and a sweep does later where this fails."""
        begun = [answer.id for answer in answers if answer.type in BEGINNINGS]
        if begun:
            try:
                self._ask_for(first_chunks(self._engine, begun))
            except DBAPIError as error:
                log.warning("chunks put off", error=type(error).__name__)
        if any(answer.type is BATCH_COMPLETED for answer in answers):
            self._put_files()

    def _ask_for(self, chunks: Sequence[Chunk]) -> None:
        try:
            self._ask(chunks)
        except Exception as error:
            log.warning("chunks put off", error=type(error).__name__)

    def _note_guesses(
        self, asked: Sequence[Command | Look], lock_timeout_ms: int = LOCK_TIMEOUT_MS
    ) -> None:
        """Note that PINs were given: in a commit of its own, before any of them is compared."""
        if guessing(asked):
            with own_fault(), begin(self._engine, lock_timeout_ms=lock_timeout_ms) as (c, now):
                note_guesses(c, asked, now)


def _rows(known: Contention, read: _Read) -> set[Row]:
    """Return the rows that a message needs: their names, and the ids of the cards among them."""
    return known.rows(map(needs, read.commands))


def _failure(defect: Exception | None) -> Failed:
    """Return why a message that has had all its starts becomes a dead letter."""
    if defect is None:
        return Failed(DeadLetterReason.STARTS_EXHAUSTED)
    return Failed(DeadLetterReason.DEFECT, describe_defect(defect))


def _free(rows: Sequence[set[Row]], locked: set[Row]) -> list[int]:
    """Return the places of those that need no locked row, nor one that an earlier one waits for."""
    free = []
    for place, needed in enumerate(rows):
        if needed & locked:
            locked |= needed
        else:
            free.append(place)
    return free


def _log_group(
    commands: Sequence[Command], answers: Sequence[Answer], *, messages: int, ms: float
) -> None:
    refused = [
        (command, answer)
        for command, answer in zip(commands, answers, strict=True)
        if answer.reason
    ]
    for command, answer in refused:
        log.info(
            "command refused",
            command_id=command.command_id,
            account_id=command.account_id,
            command=command.command,
            reason=answer.reason,
        )
    log.info(
        "group committed",
        messages=messages,
        commands=len(commands),
        refused=len(refused),
        ms=round(ms, 1),
        command_ids=[command.command_id for command in commands[:IDS_SHOWN_MAX]],
    )
