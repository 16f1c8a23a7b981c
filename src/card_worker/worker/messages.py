"""A message as a worker has taken it, and the outcomes that it can have."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeAlias

from card_worker.contracts.commands import APPLY, CHUNK, COMMANDS, SWEEPS, Command
from card_worker.contracts.dead_letters import DeadLetterReason, explain
from card_worker.contracts.envelope import NO_CONDITIONS, Conditions
from card_worker.contracts.message import UnreadableItem
from card_worker.contracts.queries import QUERIES
from card_worker.contracts.signatures import Signature
from card_worker.domain.answers import Answer
from card_worker.domain.producers import Sender
from card_worker.query_handler import QueryResult
from card_worker.rights import is_permitted
from card_worker.storage.contention import Row

TASKS = frozenset([*COMMANDS, *QUERIES, APPLY, CHUNK, *SWEEPS])
"""The tasks that a message may name. Celery's own (chains, chords, clean-ups) are not allowed."""

UNGROUPED = frozenset([CHUNK, *SWEEPS])
"""Internal tasks, whose messages are handled one by one, after commands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A task message whose envelope is valid; `headers` and `body` are as they were received, but
    decompressed.

    `returns` is how often it was put back on its queue, `deaths` how often because its worker died.
    """

    task: str
    id: str
    queue: str | None
    kwargs: Mapping[str, Any]
    body: bytes
    headers: Mapping[str, Any] | None = None
    conditions: Conditions = NO_CONDITIONS
    signature: Signature | None = None
    returns: int = 0
    deaths: int = 0
    is_waiting: bool = False
    """Whether it is delivered again because a row that it needs was locked."""


@dataclass(frozen=True, slots=True)
class ReadMessage:
    """A message with the commands in it, and the items that are not readable as commands."""

    message: Message
    items: list[Command | UnreadableItem]
    sender: Sender | None = None

    @property
    def commands(self) -> list[Command]:
        return [item for item in self.items if not isinstance(item, UnreadableItem)]

    @property
    def permitted(self) -> list[Command]:
        """Those within the rights of the key that has signed the message."""
        return [command for command in self.commands if is_permitted(command, self.sender)]

    @property
    def unreadable(self) -> list[UnreadableItem]:
        return [item for item in self.items if isinstance(item, UnreadableItem)]


@dataclass(frozen=True, slots=True)
class Failed:
    """Stored as a dead letter. The first line of `detail`, if any, is short and has no secret."""

    reason: DeadLetterReason
    detail: str | None = None

    @property
    def explanation(self) -> str:
        """One line, for operators and for the producer."""
        return explain(self.reason, self.detail)


@dataclass(frozen=True, slots=True)
class Answered:
    """Committed, with the answers to the message's commands."""

    answers: tuple[Answer, ...]
    throttle_s: float = 0.0
    """How long to take no message of the lowest priority."""
    commands: tuple[str, ...] = ()
    """The name of the command of each answer."""
    commit_s: float = 0.0
    """How long the commit took; the same number for all messages of it."""
    unreadable: Failed | None = None
    """Why items of a list were stored as a dead letter."""


@dataclass(frozen=True, slots=True)
class QueryAnswered:
    """A query, with its result."""

    result: QueryResult


@dataclass(frozen=True, slots=True)
class Returned:
    """Not handled: the worker stops while the database is unavailable, or its process died."""

    died: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """Not handled: another session has locked a row. It is delivered again before later messages.

    Until then, later messages that need one of `rows` wait, too.
    """

    rows: frozenset[Row] = frozenset()


Outcome: TypeAlias = Answered | QueryAnswered | Failed | Returned | Waiting


def is_sent_by_owner(message: Message) -> bool:
    """Say whether the sender may get the result: a copy of a signed message has another id.

    A list has no id of its own that is signed.
    """
    return message.signature is None or message.kwargs.get("command_id") == message.id


def start_key(message_id: str, body: bytes) -> str:
    """Return the key under which starts of a message are counted.

    Senders choose ids: two different messages may have the same one.
    """
    return f"{message_id}/{sha256(body).hexdigest()[:16]}"


def body_of(kwargs: Mapping[str, Any]) -> bytes:
    """Return the body of a message with these keyword arguments."""
    text = json.dumps([[], kwargs, {}], default=str, ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate is escaped as JSON and Python both do it.
    return text.encode("utf-8", "backslashreplace")
