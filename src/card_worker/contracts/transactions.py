"""Commands on the money of a card, and those that name their card by a token or a transaction."""

from typing import Any, Literal, TypeAlias, cast

from pydantic import ConfigDict, Field, StrictBool, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from card_worker.contracts import keys
from card_worker.contracts.base import Request, alternatives, given
from card_worker.contracts.cards import CARD_ID, FUNDING, METADATA, OTHER_FUNDING, MovesMoney
from card_worker.contracts.enums import Funding, TransactionType
from card_worker.contracts.fields import Name, Seconds, TransactionId
from card_worker.contracts.metadata import Metadata
from card_worker.contracts.secrets import keyed_pin, keyed_token
from card_worker.money import Currency, Positive
from card_worker.secrets.secret import Secret
from card_worker.secrets.vault import GivenPin, GivenToken


class ByCardOrToken(Request):
    """A request that names its card by `card_id`, or by a token and its PIN as a holder does."""

    model_config = ConfigDict(
        json_schema_extra={
            **alternatives(["card_id"], ["token"]),
            "if": given("dry_run", {"const": True}),
            "then": {"properties": {"pin": {"type": "null"}}},
        }
    )

    card_id: Name | None = Field(
        None, description=f"{CARD_ID} Exactly one of `card_id` and `token` is required."
    )
    token: Secret | None = Field(
        None,
        validate_default=True,
        description="A token of the card, in clear or sealed to the workers. It is compared after"
        " Unicode normalization (NFKC) and without outer white space; if the token has none, also"
        " without the spaces and dashes inside.",
    )
    pin: Secret | None = Field(
        None,
        description="The PIN of the card, in clear or sealed to the workers. Required with `token`"
        " if the card has one. It is compared after Unicode normalization (NFKC) and without outer"
        " white space, with `card_id` too; a card without a PIN has no right one. Not allowed in a"
        " dry run: wrong PINs are counted.",
    )

    @field_validator("token")
    @classmethod
    def _names_one_card(cls, token: Secret | None, info: ValidationInfo) -> Secret | None:
        if "card_id" in info.data and (token is None) == (info.data["card_id"] is None):
            raise PydanticCustomError("card", "exactly one of card_id and token is required")
        return keyed_token(token, info)

    @field_validator("pin")
    @classmethod
    def _can_be_compared(cls, pin: Secret | None, info: ValidationInfo) -> Secret | None:
        # Each attempt is counted, and a dry run changes nothing.
        if pin is not None and info.data.get("dry_run"):
            raise PydanticCustomError("pin", "is not allowed in a dry run")
        return keyed_pin(pin, info)

    @property
    def given_token(self) -> GivenToken | None:
        """Return the token with its hashes."""
        assert self.token is None or isinstance(self.token, GivenToken)
        return self.token

    @property
    def given_pin(self) -> GivenPin | None:
        """Return the PIN, which can be compared with a hash."""
        assert self.pin is None or isinstance(self.pin, GivenPin)
        return self.pin

    @property
    def is_attempt(self) -> bool:
        """Whether it brings what can be guessed: a PIN or a short token."""
        return self.pin is not None or (self.given_token is not None and self.given_token.is_short)


class OnTransaction(Request):
    """A command that names a transaction, and by it a card."""

    transaction_id: TransactionId = Field(description="The `id` of the transaction, from an event.")


class _MovesByTransaction(MovesMoney, OnTransaction):
    @property
    def key(self) -> str:
        return self._unless_dry(keys.by_transaction(self.transaction_id, self.ref_id))


def _schema_of_holds(schema: dict[str, Any]) -> None:
    """Add the rules for pending transactions to those for cards and tokens."""
    schema |= cast(dict[str, Any], ByCardOrToken.model_config["json_schema_extra"])
    is_pending = given("pending", {"const": True})
    schema["allOf"] = [
        {"if": is_pending, "then": {"properties": {"type": {"not": {"const": "fund"}}}}},
        {"if": given("hold_expires_in"), "then": is_pending},
        {"if": OTHER_FUNDING, "then": given("type", {"const": "fund"})},
    ]


class CreateTransaction(MovesMoney, ByCardOrToken):
    """Spend money from a card, load money onto it, or reserve an amount for a while."""

    model_config = ConfigDict(json_schema_extra=_schema_of_holds)

    command: Literal["transactions.create"] = "transactions.create"
    amount: Positive = Field(description="Amount in minor units.")
    currency: Currency = Field(description="Currency of the card, ISO 4217.")
    type: Literal[TransactionType.DRAWDOWN, TransactionType.FUND] = Field(
        TransactionType.DRAWDOWN, description="`drawdown` spends money, `fund` loads money."
    )
    funding: Funding = Field(Funding.SOLD, description=f"{FUNDING} Only for `fund`.")
    pending: StrictBool = Field(
        False,
        description="Only reserve the amount (a hold), to be captured or voided later. Only for a"
        " drawdown.",
    )
    hold_expires_in: Seconds | None = Field(
        None,
        description="Lifetime of the hold in seconds, only with `pending`. Default: no end.",
    )
    metadata: Metadata | None = Field(None, description=METADATA)

    @property
    def key(self) -> str:
        if self.card_id is not None:
            return self._unless_dry(keys.on_card(self.card_id, self.ref_id))
        assert self.given_token is not None
        return self._unless_dry(keys.by_token(self.given_token.fingerprint, self.ref_id))

    @field_validator("funding")
    @classmethod
    def _is_fund(cls, funding: Funding, info: ValidationInfo) -> Funding:
        if funding is not Funding.SOLD and info.data.get("type") is TransactionType.DRAWDOWN:
            raise PydanticCustomError("funding", "is only allowed for a fund")
        return funding

    @field_validator("pending")
    @classmethod
    def _is_drawdown(cls, pending: bool, info: ValidationInfo) -> bool:
        if pending and info.data.get("type") is TransactionType.FUND:
            raise PydanticCustomError("pending", "is only allowed for a drawdown")
        return pending

    @field_validator("hold_expires_in")
    @classmethod
    def _is_pending(cls, seconds: int | None, info: ValidationInfo) -> int | None:
        if seconds is not None and not info.data.get("pending"):
            raise PydanticCustomError("hold", "is only allowed with pending")
        return seconds


class CaptureTransaction(_MovesByTransaction):
    """Spend all or part of a reserved amount. The rest stays reserved, except after `final`."""

    command: Literal["transactions.capture"] = "transactions.capture"
    amount: Positive | None = Field(
        None, description="Amount in minor units. Default: all that is still reserved."
    )
    final: StrictBool = Field(
        False,
        description="Release what is still reserved after this capture; a `hold.voided` follows.",
    )
    metadata: Metadata | None = Field(None, description=METADATA)


class VoidTransaction(_MovesByTransaction):
    """Release what a pending transaction still reserves."""

    command: Literal["transactions.void"] = "transactions.void"
    metadata: Metadata | None = Field(None, description=METADATA)


class RefundTransaction(_MovesByTransaction):
    """Refund all or part of a drawdown to the card, or to the card that has replaced it."""

    command: Literal["transactions.refund"] = "transactions.refund"
    amount: Positive | None = Field(
        None, description="Amount in minor units. Default: all that isn't refunded yet."
    )
    metadata: Metadata | None = Field(None, description=METADATA)


class ExpireHold(OnTransaction):
    """Release a hold that has expired. Workers send this themselves; producers may."""

    command: Literal["holds.expire"] = "holds.expire"


TransactionCommand: TypeAlias = (
    CreateTransaction | CaptureTransaction | VoidTransaction | RefundTransaction | ExpireHold
)
"""A command on a transaction that producers may send."""
