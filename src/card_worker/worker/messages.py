"""A message as a worker has taken it, and the fates that it can have."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeAlias

from card_worker.contracts.dead_letters import DeadLetterReason, explain
from card_worker.domain.answers import Answer
from card_worker.query_handler import Seen
from card_worker.storage.contention import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A task message that was found readable; `headers` and `body` are it as it came.

    `returns` says how often it has come back to its queue, and `deaths` how often because the
    worker that had it died.
    """

    task: str
    id: str
    queue: str | None
    kwargs: Mapping[str, Any]
    body: bytes
    headers: Mapping[str, Any] | None = None
    returns: int = 0
    deaths: int = 0
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
class Failed:
    """Kept as a dead letter. The first line of `detail`, if any, is short and has no secret."""

    reason: DeadLetterReason
    detail: str | None = None

    @property
    def explanation(self) -> str:
        """One line, for operators and for the producer."""
        return explain(self.reason, self.detail)


@dataclass(frozen=True, slots=True)
class Returned:
    """Untouched: the worker stops before the database would take it, or its process has died."""

    died: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """Untouched: another session has locked a row. To be delivered again, before later messages.

    Until then, later messages that need one of `rows` wait, too.
    """

    rows: frozenset[Row] = frozenset()


Fate: TypeAlias = Answered | Shown | Failed | Returned | Waiting


def start_key(message_id: str, body: bytes) -> str:
    """Return the key under which starts of a message are counted.

    Senders choose ids, and two may choose the same one for different messages.
    """
    return f"{message_id}/{sha256(body).hexdigest()[:16]}"


def body_of(kwargs: Mapping[str, Any]) -> bytes:
    """Return the body of a message with these fields."""
    text = json.dumps([[], kwargs, {}], default=str, ensure_ascii=False, separators=(",", ":"))
    # JSON spells half of a surrogate pair as Python does.
    return text.encode("utf-8", "backslashreplace")
