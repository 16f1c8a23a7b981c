"""Messages that become dead letters: what is kept of them, and how it is kept for certain."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from time import sleep
from typing import TypeAlias

import structlog
from sqlalchemy import Connection, Engine

from card_worker.contracts.message import Letter, describe_letters
from card_worker.pauses import Pauses
from card_worker.storage import dead_letters
from card_worker.storage.dead_letters import DeadLetter
from card_worker.storage.engine import begin
from card_worker.storage.errors import is_retryable, needs_operator
from card_worker.worker.messages import Buried, Fate, Message, Returned, body_of
from card_worker.worker.retries import Interrupted, Retries

LetterAt: TypeAlias = Callable[[datetime], DeadLetter]
"""A letter, but for the time of the commit that keeps it."""

log = structlog.get_logger(__name__)


class Letters:
    """Keeps messages as dead letters. `open_to` names who may open what is secret in them."""

    def __init__(self, engine: Engine, retries: Retries, open_to: Sequence[str] = ()) -> None:
        self._engine, self._retries, self._open_to = engine, retries, open_to
        self._unkept = Pauses(first_s=0.2, max_s=2.0)

    def bury(self, message: Message, why: str, detail: str | None = None) -> Fate:
        """Keep a message; return its fate, which is to go back if it couldn't be kept."""
        kept = self.keep([partial(letter_of, message, why, detail=detail)])
        return Buried(why) if kept else Returned()

    def keep(self, letters: Sequence[LetterAt]) -> bool:
        """Keep letters in one commit; their messages may be acknowledged afterwards.

        Return False if they couldn't be kept: then the messages go back to their queue. Only what
        passes by itself is waited for: if nothing but the letters' table is at fault, commands can
        go on.
        """
        try:
            kept = self._retries.run(partial(self._keep, letters), gives_up=needs_operator)
        except Interrupted:
            return False
        except Exception as defect:
            # They come again at once; the others shall not stand behind that for ever.
            sleep(self._unkept.log_next("dead letters not kept", defect, alarm=True))
            return False
        for letter in kept:
            log.warning("dead letter", reason=letter.reason, dead_message_id=letter.message_id)
        return True

    def _keep(self, letters: Sequence[LetterAt]) -> list[DeadLetter]:
        try:
            with begin(self._engine) as (connection, now):
                kept = [letter(now) for letter in letters]
                for letter in kept:
                    self._add(connection, letter)
        except Exception as defect:
            if is_retryable(defect):
                raise
            log_defect(defect, messages=len(letters))
            if len(letters) > 1:
                return [kept for letter in letters for kept in self._keep([letter])]
            return [self._keep_bare(letters[0])]
        return kept

    def _add(self, connection: Connection, letter: DeadLetter) -> None:
        dead_letters.add(connection, letter, self._open_to)

    def _keep_bare(self, letter: LetterAt) -> DeadLetter:
        """Keep no more of a letter than any table takes: better than to stop at it for ever."""
        with begin(self._engine) as (connection, now):
            full = letter(now)
            bare = DeadLetter(
                received_at=now, queue=full.queue, body=full.body, reason="can't be kept in full"
            )
            self._add(connection, bare)
        return bare


def letter_of(message: Message, why: str, now: datetime, detail: str | None = None) -> DeadLetter:
    """Return the letter of a message that can't be done."""
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


def letter_of_parts(
    message: Message, letters: Sequence[Letter], parts: int, now: datetime
) -> DeadLetter:
    """Return the letter for those of a list's `parts` that can't be read: a list of these alone,
    with an id of its own, so that it can be sent again."""
    id, kwargs = f"{message.id[:60]}:bad", {"commands": [letter.part for letter in letters]}
    headers = None if message.headers is None else {**message.headers, "id": id}
    rest = replace(message, id=id, kwargs=kwargs, headers=headers, body=body_of(kwargs))
    why, detail = describe_letters(letters, parts)
    return letter_of(rest, why, now, detail)


def log_defect(defect: Exception, *, messages: int) -> None:
    """Log a defect by its name and place: a database's errors quote rows. The letter keeps all."""
    frame = traceback.extract_tb(defect.__traceback__)[-1]
    place = f"{frame.name}:{frame.lineno}"
    log.error("defect", error=type(defect).__name__, at=place, messages=messages)


def traceback_of(defect: Exception) -> str:
    """Return the end of a defect's traceback, where it says what went wrong."""
    return "".join(traceback.format_exception(defect))[-dead_letters.DETAIL_CHARS_MAX :]
