"""All commands: what producers may send, the queues, and what identifies a command.

Each command is one Celery task, named by its field `command`. Unknown fields are refused.
"""

import hashlib
from functools import lru_cache
from typing import ClassVar, TypeAlias, get_args
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypeIs

from card_worker import uuids
from card_worker.contracts import keys
from card_worker.contracts.batches import BatchCommand
from card_worker.contracts.cards import CardCommand, UpdateCard, WithdrawCard
from card_worker.contracts.tokens import TokenCommand
from card_worker.contracts.transactions import CreateTransaction, TransactionCommand
from card_worker.contracts.views import Problem

COMMANDS_PER_MESSAGE_MAX = 1_000
# Ids derive from the idempotency key, so a command delivered twice has one answer with one id.
_event_id = uuids.named(UUID("8d1b8c4c-7f0f-5f57-9d5b-0d4f6c1f5a5e"))


class Queue:
    """The queues. A till's command never waits behind an order of cards, nor behind a sweep."""

    CARDS: ClassVar = "cards"
    BULK: ClassVar = "cards.bulk"
    SYSTEM: ClassVar = "cards.system"


class InvalidCommand(BaseModel):
    """A command with invalid fields, whose sender can be answered."""

    model_config = ConfigDict(frozen=True)

    command: str
    account_id: str
    command_id: str
    card_id: str | None = None
    dry_run: bool = False
    not_after: None = None
    created_by: None = None
    originated_by: None = None
    problems: tuple[Problem, ...]
    received: str = Field(description="SHA-256 of the content as it was received")

    @property
    def key(self) -> str:
        key = keys.by_id(self.command_id)
        return keys.dry(key) if self.dry_run else key


ProducerCommand: TypeAlias = CardCommand | BatchCommand | TokenCommand | TransactionCommand
"""A command that producers may send."""
Command: TypeAlias = ProducerCommand | WithdrawCard | InvalidCommand

COMMANDS: dict[str, type[ProducerCommand]] = {
    kind.model_fields["command"].default: kind for kind in get_args(ProducerCommand)
}
"""The commands by the name of their task."""

APPLY = "commands.apply"
"""The task that carries a list of commands."""

SWEEP_CARDS, SWEEP_HOLDS = "sweeps.expire_cards", "sweeps.expire_holds"
SWEEP_FILES = "sweeps.write_files"
SWEEP_RUNS = "sweeps.resume_batches"
SWEEP_OLD = "sweeps.delete_old"
SWEEPS = (SWEEP_CARDS, SWEEP_HOLDS, SWEEP_FILES, SWEEP_RUNS, SWEEP_OLD)
"""The tasks that beat sends: look for what is due. They take no arguments."""

CHUNK = "batches.work"
"""The task by which workers hand on the next chunk of a job."""

QUEUES: dict[str, str] = dict.fromkeys(COMMANDS, Queue.CARDS) | {
    "cards.batch_create": Queue.BULK,
    "cards.expire": Queue.SYSTEM,
    "holds.expire": Queue.SYSTEM,
    APPLY: Queue.BULK,
    CHUNK: Queue.BULK,
    **dict.fromkeys(SWEEPS, Queue.SYSTEM),
}
"""The queue of each task."""


def is_invalid(command: object) -> TypeIs[InvalidCommand]:
    """Say whether a command is invalid. Faster than `isinstance` with a pydantic class."""
    return type(command) is InvalidCommand


NOT_CONTENT = {"command_id", "not_after"}
"""Fields that may differ when a command is sent again: senders set a new deadline each time."""


def digest_of(command: Command) -> str:
    """Return the SHA-256 of the content, to detect a key that is used with other content."""
    if is_invalid(command):
        return command.received
    # Without defaults, so that a field added by a later version doesn't change the digest.
    if type(command) is UpdateCard:  # here null has a meaning
        content = command.model_dump_json(exclude=NOT_CONTENT, exclude_unset=True)
    else:
        content = command.model_dump_json(exclude=_not_content(command), exclude_defaults=True)
    return hashlib.sha256(f"{command.command} {content}".encode()).hexdigest()


def _not_content(command: ProducerCommand | WithdrawCard) -> set[str]:
    """Return the fields that are no part of the content."""
    # The token is part of the key. The PIN is left out: otherwise an idempotency conflict would
    # show whether the PIN of an earlier command was guessed.
    is_by_token = type(command) is CreateTransaction
    return NOT_CONTENT | {"token", "pin"} if is_by_token else NOT_CONTENT


# A group needs each of its ids several times.
@lru_cache(maxsize=4 * COMMANDS_PER_MESSAGE_MAX)
def event_id(account_id: str, key: str) -> UUID:
    """Return the id of the event that answers the command with this key."""
    return _event_id(f"{account_id}/{key}")
