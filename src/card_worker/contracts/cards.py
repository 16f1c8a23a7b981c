"""Commands on one card."""

from datetime import datetime
from typing import Literal, TypeAlias

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from card_worker.contracts import keys
from card_worker.contracts.base import InternalCommand, Request, given
from card_worker.contracts.enums import CardType, Funding
from card_worker.contracts.fields import CellName, Name, ReasonText, RefId, Text255, Time
from card_worker.contracts.metadata import Metadata
from card_worker.contracts.secrets import (
    SEAL_TO,
    NeedsPins,
    NeedsTokens,
    PinOptions,
    Recipients,
    TokenBehaviour,
    TokenOptions,
)
from card_worker.money import Amount, Currency, Positive, Signed

CARD_ID = "Your id of the card, unique in the account. It never changes."
CELL_CARD_ID = f"{CARD_ID} It must not begin with `=`, `+`, `-` or `@`."
CUSTOMER = "The customer who owns the card."
NAME = "Name of the card, shown to people."
METADATA = "Your own data: a JSON object of at most 16 KiB."
ACTIVE_FROM = "Nothing can be spent before this time. Default: no such limit."
EXPIRES_AT = (
    "The card expires at this time, which must be in the future and after `active_from`. Default:"
    " it never expires."
)
REASON = "Free text, shown to operators."
FUNDING = "Why the money is put onto the card."
OTHER_FUNDING = given("funding", {"not": {"const": Funding.SOLD}})
"""JSON Schema of a command with another `funding` than the default."""


class OnCard(Request):
    """A command that names a card."""

    card_id: Name = Field(description=CARD_ID)


class MovesMoney(Request):
    """A command that happens once on its card for each `ref_id`, whoever sends it."""

    ref_id: RefId = Field(
        description="Your id of the movement, unique on the card. It is the idempotency key, not"
        " the `command_id`."
    )


class _MovesOnCard(MovesMoney, OnCard):
    @property
    def key(self) -> str:
        return self._unless_dry(keys.on_card(self.card_id, self.ref_id))


class IssuesSecrets(OnCard):
    """A command that issues a token or a PIN, which may be written into a CSV file."""

    card_id: CellName = Field(description=CELL_CARD_ID)


class CreateCard(OnCard):
    """Create one card and load it. It is active at once."""

    command: Literal["cards.create"] = "cards.create"
    amount: Amount = Field(description="The first load, in minor units. It may be 0.")
    currency: Currency = Field(description="Currency of the card, ISO 4217.")
    funding: Funding = Field(Funding.SOLD, description=FUNDING)
    type: CardType = Field(CardType.GIFT_CARD, description="Type of the card.")
    customer_id: Name | None = Field(None, description=CUSTOMER)
    name: Text255 | None = Field(None, description=NAME)
    active_from: Time | None = Field(None, description=ACTIVE_FROM)
    expires_at: Time | None = Field(None, description=EXPIRES_AT)
    metadata: Metadata | None = Field(None, description=METADATA)
    card_token: NeedsTokens[TokenOptions] | None = Field(
        None, description="Issue a token for the card. Default: none."
    )
    pin: NeedsPins[PinOptions] | None = Field(
        None, description="Issue a PIN for the card. Default: none."
    )
    seal_to: Recipients | None = Field(None, description=SEAL_TO)


class ActivateCard(OnCard):
    """Activate an inactive card that is not blocked: give it currency, money and dates."""

    command: Literal["cards.activate"] = "cards.activate"
    amount: Amount = Field(description="The first load, in minor units. It may be 0.")
    currency: Currency = Field(description="Currency of the card, ISO 4217.")
    funding: Funding = Field(Funding.SOLD, description=FUNDING)
    customer_id: Name | None = Field(None, description=CUSTOMER)
    name: Text255 | None = Field(None, description=f"{NAME} Default: as it is.")
    card_token: TokenBehaviour | None = Field(
        None,
        description="How long the card's tokens can be used, until the activation is reversed. The"
        " card must have one. Default: as they were issued.",
    )
    metadata: Metadata | None = Field(None, description=f"{METADATA} Default: as it is.")
    active_from: Time | None = Field(None, description=ACTIVE_FROM)
    expires_at: Time | None = Field(None, description=EXPIRES_AT)


class ReverseActivation(OnCard):
    """Reverse an activation: take the load back. Nothing else may have been posted since."""

    command: Literal["cards.reverse_activation"] = "cards.reverse_activation"
    reason: ReasonText | None = Field(None, description=REASON)


UPDATABLE = frozenset(["name", "customer_id", "metadata", "expires_at"])


class UpdateCard(OnCard):
    """Change the name, customer or metadata of a card, or extend it. `null` clears a field."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": [name]} for name in sorted(UPDATABLE)]}
    )

    command: Literal["cards.update"] = "cards.update"
    name: Text255 | None = Field(None, description=NAME)
    customer_id: Name | None = Field(None, description=CUSTOMER)
    metadata: Metadata | None = Field(
        None, description=f"{METADATA} It replaces the present metadata as a whole."
    )
    expires_at: Time | None = Field(
        None,
        description="A new expiry time, in the future and after the present one. A card that never"
        " expires can't get one. Not `null`.",
        json_schema_extra={"not": {"type": "null"}},
    )

    @field_validator("expires_at")
    @classmethod
    def _is_a_time(cls, expires_at: datetime | None) -> datetime:
        if expires_at is None:
            raise PydanticCustomError("expires_at", "can't be removed")
        return expires_at

    @model_validator(mode="after")
    def _changes_something(self) -> "UpdateCard":
        if not self.model_fields_set & UPDATABLE:
            message = f"at least one of {', '.join(sorted(UPDATABLE))} is required"
            raise PydanticCustomError("nothing", message)
        return self


class BlockCard(OnCard):
    """Block a card: nothing can be spent until it is unblocked."""

    command: Literal["cards.block"] = "cards.block"
    reason: ReasonText = Field(description=REASON)


class UnblockCard(OnCard):
    """Unblock a card, and its PIN if that is locked. Wrong PINs are counted from 0 again."""

    command: Literal["cards.unblock"] = "cards.unblock"
    reason: ReasonText = Field(description=REASON)


class CloseCard(OnCard):
    """Close a card for good. Its balance is paid out; nothing may be reserved."""

    command: Literal["cards.close"] = "cards.close"
    reason: ReasonText = Field(description=REASON)


class ReplaceCard(OnCard):
    """Move balance, customer, name, metadata and dates to another card, and close this one."""

    command: Literal["cards.replace"] = "cards.replace"
    new_card_id: Name = Field(
        description="The card that takes over: an inactive one that is not blocked, or a card_id"
        " that isn't in use."
    )
    reason: ReasonText = Field(description=REASON)

    @field_validator("new_card_id")
    @classmethod
    def _is_another(cls, new_card_id: str, info: ValidationInfo) -> str:
        return _other_than_card(new_card_id, info)


class TransferBalance(_MovesOnCard):
    """Move money to another card of the account."""

    command: Literal["cards.transfer"] = "cards.transfer"
    to_card_id: Name = Field(
        description="The other card: active, not blocked, and in the same currency."
    )
    amount: Positive | None = Field(
        None, description="Amount in minor units. Default: the whole available amount."
    )

    @field_validator("to_card_id")
    @classmethod
    def _is_another(cls, to_card_id: str, info: ValidationInfo) -> str:
        return _other_than_card(to_card_id, info)


def _other_than_card(card_id: str, info: ValidationInfo) -> str:
    if card_id == info.data.get("card_id"):
        raise PydanticCustomError("same_card", "must differ from card_id")
    return card_id


class AdjustBalance(_MovesOnCard):
    """Correct the balance of a card."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": OTHER_FUNDING,
            "then": {"properties": {"amount": {"exclusiveMinimum": 0}}},
        }
    )

    command: Literal["cards.adjust"] = "cards.adjust"
    amount: Signed = Field(
        description="Change of the balance in minor units: positive or negative, but not 0."
    )
    currency: Currency = Field(description="Currency of the card, ISO 4217.")
    funding: Funding = Field(Funding.SOLD, description=f"{FUNDING} Only for a positive amount.")
    reason: ReasonText = Field(description=REASON)

    @field_validator("funding")
    @classmethod
    def _is_positive(cls, funding: Funding, info: ValidationInfo) -> Funding:
        if funding is not Funding.SOLD and info.data.get("amount", 1) < 0:
            raise PydanticCustomError("funding", "is only allowed for a positive amount")
        return funding


class ExpireCard(OnCard):
    """Record that a card has expired. Workers send this themselves; producers may."""

    command: Literal["cards.expire"] = "cards.expire"


class WithdrawCard(InternalCommand, OnCard):
    """Close an inactive card whose batch was cancelled."""

    command: Literal["batches.cancel"] = "batches.cancel"
    reason: ReasonText | None = None


CardCommand: TypeAlias = (
    CreateCard
    | ActivateCard
    | ReverseActivation
    | UpdateCard
    | BlockCard
    | UnblockCard
    | CloseCard
    | ReplaceCard
    | TransferBalance
    | AdjustBalance
    | ExpireCard
)
"""A command on a card that producers may send."""
