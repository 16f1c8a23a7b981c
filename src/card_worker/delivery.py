"""One message from the queue to its commit, and what each kind of failure means for it.

refusal      an answer like any other; not a failure
unreadable   a dead letter, with what is wrong
transient    rolled back and tried again until it works; Interrupted when the worker stops
defect       rolled back and started again, at most 5 times; then a dead letter, DeadLettered
"""

import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from time import perf_counter
from typing import Any, TypeAlias, TypeVar

import structlog
from sqlalchemy import Engine
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from card_worker.contracts.commands import Command
from card_worker.contracts.message import Letter, Unreadable, read_commands
from card_worker.domain.answers import Answer
from card_worker.handler import handle
from card_worker.storage import dead_letters
from card_worker.storage.dead_letters import DeadLetter
from card_worker.storage.engine import begin, is_transient

STARTS_MAX = 5
PAUSE_S_MAX = 5.0
IDS_SHOWN_MAX = 10

Done = TypeVar("Done")
LetterAt: TypeAlias = Callable[[datetime], DeadLetter]
"""A letter, but for the time of the commit that keeps it."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A task message that was found readable. `redelivered`: a worker has started it before."""

    task: str
    id: str
    queue: str | None
    kwargs: Mapping[str, Any]
    redelivered: bool = False


class DeadLettered(Exception):
    """The message is kept as a dead letter: it is done with, but not as its sender hoped."""

    def __init__(self, message_id: str, why: str) -> None:
        super().__init__(f"{message_id}: {why}")


class Interrupted(Exception):
    """The worker stops before the database would take the message: it goes back to its queue."""


class Delivery:
    """Takes messages to their commit. `stopping` says whether the worker has been told to stop."""

    def __init__(self, engine: Engine, stopping: Callable[[], bool]) -> None:
        self._engine = engine
        self._stopping = stopping

    def deliver(self, message: Message) -> list[Answer]:
        """Return the answers to the message's commands once they are committed.

        Raises DeadLettered, Interrupted.
        """
        with structlog.contextvars.bound_contextvars(message_id=message.id, task=message.task):
            counted = message.redelivered
            if counted:
                self._count_start(message, f"started {STARTS_MAX} times, never to an end")
            while True:
                try:
                    return self._persistently(partial(self._commit, message, counted=counted))
                except Unreadable as problem:
                    self.bury(partial(_letter, message, problem.why))
                    raise DeadLettered(message.id, problem.why) from None
                except Interrupted:
                    raise
                except Exception as defect:
                    # Not its text: a database's errors quote rows. The letter keeps all of it.
                    log.error("defect", error=type(defect).__name__, at=_place(defect))  # noqa: TRY400
                    why = f"defect: {type(defect).__name__}"
                    self._count_start(message, why, _traceback(defect))
                    counted = True

    def bury(self, letter: LetterAt) -> None:
        """Keep a message as a dead letter. It may be acknowledged when this returns.

        Raises Interrupted.
        """
        kept = self._persistently(partial(self._keep, letter))
        log.warning("dead letter", reason=kept.reason, dead_message_id=kept.message_id)

    def _commit(self, message: Message, *, counted: bool) -> list[Answer]:
        started = perf_counter()
        read = read_commands(message.task, message.id, message.kwargs)
        commands = [part for part in read if not isinstance(part, Letter)]
        with begin(self._engine) as (connection, now):
            for part in read:
                if isinstance(part, Letter):
                    dead_letters.add(connection, _part_letter(message, part, now))
            answers = handle(connection, commands, now)
            if counted:
                dead_letters.forget_starts(connection, message.id)
        _log_group(commands, answers, ms=(perf_counter() - started) * 1000)
        return answers

    def _count_start(self, message: Message, why: str, detail: str | None = None) -> None:
        """Note, in a commit of its own, that the message is about to be started once more.

        The first start needs no note, so an ordinary message costs none.

        Raises DeadLettered when the message has had all its starts.
        """
        if self._persistently(partial(self._spend_start, message, why, detail)):
            log.warning("dead letter", reason=why)
            raise DeadLettered(message.id, why) from None

    def _spend_start(self, message: Message, why: str, detail: str | None) -> bool:
        with begin(self._engine) as (connection, now):
            spent = dead_letters.count_start(connection, message.id, now) >= STARTS_MAX
            if spent:
                dead_letters.add(connection, _letter(message, why, now, detail))
                dead_letters.forget_starts(connection, message.id)
        return spent

    def _keep(self, letter: LetterAt) -> DeadLetter:
        with begin(self._engine) as (connection, now):
            kept = letter(now)
            dead_letters.add(connection, kept)
        return kept

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


def _log_group(commands: Sequence[Command], answers: Sequence[Answer], *, ms: float) -> None:
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
        content_type="application/json",
        content_encoding="utf-8",
        body=_body(message.kwargs),
    )


def _part_letter(message: Message, part: Letter, now: datetime) -> DeadLetter:
    """Return the letter for one part of a list: a list of its own, so that it can be sent again."""
    alone = replace(message, id=f"{message.id}:{part.place}", kwargs={"commands": [part.part]})
    return _letter(alone, part.why, now)


def _body(kwargs: Mapping[str, Any]) -> bytes:
    return json.dumps([[], kwargs, {}], default=str).encode()


def _place(defect: Exception) -> str:
    frame = traceback.extract_tb(defect.__traceback__)[-1]
    return f"{frame.name}:{frame.lineno}"


def _traceback(defect: Exception) -> str:
    return "".join(traceback.format_exception(defect))
