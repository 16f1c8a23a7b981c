"""Dead letters: made of messages, and stored reliably."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from time import sleep
from typing import TypeAlias

import structlog
from sqlalchemy import Connection, Engine

from card_worker.contracts.dead_letters import DeadLetterReason, Unreadable
from card_worker.contracts.message import UnreadableItem, describe_items
from card_worker.pauses import Pauses
from card_worker.storage import dead_letters
from card_worker.storage.dead_letters import DeadLetter
from card_worker.storage.engine import begin
from card_worker.storage.errors import is_retryable, needs_operator
from card_worker.worker.messages import Failed, Message, Outcome, Returned, body_of
from card_worker.worker.retries import Interrupted, Retries

DeadLetterAt: TypeAlias = Callable[[datetime], DeadLetter]
"""A function from the time of the commit to the dead letter that the commit stores."""

log = structlog.get_logger(__name__)


class DeadLetters:
    """Stores dead letters. `recipients` are the age recipients of the secrets in them."""

    def __init__(self, engine: Engine, retries: Retries, recipients: Sequence[str] = ()) -> None:
        self._engine, self._retries, self._recipients = engine, retries, recipients
        self._unkept = Pauses(first_s=0.2, max_s=2.0)

    def dead_letter(
        self, message: Message, reason: DeadLetterReason, detail: str | None = None
    ) -> Outcome:
        """Store a message as a dead letter; return Returned if that failed."""
        stored = self.store([partial(dead_letter_of, message, reason, detail)])
        return Failed(reason, detail) if stored else Returned()

    def dead_letter_unread(self, message: Message, error: Exception) -> Outcome:
        """Store a message as a dead letter that is Unreadable, or whose reading has a defect."""
        if isinstance(error, Unreadable):
            return self.dead_letter(message, error.reason, error.detail)
        log_defect(error, messages=1)
        return self.dead_letter(message, DeadLetterReason.DEFECT, type(error).__name__)

    def store(self, letters: Sequence[DeadLetterAt]) -> bool:
        """Store dead letters in one commit. Their messages may be acknowledged afterwards.

        Return False if that failed: the messages go back to their queues. Failures that need an
        operator are not waited for: if only the table of dead letters is at fault, commands go on.
        """
        try:
            stored = self._retries.run(partial(self._store, letters), gives_up=needs_operator)
        except Interrupted:
            return False
        except Exception as defect:
            # They are delivered again at once. Do not block other messages meanwhile.
            sleep(self._unkept.log_next("dead letters not stored", defect, alarm=True))
            return False
        for letter in stored:
            log.warning("dead letter", reason=letter.reason, dead_message_id=letter.message_id)
        return True

    def _store(self, letters: Sequence[DeadLetterAt]) -> list[DeadLetter]:
        try:
            with begin(self._engine) as (connection, now):
                stored = [letter(now) for letter in letters]
                for letter in stored:
                    self._add(connection, letter)
        except Exception as defect:
            if is_retryable(defect):
                raise
            log_defect(defect, messages=len(letters))
            if len(letters) > 1:
                return [stored for letter in letters for stored in self._store([letter])]
            return [self._store_body(letters[0])]
        return stored

    def _add(self, connection: Connection, letter: DeadLetter) -> None:
        dead_letters.add(connection, letter, self._recipients)

    def _store_body(self, letter: DeadLetterAt) -> DeadLetter:
        """Store only the queue and the body, so that a defect does not block the queue."""
        with begin(self._engine) as (connection, now):
            full = letter(now)
            part = DeadLetter(
                received_at=now,
                queue=full.queue,
                body=full.body,
                reason=DeadLetterReason.STORED_IN_PART,
            )
            self._add(connection, part)
        return part


def dead_letter_of(
    message: Message, reason: DeadLetterReason, detail: str | None, now: datetime
) -> DeadLetter:
    return DeadLetter(
        received_at=now,
        queue=message.queue,
        task=message.task,
        message_id=message.id,
        reason=reason,
        detail=detail,
        headers=message.headers,
        content_type="application/json",
        content_encoding="utf-8",
        body=message.body,
    )


def dead_letter_of_items(
    message: Message, unreadable: Sequence[UnreadableItem], items: int, now: datetime
) -> DeadLetter:
    """Return the dead letter for the unreadable items of a list that has `items` of them.

    It is a list of these alone, with an id of its own, so that it can be sent again.
    """
    id, kwargs = f"{message.id[:60]}:bad", {"commands": [item.item for item in unreadable]}
    headers = None if message.headers is None else {**message.headers, "id": id}
    rest = replace(message, id=id, kwargs=kwargs, headers=headers, body=body_of(kwargs))
    detail = describe_items(unreadable, items)
    return dead_letter_of(rest, DeadLetterReason.ITEMS_UNREADABLE, detail, now)


def log_defect(defect: Exception, *, messages: int) -> None:
    """Log the type and the place of a defect. Its text may quote rows; the dead letter has it."""
    frame = traceback.extract_tb(defect.__traceback__)[-1]
    place = f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
    log.error("defect", error=type(defect).__name__, at=place, messages=messages)


def describe_defect(defect: Exception) -> str:
    """Return a defect's type, and below it the end of its traceback."""
    name = type(defect).__name__
    text = "".join(traceback.format_exception(defect))
    return f"{name}\n{text[-(dead_letters.DETAIL_CHARS_MAX - len(name) - 1) :]}"
