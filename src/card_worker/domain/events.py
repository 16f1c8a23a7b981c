"""What a rule decides: one event a command. Each carries the command, the time, and its choice."""

from datetime import datetime
from typing import NamedTuple, TypeAlias
from uuid import UUID

from card_worker.contracts.commands import (
    ActivateCard,
    Command,
    CreateBatch,
    CreateCard,
    ExpireCard,
    event_id,
    key_of,
)
from card_worker.contracts.events import Problem
from card_worker.contracts.kinds import Reason


class CardCreated(NamedTuple):
    command: CreateCard
    at: datetime


class CardActivated(NamedTuple):
    command: ActivateCard
    at: datetime


class CardExpired(NamedTuple):
    command: ExpireCard
    at: datetime


class BatchCompleted(NamedTuple):
    command: CreateBatch
    at: datetime


class CommandRejected(NamedTuple):
    command: Command
    at: datetime
    reason: Reason
    problems: tuple[Problem, ...] = ()
    # Set when the key is another command's already: this refusal then has a key of its own.
    key: str | None = None


Event: TypeAlias = CardCreated | CardActivated | CardExpired | BatchCompleted | CommandRejected


def id_of(event: Event) -> UUID:
    """Return the event's id: the same however often its command is delivered."""
    if isinstance(event, CommandRejected) and event.key is not None:
        return event_id(event.command.account_id, event.key)
    return event_id(event.command.account_id, key_of(event.command))
