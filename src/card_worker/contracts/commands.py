"""Commands: what a producer may ask for. Each is one Celery task; unknown fields are refused."""

import hashlib
from functools import lru_cache
from typing import ClassVar, Literal, TypeAlias
from uuid import UUID, uuid5

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from card_worker.contracts.events import Problem
from card_worker.contracts.fields import (
    AccountId,
    CommandId,
    Metadata,
    Name,
    NotOffered,
    Text255,
    Time,
)
from card_worker.contracts.kinds import CardType
from card_worker.money import Amount, Currency

CARDS_PER_BATCH_MAX = 1_000
COMMANDS_PER_MESSAGE_MAX = 1_000
# Ids derive from the producer's own key, so a command delivered twice has one answer with one id.
_EVENT_IDS = UUID("8d1b8c4c-7f0f-5f57-9d5b-0d4f6c1f5a5e")


class Queue:
    """Where commands wait. Tills never stand behind an order of cards, nor behind a sweep."""

    CARDS: ClassVar = "cards"
    BULK: ClassVar = "cards.bulk"
    SYSTEM: ClassVar = "cards.system"


class _Asked(BaseModel):
    """The fields that every command takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    account_id: AccountId = Field(description="The tenant; nothing crosses accounts")
    command_id: CommandId = Field(
        description="The idempotency key; absent: the id of the Celery task"
    )
    not_after: Time | None = Field(None, description="After it the command is refused as stale")
    created_by: Text255 | None = Field(None, description="Who asks")
    originated_by: Name | None = Field(None, description="Where it comes from: till, shop, job")
    dry_run: StrictBool = Field(
        False, description="Same rules, same answer; nothing but the answer is stored"
    )


class CreateCard(_Asked):
    """Make one card and load it: active at once."""

    command: Literal["cards.create"] = "cards.create"
    card_id: Name
    amount: Amount
    currency: Currency
    type: CardType = CardType.GIFT_CARD
    customer_id: Name | None = None
    name: Text255 | None = None
    active_from: Time | None = None
    expires_at: Time | None = None
    metadata: Metadata | None = None
    card_token: NotOffered = None
    pin: NotOffered = None
    seal_to: NotOffered = None


class BatchCard(BaseModel):
    """One card of a listed batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    card_id: Name
    type: CardType | None = Field(None, description="Absent: the batch's type")


class CreateBatch(_Asked):
    """Make a list of cards, inactive and without money: all of them or none."""

    command: Literal["cards.batch_create"] = "cards.batch_create"
    cards: tuple[BatchCard, ...] = Field(
        min_length=1, json_schema_extra={"maxItems": CARDS_PER_BATCH_MAX}
    )
    batch_id: Name | None = Field(None, description="Absent: the command_id")
    type: CardType = CardType.GIFT_CARD
    name: Text255 | None = None
    metadata: Metadata | None = None
    count: NotOffered = None
    card_id_pattern: NotOffered = None
    options: NotOffered = None
    seal_to: NotOffered = None
    needs_approval: NotOffered = None


class ActivateCard(_Asked):
    """Give an inactive card its currency, its money and its dates."""

    command: Literal["cards.activate"] = "cards.activate"
    card_id: Name
    amount: Amount
    currency: Currency
    customer_id: Name | None = None
    name: Text255 | None = None
    card_token: NotOffered = None
    metadata: Metadata | None = None
    active_from: Time | None = None
    expires_at: Time | None = None


class ExpireCard(_Asked):
    """Write down that a card's time has passed. What the sweep sends; anyone may."""

    command: Literal["cards.expire"] = "cards.expire"
    card_id: Name


class InvalidCommand(BaseModel):
    """A command whose sender can be told, but whose fields can't be used."""

    model_config = ConfigDict(frozen=True)

    command: str
    account_id: str
    command_id: str
    card_id: str | None = None
    dry_run: bool = False
    not_after: None = None
    problems: tuple[Problem, ...]
    received: str = Field(description="SHA-256 of the fields as they came")


Asked: TypeAlias = CreateCard | CreateBatch | ActivateCard | ExpireCard
Command: TypeAlias = Asked | InvalidCommand

COMMANDS: dict[str, type[Asked]] = {
    "cards.create": CreateCard,
    "cards.batch_create": CreateBatch,
    "cards.activate": ActivateCard,
    "cards.expire": ExpireCard,
}
"""The commands by the name of their task."""

APPLY = "commands.apply"
"""The task that carries a list of commands."""

SWEEP = "sweeps.expire_cards"
"""The task by which beat asks for what time has made due. It takes no arguments."""

QUEUES: dict[str, str] = dict.fromkeys(COMMANDS, Queue.CARDS) | {
    "cards.batch_create": Queue.BULK,
    "cards.expire": Queue.SYSTEM,
    APPLY: Queue.BULK,
    SWEEP: Queue.SYSTEM,
}
"""The queue each task waits in."""


def key_of(command: Command) -> str:
    """Return the command's idempotency key, unique within its account.

    A dry run has a key of its own: asking what would happen must not use up the real one.
    """
    return f"{'dry' if command.dry_run else 'id'}/{command.command_id}"


def digest_of(command: Command) -> str:
    """Return the SHA-256 of what is asked, so that a key used again for other content is seen."""
    if isinstance(command, InvalidCommand):
        return command.received
    # Without defaults, so that a field that a later version adds doesn't change what was asked.
    asked = command.model_dump_json(exclude={"command_id"}, exclude_defaults=True)
    return hashlib.sha256(f"{command.command} {asked}".encode()).hexdigest()


# A group asks for each of its ids several times.
@lru_cache(maxsize=4 * COMMANDS_PER_MESSAGE_MAX)
def event_id(account_id: str, key: str) -> UUID:
    """Return the id of the event that answers the command with this key."""
    return uuid5(_EVENT_IDS, f"{account_id}/{key}")
