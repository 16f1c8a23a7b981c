"""Dead letters: made of messages, and stored reliably."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from hashlib import sha256
from time import sleep
from typing import TypeAlias

import structlog
from sqlalchemy import Connection, Engine

from card_worker import metrics
from card_worker.contracts.dead_letters import UNAUTHENTICATED, DeadLetterReason, Unreadable
from card_worker.contracts.message import UnreadableItem
from card_worker.defects import log_defect
from card_worker.pauses import Pauses
from card_worker.storage import dead_letters
from card_worker.storage.dead_letters import DeadLetter
from card_worker.storage.engine import begin
from card_worker.storage.errors import is_retryable, needs_operator
from card_worker.worker.messages import Failed, Message, Outcome, Returned, body_of
from card_worker.worker.retries import Interrupted, Retries

DeadLetterAt: TypeAlias = Callable[[datetime], DeadLetter]
"""A function from the time of the commit to the dead letter that the commit stores."""

UNAUTHENTICATED_MAX = 100_000

log = structlog.get_logger(__name__)


class DeadLetters:
    """Stores dead letters. `recipients` are the age recipients of the secrets in them.

    Of messages of unknown senders, `unauthenticated_max` are stored per UTC day; more are logged
    and counted, or whoever may write to the queues could fill the disk.
    """

    def __init__(
        self,
        engine: Engine,
        retries: Retries,
        recipients: Sequence[str] = (),
        *,
        unauthenticated_max: int = UNAUTHENTICATED_MAX,
    ) -> None:
        self._engine, self._retries, self._recipients = engine, retries, recipients
        self._unauthenticated_max = unauthenticated_max
        self._unkept = Pauses(first_s=0.2, max_s=2.0)

    def dead_letter(
        self, message: Message, reason: DeadLetterReason, detail: str | None = None
    ) -> Outcome:
        """Store a message as a dead letter; return Returned if that failed."""
        stored = self.store([partial(dead_letter_of, message, reason, detail)])
        return Failed(reason, detail) if stored else Returned()

    def dead_letter_unread(self, failed: Sequence[tuple[Message, Exception]]) -> list[Outcome]:
        """Store messages that are Unreadable, or whose reading has a defect, in one commit."""
        failures = [_failure(error) for _, error in failed]
        letters = [
            partial(dead_letter_of, message, failure.reason, failure.detail)
            for (message, _), failure in zip(failed, failures, strict=True)
        ]
        return [*failures] if not letters or self.store(letters) else [Returned()] * len(failed)

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
        for letter, is_stored in stored:
            if letter.reason in UNAUTHENTICATED:
                kept = "yes" if is_stored else "no"
                metrics.count(metrics.UNAUTHENTICATED, letter.reason, kept)
            if is_stored:
                metrics.count(metrics.DEAD_LETTERS, letter.reason)
                log.warning("dead letter", reason=letter.reason, dead_message_id=letter.message_id)
            else:
                log.error(
                    "unauthenticated message not stored",
                    reason=letter.reason,
                    dead_message_id=letter.message_id,
                    bytes=len(letter.body),
                    sha256=sha256(letter.body).hexdigest(),
                )
        return True

    def _store(self, letters: Sequence[DeadLetterAt]) -> list[tuple[DeadLetter, bool]]:
        """Store dead letters; return each, with whether it was stored or only counted."""
        try:
            with begin(self._engine) as (connection, now):
                made = [letter(now) for letter in letters]
                stored = list(zip(made, self._admit(connection, made), strict=True))
                for letter, is_stored in stored:
                    if is_stored:
                        self._add(connection, letter)
        except Exception as defect:
            if is_retryable(defect):
                raise
            log_defect(defect, messages=len(letters))
            if len(letters) > 1:
                return [stored for letter in letters for stored in self._store([letter])]
            return [(self._store_body(letters[0]), True)]
        return stored

    def _admit(self, connection: Connection, letters: Sequence[DeadLetter]) -> list[bool]:
        """Count the messages of unknown senders; return which of the letters are stored."""
        unknown = [
            letter
            for letter in letters
            if letter.reason in UNAUTHENTICATED and not dead_letters.is_known(connection, letter)
        ]
        if not unknown:
            return [True] * len(letters)
        left = dead_letters.unauthenticated_left(
            connection, unknown[0].received_at, self._unauthenticated_max
        )
        more = {id(letter) for letter in unknown[left:]}
        dead_letters.count_unauthenticated(
            connection, [(letter, id(letter) not in more) for letter in unknown]
        )
        return [id(letter) not in more for letter in letters]

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


def _failure(error: Exception) -> Failed:
    if isinstance(error, Unreadable):
        return Failed(error.reason, error.detail)
    log_defect(error, messages=1)
    return Failed(DeadLetterReason.DEFECT, type(error).__name__)


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
        signature=message.signature and message.signature.digest,
    )


def dead_letter_of_items(
    message: Message, unreadable: Sequence[UnreadableItem], failed: Failed, now: datetime
) -> DeadLetter:
    """Return the dead letter for the unreadable items of a list.

    It is a list of these alone, with an id of its own, so that it can be sent again. A signed list
    is kept as a whole: its signature covers all items.
    """
    if message.signature is not None:
        return dead_letter_of(message, failed.reason, failed.detail, now)
    id, kwargs = f"{message.id[:60]}:bad", {"commands": [item.item for item in unreadable]}
    headers = None if message.headers is None else {**message.headers, "id": id}
    rest = replace(message, id=id, kwargs=kwargs, headers=headers, body=body_of(kwargs))
    return dead_letter_of(rest, failed.reason, failed.detail, now)


def describe_defect(defect: Exception) -> str:
    """Return a defect's type, and below it the end of its traceback."""
    name = type(defect).__name__
    text = "".join(traceback.format_exception(defect))
    return f"{name}\n{text[-(dead_letters.DETAIL_CHARS_MAX - len(name) - 1) :]}"
