"""Messages from the queue to their commit, and what each kind of failure means for them.

refusal      an answer like any other; not a failure
unreadable   Buried: a dead letter, with what is wrong
transient    rolled back and tried again until it works; Returned when the worker stops
defect       rolled back; each message of the group is started again alone, at most 5 times in
             all; then Buried
"""

import json
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import count
from time import perf_counter, sleep
from typing import Any, TypeAlias, TypeVar

import structlog
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

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
from card_worker.files import FileStore, write_files
from card_worker.handler import handle
from card_worker.minting import Mint
from card_worker.reader import Seen, look, look_as_holder
from card_worker.secrets.vault import Vault
from card_worker.storage import dead_letters, outbox
from card_worker.storage.dead_letters import DeadLetter
from card_worker.storage.engine import begin, is_transient, reading
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


Fate: TypeAlias = Answered | Shown | Buried | Returned


class Interrupted(Exception):
    """The worker has been told to stop while the database was away."""


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

    `stopping` says whether the worker has been told to stop, `vault` keys tokens and PINs, `files`
    is where sealed files go, `letters_to` names who may open what is secret in dead letters, `ask`
    sends messages that ask for chunks.
    """

    def __init__(
        self,
        engine: Engine,
        stopping: Callable[[], bool],
        *,
        vault: Vault = NO_VAULT,
        files: FileStore | None = None,
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
        self._files = files
        self._mint = Mint(vault)
        self._stopping = stopping

    def deliver(self, messages: Sequence[Message]) -> list[Fate]:
        """Return the fate of each message, in their order.

        Those that are well are one group: handled together, in one commit.
        """
        fates: dict[int, Fate] = {}
        together: dict[int, _Read] = {}
        queries: dict[int, Message] = {}
        chunks: dict[int, Message] = {}
        for place, message in enumerate(messages):
            if message.task in QUERIES:
                queries[place] = message
                continue
            if message.task == CHUNK:
                chunks[place] = message
                continue
            try:
                read = _Read(
                    message,
                    read_commands(message.task, message.id, message.kwargs, self._mint.vault),
                )
            except Unreadable as problem:
                fates[place] = self._bury(message, problem.why, problem.detail)
                continue
            except Exception as defect:
                # Reading depends on nothing but the message: another start would end the same.
                _log_defect(defect, messages=1)
                fates[place] = self._bury(message, f"defect: {type(defect).__name__}")
                continue
            if message.returns > RETURNS_TOGETHER_MAX:
                fates[place] = self._alone(message, partial(self._commit_counted, read))
            else:
                together[place] = read
        fates |= self._deliver_together(together)
        # After the commit, so that they see what was sent before them.
        fates |= {place: self._show(message) for place, message in queries.items()}
        fates |= {place: self._work(message) for place, message in chunks.items()}
        return [fates[place] for place in range(len(messages))]

    def bury(self, letters: Sequence[LetterAt]) -> None:
        """Keep messages as dead letters, in one commit. They may be acknowledged afterwards.

        Raises Interrupted.
        """
        _log_letters(self._persistently(partial(self._keep, letters)))

    def _deliver_together(self, group: dict[int, _Read]) -> dict[int, Fate]:
        if not group:
            return {}
        reads = list(group.values())
        try:
            returned = [read.message for read in reads if read.message.returns]
            if returned:
                self._persistently(partial(self._count_starts, returned))
            fates = self._persistently(partial(self._commit, reads))
        except Interrupted:
            return dict.fromkeys(group, Returned())
        except Exception as defect:
            _log_defect(defect, messages=len(reads))
            return {
                place: self._alone(read.message, partial(self._commit_counted, read), defect)
                for place, read in group.items()
            }
        return dict(zip(group, fates, strict=True))

    def _alone(
        self, message: Message, start: Callable[[], Fate], defect: Exception | None = None
    ) -> Fate:
        """Start a message by itself until it comes to an end, STARTS_MAX times at most.

        Each start but the first is noted before, in a commit of its own, so that one which kills
        its process is counted too. The first needs no note, so an ordinary message costs none.
        """
        with structlog.contextvars.bound_contextvars(message_id=message.id, task=message.task):
            try:
                while True:
                    spent = self._persistently(partial(self._spend_start, message, defect))
                    if spent is not None:
                        return spent
                    try:
                        return self._persistently(start)
                    except Interrupted:
                        raise
                    except Exception as another:
                        _log_defect(another, messages=1)
                        defect = another
            except Interrupted:
                return Returned()

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
            self._persistently(partial(note_trouble, self._engine, chunk, fate.why))
        return fate

    def _do_chunk(
        self, message: Message, chunk: Chunk, begun: Iterator[int], *, counted: bool = False
    ) -> Fate:
        started = perf_counter()
        # SQLite has one commit at a time: who rested within it would keep out whom he rests for.
        rests = self._in_company and self._engine.dialect.name == "postgresql"
        company = self._give_way if rests else None
        again = next(begun) > 0
        following = do(self._engine, self._mint, chunk, company, again=again)
        seconds = perf_counter() - started
        if counted:
            with begin(self._engine) as (connection, _):
                dead_letters.forget_starts(connection, [message.id])
        self._in_company = self._others_are_served()
        if self._rested:
            # It has given way in between, and only the last piece is left to rest from.
            seconds, self._rested = self._rested[-1], []
        rest_s = seconds * RESTS if self._in_company else 0.0
        self._has_served = self._has_served and self._in_company
        if following:
            self._ask_for(following)
        elif self._files is not None:
            self._put_files(self._files)
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
        try:
            self.bury([partial(_letter, message, why, detail=detail)])
        except Interrupted:
            return Returned()
        return Buried(why)

    def _commit(self, reads: Sequence[_Read], *, counted: bool = False) -> list[Fate]:
        started = perf_counter()
        commands = [command for read in reads for command in read.commands]
        self._note_guesses(commands)
        with begin(self._engine) as (connection, now):
            letters = [_parts_letter(read, now) for read in reads if read.letters]
            for letter in letters:
                self._add(connection, letter)
            ended = [one.message.id for one in reads if counted or one.message.returns]
            dead_letters.forget_starts(connection, ended)
            answers = handle(connection, commands, now, self._mint)
        self._has_served = True
        _log_letters(letters)
        _log_group(commands, answers, messages=len(reads), ms=(perf_counter() - started) * 1000)
        self._follow_up(answers)
        left = iter(answers)
        return [Answered(tuple(next(left) for _ in read.commands)) for read in reads]

    def _commit_counted(self, read: _Read) -> Fate:
        (fate,) = self._commit([read], counted=True)
        return fate

    def _follow_up(self, answers: Sequence[Answer]) -> None:
        """Do what begins with a commit, and a sweep does later where this fails."""
        begun = [answer.id for answer in answers if answer.type in BEGINNINGS]
        if begun:
            try:
                self._ask_for(first_chunks(self._engine, begun))
            except DBAPIError as error:
                log.warning("chunks put off", error=type(error).__name__)
        if self._files is not None and any(one.type is BATCH_COMPLETED for one in answers):
            self._put_files(self._files)

    def _ask_for(self, chunks: Sequence[Chunk]) -> None:
        try:
            self._ask(chunks)
        except Exception as error:
            log.warning("chunks put off", error=type(error).__name__)

    def _put_files(self, files: FileStore) -> None:
        try:
            write_files(self._engine, files)
        except Exception as error:
            log.warning("files put off", error=type(error).__name__)

    def _note_guesses(self, asked: Sequence[Command | Look]) -> None:
        """Note that PINs were given: in a commit of its own, before any of them is compared."""
        if guessing(asked):
            with begin(self._engine) as (connection, now):
                note_guesses(connection, asked, now)

    def _count_starts(self, messages: Sequence[Message]) -> None:
        with begin(self._engine) as (connection, now):
            dead_letters.count_starts(connection, [message.id for message in messages], now)

    def _spend_start(self, message: Message, defect: Exception | None) -> Buried | None:
        """Note one more start; return what became of the message if it has had all of them."""
        with begin(self._engine) as (connection, now):
            (starts,) = dead_letters.count_starts(connection, [message.id], now)
            if starts < STARTS_MAX:
                return None
            if defect is None:
                buried, detail = Buried(f"started {STARTS_MAX} times, never to an end"), None
            else:
                buried, detail = Buried(f"defect: {type(defect).__name__}"), _traceback(defect)
            self._add(connection, _letter(message, buried.why, now, detail))
            dead_letters.forget_starts(connection, [message.id])
        log.warning("dead letter", reason=buried.why)
        return buried

    def _keep(self, letters: Sequence[LetterAt]) -> list[DeadLetter]:
        try:
            with begin(self._engine) as (connection, now):
                kept = [letter(now) for letter in letters]
                for letter in kept:
                    self._add(connection, letter)
        except Exception as defect:
            if is_transient(defect):
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

    def _persistently(self, work: Callable[[], Done]) -> Done:
        """Do `work`, again and again while the database can't; there is no last try.

        Raises Interrupted when the worker is told to stop meanwhile.
        """
        retrying = Retrying(
            retry=retry_if_exception(is_transient),
            wait=wait_random_exponential(multiplier=0.05, max=PAUSE_S_MAX),
            stop=lambda _: self._stopping(),
            before_sleep=_log_pause,
            reraise=True,
        )
        try:
            return retrying(work)
        except Exception as error:
            if is_transient(error):
                raise Interrupted from error
            raise


def _log_pause(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning("database waits", error=type(error).__name__, tries=state.attempt_number)


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
