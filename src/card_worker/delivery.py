"""Messages from the queue to their commit, and what each kind of failure means for them.

refusal      an answer like any other; not a failure
unreadable   Buried: a dead letter, with what is wrong
transient    rolled back and tried again until it works; Returned when the worker stops
locked       another session holds a row for longer than LOCK_TIMEOUT_MS: Waiting, and so is what
             needs the same rows and comes later; the rest of the group is done without it
defect       rolled back; each message of the group is started again alone, at most 5 times in
             all; then Buried
"""

import json
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import count
from time import monotonic, perf_counter, sleep
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

import structlog
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from card_worker.batches.chunks import Chunk, do, first_chunks, note_trouble
from card_worker.contracts.commands import CHUNK, Command, InvalidCommand
from card_worker.contracts.kinds import EventType
from card_worker.contracts.message import (
    NO_VAULT,
    Letter,
    Unreadable,
    describe_letters,
    read_commands,
    read_query,
)
from card_worker.contracts.queries import QUERIES, Look, Query
from card_worker.domain.answers import Answer
from card_worker.domain.needs import needs
from card_worker.handler import handle
from card_worker.minting import Mint
from card_worker.pauses import Pauses, described, keep_trying
from card_worker.reader import Seen, look, look_as_holder
from card_worker.secrets.vault import Vault
from card_worker.storage import dead_letters, outbox
from card_worker.storage.contention import Contention, Name, find_contention
from card_worker.storage.dead_letters import DeadLetter
from card_worker.storage.engine import LOCK_TIMEOUT_AGAIN_MS, LOCK_TIMEOUT_MS, begin, reading
from card_worker.storage.errors import OwnFault, is_lock_timeout, is_retryable, needs_operator
from card_worker.storage.guesses import guessing, note_guesses

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
STARTS_MAX = 5
RETURNS_TOGETHER_MAX = 1
"""A message that came back more often than this is started alone: it may be what kills."""
PAUSE_S_MAX = 5.0
STOP_CHECK_S = 0.1
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

Done = TypeVar("Done")
LetterAt: TypeAlias = Callable[[datetime], DeadLetter]
"""A letter, but for the time of the commit that keeps it."""

_CHUNK = TypeAdapter(Chunk)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A task message that was found readable; `headers` and `body` are it as it came.

    `returns` says how often it has come back to its queue.
    """

    task: str
    id: str
    queue: str | None
    kwargs: Mapping[str, Any]
    body: bytes
    headers: Mapping[str, Any] | None = None
    returns: int = 0
    is_waiting: bool = False
    """Whether it is delivered again because a row it needs was locked."""


@dataclass(frozen=True, slots=True)
class Answered:
    """Committed, with the answers to the message's commands."""

    answers: tuple[Answer, ...]
    rest_s: float = 0.0
    """How long to leave the database to others before the next message of its kind."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A query, with what it asked to see."""

    seen: Seen


@dataclass(frozen=True, slots=True)
class Buried:
    """Kept as a dead letter: done with, but not as its sender hoped."""

    why: str


@dataclass(frozen=True, slots=True)
class Returned:
    """Untouched: the worker stops before the database would take it."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Untouched: another session has locked a row. To be delivered again, before later messages."""


Fate: TypeAlias = Answered | Shown | Buried | Returned | Waiting


class Interrupted(Exception):
    """The worker has been told to stop while the database was away."""


class Blocked(Exception):
    """Another session has locked a row for longer than the lock timeout."""


@dataclass(slots=True)
class _Read:
    """A message with what could be read of it."""

    message: Message
    parts: list[Command | Letter]

    @property
    def commands(self) -> list[Command]:
        return [part for part in self.parts if not isinstance(part, Letter)]

    @property
    def letters(self) -> list[Letter]:
        return [part for part in self.parts if isinstance(part, Letter)]


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
        self._letters_to = letters_to
        self._put_files = put_files
        self._mint = Mint(vault)
        self._stopping = stopping
        self._unkept = Pauses(first_s=0.2, max_s=2.0)

    def deliver(self, messages: Sequence[Message]) -> list[Fate]:
        """Return the fate of each message, in their order.

        Those that are well are one group: handled together, in one commit. One that may be what
        kills is started alone, in its place among the others.
        """
        fates: dict[int, Fate] = {}
        together: dict[int, _Read] = {}
        locked: set[Name | UUID] = set()
        for place, message in enumerate(messages):
            if message.task in QUERIES or message.task == CHUNK:
                continue
            read = self._read(message)
            if not isinstance(read, _Read):
                fates[place] = read
            elif message.returns > RETURNS_TOGETHER_MAX:
                fates |= self._deliver_together(together, locked)
                fates |= self._each_alone({place: read}, locked)
                together = {}
            else:
                together[place] = read
        fates |= self._deliver_together(together, locked)
        # After the commit, so that they see what was sent before them.
        for place, message in enumerate(messages):
            if message.task in QUERIES:
                fates[place] = self._show(message)
        for place, message in enumerate(messages):
            if message.task == CHUNK:
                fates[place] = self._work(message)
        ends = [fates[place] for place in range(len(messages))]
        if waiting := sum(isinstance(fate, Waiting) for fate in ends):
            log.warning("rows locked by another session, messages wait", messages=waiting)
        return ends

    def _read(self, message: Message) -> _Read | Fate:
        """Return what a message says; its fate, if it can't be read."""
        try:
            parts = read_commands(message.task, message.id, message.kwargs, self._mint.vault)
        except Unreadable as problem:
            return self._bury(message, problem.why, problem.detail)
        except Exception as defect:
            # Reading depends on nothing but the message: another start would end the same.
            _log_defect(defect, messages=1)
            return self._bury(message, f"defect: {type(defect).__name__}")
        return _Read(message, parts)

    def bury(self, letters: Sequence[LetterAt]) -> bool:
        """Keep messages as dead letters, in one commit; they may be acknowledged afterwards.

        Return False if they couldn't be kept: then they go back to their queue. Only what passes by
        itself is waited for: if nothing but the letters' table is at fault, commands can go on.
        """
        try:
            _log_letters(self._persistently(partial(self._keep, letters), gives_up=needs_operator))
        except Interrupted:
            return False
        except Exception as defect:
            # They come again at once; the others shall not stand behind that for ever.
            sleep(self._unkept.log_next("dead letters not kept", defect, alarm=True))
            return False
        return True

    def _deliver_together(
        self, group: dict[int, _Read], locked: set[Name | UUID]
    ) -> dict[int, Fate]:
        """Commit a group, around the rows that are `locked`; add those that turn out to be."""
        if not group:
            return {}
        reads = list(group.values())
        waited = bool(locked) or any(read.message.is_waiting for read in reads)
        try:
            counted = self._count_returned(reads)
            if not waited:
                try:
                    fates = self._persistently(partial(self._commit, reads))
                except Blocked:
                    waited = True
            if waited:
                fates = self._commit_around_locks(reads, locked)
                waiting = [at for at in counted if isinstance(fates[at], Waiting)]
                self._uncount_starts([reads[at].message for at in waiting])
        except Interrupted:
            return dict.fromkeys(group, Returned())
        except Blocked:
            return dict.fromkeys(group, Waiting())
        except Exception as defect:
            _log_defect(defect, messages=len(group))
            return self._each_alone(group, locked, defect)
        return dict(zip(group, fates, strict=True))

    def _count_returned(self, reads: Sequence[_Read]) -> list[int]:
        """Note a start of each message that has come back to its queue; return their places."""
        messages = [read.message for read in reads]
        places = [at for at, one in enumerate(messages) if one.returns and not one.is_waiting]
        if places:
            self._persistently(partial(self._count_starts, [messages[at] for at in places]))
        return places

    def _commit_around_locks(self, reads: Sequence[_Read], locked: set[Name | UUID]) -> list[Fate]:
        """Commit the messages that need no locked row, together or one by one.

        Those that need one wait, and so do all later ones that need a row which one of them needs:
        what is done to a card stays in its order.
        """
        try:
            contention = self._persistently(partial(self._find_contention, reads))
        except Blocked:
            # A whole table is locked.
            contention = Contention({}, frozenset())
        rows = [contention.rows(map(needs, read.commands)) for read in reads]
        locked |= contention.locked
        fates: dict[int, Fate] = {}
        # What has waited comes first, and apart: where no card of it is locked, but such as the key
        # of a command, it would fail the commit of the others each time.
        for is_waiting in (True, False):
            places = [at for at, read in enumerate(reads) if read.message.is_waiting == is_waiting]
            free = [places[at] for at in _free([rows[at] for at in places], locked)]
            try:
                done = self._persistently(partial(self._commit_at_once, [reads[at] for at in free]))
            except Blocked:
                done = [self._commit_one(reads[at], rows[at], locked) for at in free]
            fates |= zip(free, done, strict=True)
        return [fates.get(at, Waiting()) for at in range(len(reads))]

    def _commit_one(self, read: _Read, rows: set[Name | UUID], locked: set[Name | UUID]) -> Fate:
        if not rows & locked:
            with suppress(Blocked):
                (fate,) = self._persistently(partial(self._commit_at_once, [read]))
                return fate
        locked |= rows
        return Waiting()

    def _commit_at_once(self, reads: Sequence[_Read]) -> list[Fate]:
        return self._commit(reads, lock_timeout_ms=LOCK_TIMEOUT_AGAIN_MS) if reads else []

    def _find_contention(self, reads: Sequence[_Read]) -> Contention:
        needed = [needs(command) for read in reads for command in read.commands]
        with begin(self._engine, lock_timeout_ms=LOCK_TIMEOUT_AGAIN_MS) as (connection, _):
            return find_contention(connection, needed)

    def _each_alone(
        self, group: dict[int, _Read], locked: set[Name | UUID], defect: Exception | None = None
    ) -> dict[int, Fate]:
        """Start each message alone, but those that need a `locked` row; add those that turn up."""
        fates: dict[int, Fate] = {}
        unlooked = Contention({}, frozenset())
        for place, read in group.items():
            rows = unlooked.rows(map(needs, read.commands))
            fate: Fate = Waiting()
            if not rows & locked:
                in_doubt = bool(locked) or read.message.is_waiting
                lock_timeout_ms = LOCK_TIMEOUT_AGAIN_MS if in_doubt else LOCK_TIMEOUT_MS
                start = partial(self._commit_counted, read, lock_timeout_ms)
                fate = self._alone(read.message, start, defect)
            if isinstance(fate, Waiting):
                locked |= rows
            fates[place] = fate
        return fates

    def _alone(
        self, message: Message, start: Callable[[], Fate], defect: Exception | None = None
    ) -> Fate:
        """Start a message by itself until it comes to an end, STARTS_MAX times at most.

        Each start but the first is noted before, in a commit of its own, so that one which kills
        its process is counted too. The first needs no note, so an ordinary message costs none.
        """
        with structlog.contextvars.bound_contextvars(message_id=message.id, task=message.task):
            while True:
                try:
                    if self._persistently(partial(self._has_starts_left, message)):
                        return self._persistently(start)
                except Interrupted:
                    return Returned()
                except Blocked:
                    self._uncount_starts([message])
                    return Waiting()
                except Exception as another:
                    _log_defect(another, messages=1)
                    defect = another
                    continue
                return self._bury_started(message, defect)

    def _work(self, message: Message) -> Fate:
        """Do a chunk of what is done to the cards of a batch."""
        try:
            chunk = _CHUNK.validate_python(message.kwargs)
        except ValidationError:
            return self._bury(message, "asks for no chunk")
        # How often it may have been begun before.
        begun = count(message.returns)
        counted = partial(self._do_chunk, message, chunk, begun, counted=True)
        if message.returns > RETURNS_TOGETHER_MAX:
            return self._chunk_alone(message, chunk, counted)
        try:
            return self._persistently(partial(self._do_chunk, message, chunk, begun))
        except Interrupted:
            return Returned()
        except Blocked:
            return Waiting()
        except Exception as defect:
            _log_defect(defect, messages=1)
            return self._chunk_alone(message, chunk, counted, defect)

    def _chunk_alone(
        self,
        message: Message,
        chunk: Chunk,
        start: Callable[[], Fate],
        defect: Exception | None = None,
    ) -> Fate:
        fate = self._alone(message, start, defect)
        if isinstance(fate, Buried):
            try:
                self._persistently(partial(note_trouble, self._engine, chunk, fate.why))
            except Exception as error:
                log.warning("trouble of a batch not noted", **described(error))
        return fate

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
            self._forget_starts([message])
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
            return Shown(self._persistently(partial(self._look, query)))
        except Interrupted:
            return Returned()
        except Blocked:
            return Waiting()
        except Unreadable as problem:
            return self._bury(message, problem.why)
        except Exception as defect:
            # It has changed nothing, and would find the same again.
            _log_defect(defect, messages=1)
            return self._bury(message, f"defect: {type(defect).__name__}")

    def _look(self, query: Query | InvalidCommand) -> Seen:
        if isinstance(query, Look) and (query.token is not None or query.pin is not None):
            self._note_guesses([query])
            with begin(self._engine) as (connection, now):
                return look_as_holder(connection, query, now)
        with reading(self._engine) as connection:
            return look(connection, query)

    def _bury(self, message: Message, why: str, detail: str | None = None) -> Fate:
        kept = self.bury([partial(_letter, message, why, detail=detail)])
        return Buried(why) if kept else Returned()

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
        self._forget_starts([one.message for one in reads if counted or one.message.returns])
        left = iter(answers)
        fates = [Answered(tuple(next(left) for _ in read.commands)) for read in reads]
        return [self._keep_parts(read, fate) for read, fate in zip(reads, fates, strict=True)]

    def _keep_parts(self, read: _Read, fate: Answered) -> Fate:
        """Keep the parts of a list that can't be read. Without that, the list comes again."""
        if not read.letters or self.bury([partial(_parts_letter, read)]):
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

    # Our own book-keeping. When it fails, no message is at fault: it is tried again.

    def _note_guesses(
        self, asked: Sequence[Command | Look], lock_timeout_ms: int = LOCK_TIMEOUT_MS
    ) -> None:
        """Note that PINs were given: in a commit of its own, before any of them is compared."""
        if guessing(asked):
            with _own_fault(), begin(self._engine, lock_timeout_ms=lock_timeout_ms) as (c, now):
                note_guesses(c, asked, now)

    def _count_starts(self, messages: Sequence[Message]) -> list[int]:
        with _own_fault(), begin(self._engine) as (connection, now):
            return dead_letters.count_starts(connection, [one.id for one in messages], now)

    def _has_starts_left(self, message: Message) -> bool:
        """Note one more start; say whether the message may still have it."""
        (starts,) = self._count_starts([message])
        return starts < STARTS_MAX

    def _uncount_starts(self, messages: Sequence[Message]) -> None:
        """Take back a start that came to nothing without the message's fault."""
        self._change_starts(dead_letters.uncount_starts, messages)

    def _forget_starts(self, messages: Sequence[Message]) -> None:
        """Count no more starts of messages that are done."""
        self._change_starts(dead_letters.forget_starts, messages)

    def _change_starts(
        self, change: Callable[[Connection, Sequence[str]], None], messages: Sequence[Message]
    ) -> None:
        if not messages:
            return
        try:
            with begin(self._engine, lock_timeout_ms=LOCK_TIMEOUT_AGAIN_MS) as (connection, _):
                change(connection, [message.id for message in messages])
        except Exception as error:
            # A start too many is counted; a message that is done isn't started again.
            log.warning("starts not noted", **described(error))

    def _bury_started(self, message: Message, defect: Exception | None) -> Fate:
        """Keep a message that has had all its starts."""
        if defect is None:
            fate = self._bury(message, f"started {STARTS_MAX} times, never to an end")
        else:
            fate = self._bury(message, f"defect: {type(defect).__name__}", _traceback(defect))
        if isinstance(fate, Buried):
            self._forget_starts([message])
        return fate

    def _keep(self, letters: Sequence[LetterAt]) -> list[DeadLetter]:
        try:
            with begin(self._engine) as (connection, now):
                kept = [letter(now) for letter in letters]
                for letter in kept:
                    self._add(connection, letter)
        except Exception as defect:
            if is_retryable(defect):
                raise
            _log_defect(defect, messages=len(letters))
            if len(letters) > 1:
                return [kept for letter in letters for kept in self._keep([letter])]
            return [self._keep_bare(letters[0])]
        return kept

    def _add(self, connection: Connection, letter: DeadLetter) -> None:
        dead_letters.add(connection, letter, self._letters_to)

    def _keep_bare(self, letter: LetterAt) -> DeadLetter:
        """Keep no more of a letter than any table takes: better than to stop at it for ever."""
        with begin(self._engine) as (connection, now):
            full = letter(now)
            bare = DeadLetter(
                received_at=now, queue=full.queue, body=full.body, reason="can't be kept in full"
            )
            self._add(connection, bare)
        return bare

    def _persistently(
        self, work: Callable[[], Done], *, gives_up: Callable[[Exception], bool] = lambda _: False
    ) -> Done:
        """Do `work`, again and again while the database can't; there is no last try.

        Raises Interrupted when the worker is told to stop meanwhile, Blocked when another session
        holds a row for too long, and what is retryable where it `gives_up`.
        """

        def is_passing(error: Exception) -> bool:
            return is_retryable(error) and not is_lock_timeout(error) and not gives_up(error)

        try:
            return keep_trying(
                work,
                "database unavailable",
                pauses=Pauses(first_s=0.1, max_s=PAUSE_S_MAX),
                is_retryable=is_passing,
                is_alarming=needs_operator,
                wait=self._wait,
            )
        except DBAPIError as error:
            if is_lock_timeout(error):
                raise Blocked from error
            raise

    def _wait(self, seconds: float) -> None:
        until = monotonic() + seconds
        while monotonic() < until:
            if self._stopping():
                raise Interrupted
            sleep(min(STOP_CHECK_S, seconds))


@contextmanager
def _own_fault() -> Iterator[None]:
    """Raise OwnFault for what no message has caused, whatever it is."""
    try:
        yield
    except Exception as error:
        if is_retryable(error):
            raise
        raise OwnFault from error


def _free(rows: Sequence[set[Name | UUID]], locked: set[Name | UUID]) -> list[int]:
    """Return the places of those that need no locked row, nor one that an earlier one waits for."""
    free = []
    for place, needed in enumerate(rows):
        if needed & locked:
            locked |= needed
        else:
            free.append(place)
    return free


def _log_defect(defect: Exception, *, messages: int) -> None:
    # Not its text: a database's errors quote rows. The letter keeps all of it.
    frame = traceback.extract_tb(defect.__traceback__)[-1]
    place = f"{frame.name}:{frame.lineno}"
    log.error("defect", error=type(defect).__name__, at=place, messages=messages)


def _log_letters(letters: Sequence[DeadLetter]) -> None:
    for letter in letters:
        log.warning("dead letter", reason=letter.reason, dead_message_id=letter.message_id)


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


def _letter(message: Message, why: str, now: datetime, detail: str | None = None) -> DeadLetter:
    return DeadLetter(
        received_at=now,
        queue=message.queue,
        task=message.task,
        message_id=message.id,
        reason=why,
        detail=detail,
        headers=message.headers,
        content_type="application/json",
        content_encoding="utf-8",
        body=message.body,
    )


def _parts_letter(read: _Read, now: datetime) -> DeadLetter:
    """Return the letter for the parts of a list that can't be read: a list of these alone, with an
    id of its own, so that it can be sent again."""
    message, letters = read.message, read.letters
    id, kwargs = f"{message.id[:60]}:bad", {"commands": [letter.part for letter in letters]}
    headers = None if message.headers is None else {**message.headers, "id": id}
    rest = replace(message, id=id, kwargs=kwargs, headers=headers, body=body_of(kwargs))
    why, detail = describe_letters(letters, len(read.parts))
    return _letter(rest, why, now, detail)


def body_of(kwargs: Mapping[str, Any]) -> bytes:
    """Return the body of a message with these fields."""
    text = json.dumps([[], kwargs, {}], default=str, ensure_ascii=False, separators=(",", ":"))
    # JSON spells half of a surrogate pair as Python does.
    return text.encode("utf-8", "backslashreplace")


def _traceback(defect: Exception) -> str:
    # What went wrong stands at its end.
    return "".join(traceback.format_exception(defect))[-dead_letters.DETAIL_CHARS_MAX :]
