"""Commands: what a producer may ask for. Each is one Celery task; unknown fields are refused."""

import hashlib
from functools import lru_cache
from typing import Any, ClassVar, Literal, TypeAlias, cast
from uuid import UUID

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypeIs

from card_worker import uuids
from card_worker.contracts import keys
from card_worker.contracts.about import AboutAccount, OwnCommand, alternatives, given
from card_worker.contracts.batches import (
    ApproveBatch,
    BlockBatch,
    CancelBatch,
    CloseBatch,
    CreateBatch,
    ExtendBatch,
    UnblockBatch,
)
from card_worker.contracts.codes import PinOptions, TokenBehaviour, TokenOptions
from card_worker.contracts.enums import CardType, TransactionType
from card_worker.contracts.events import Problem
from card_worker.contracts.fields import (
    CellName,
    Metadata,
    Name,
    RefId,
    Seconds,
    Text255,
    Time,
    TokenId,
    TransactionId,
    Why,
)
from card_worker.contracts.secret_fields import (
    NeedsPins,
    NeedsTokens,
    Recipients,
    keyed_pin,
    keyed_token,
)
from card_worker.money import Amount, Currency, Positive, Signed
from card_worker.secrets.formats import TokenFormat
from card_worker.secrets.secret import Secret
from card_worker.secrets.vault import GivenPin, GivenToken

COMMANDS_PER_MESSAGE_MAX = 1_000
# Ids derive from the producer's own key, so a command delivered twice has one answer with one id.
_event_id = uuids.named(UUID("8d1b8c4c-7f0f-5f57-9d5b-0d4f6c1f5a5e"))


class Queue:
    """Where commands wait. Tills never stand behind an order of cards, nor behind a sweep."""

    CARDS: ClassVar = "cards"
    BULK: ClassVar = "cards.bulk"
    SYSTEM: ClassVar = "cards.system"


class _AboutCard(AboutAccount):
    """A command that names a card."""

    card_id: Name = Field(description="What the caller calls the card, for ever")


class Moves(AboutAccount):
    """A command that happens once on its card for each `ref_id`, whoever asks."""

    ref_id: RefId = Field(description="The idempotency key, unique on the card")


class _MovesOnCard(Moves, _AboutCard):
    @property
    def key(self) -> str:
        return self._unless_dry(keys.on_card(self.card_id, self.ref_id))


class _GivesCodes(_AboutCard):
    """A command that gives a card values, which its caller may write into a CSV file."""

    card_id: CellName = Field(
        description="What the caller calls the card, for ever; no = + - @ in front"
    )


class _AboutTransaction(AboutAccount):
    """A command that names a transaction, and by it a card."""

    transaction_id: TransactionId = Field(description="The id that its event told")


class _MovesByTransaction(Moves, _AboutTransaction):
    @property
    def key(self) -> str:
        return self._unless_dry(keys.by_transaction(self.transaction_id, self.ref_id))


class CreateCard(_AboutCard):
    """Make one card and load it: active at once."""

    command: Literal["cards.create"] = "cards.create"
    amount: Amount = Field(description="The first load, in minor units")
    currency: Currency = Field(description="ISO 4217")
    type: CardType = Field(CardType.GIFT_CARD, description="What it is")
    customer_id: Name | None = Field(None, description="Whose it is")
    name: Text255 | None = Field(None, description="What people call it")
    active_from: Time | None = Field(
        None, description="Nothing is spent before; absent: no such limit"
    )
    expires_at: Time | None = Field(None, description="From then on nothing is possible")
    metadata: Metadata | None = Field(None, description="Free JSON, at most 16 KiB")
    card_token: NeedsTokens[TokenOptions] | None = Field(None, description="Make it with a token")
    pin: NeedsPins[PinOptions] | None = Field(None, description="Make it with a PIN")
    seal_to: Recipients | None = Field(
        None, description="Who can open it: age recipients; absent: the account's"
    )


class ActivateCard(_AboutCard):
    """Give an inactive card its currency, its money and its dates."""

    command: Literal["cards.activate"] = "cards.activate"
    amount: Amount = Field(description="The first load, in minor units")
    currency: Currency = Field(description="ISO 4217")
    customer_id: Name | None = Field(None, description="Whose it is")
    name: Text255 | None = Field(None, description="What people call it")
    card_token: TokenBehaviour | None = Field(None, description="How long its tokens serve")
    metadata: Metadata | None = Field(None, description="Free JSON, at most 16 KiB")
    active_from: Time | None = Field(
        None, description="Nothing is spent before; absent: no such limit"
    )
    expires_at: Time | None = Field(None, description="From then on nothing is possible")


class ReverseActivation(_AboutCard):
    """Take the load back out of a card that nothing has happened to, and make it inactive again."""

    command: Literal["cards.reverse_activation"] = "cards.reverse_activation"
    reason: Why | None = Field(None, description="For people")


UPDATABLE = frozenset(["name", "customer_id", "metadata", "expires_at"])


class UpdateCard(_AboutCard):
    """Change what a card is called, whose it is, or put its end off. `null` clears a field."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": [name]} for name in sorted(UPDATABLE)]}
    )

    command: Literal["cards.update"] = "cards.update"
    name: Text255 | None = Field(None, description="What people call it")
    customer_id: Name | None = Field(None, description="Whose it is")
    metadata: Metadata | None = Field(None, description="Free JSON, at most 16 KiB")
    expires_at: Time | None = Field(None, description="Later than now, and than it is")

    @model_validator(mode="after")
    def _asks_for_something(self) -> "UpdateCard":
        if not self.model_fields_set & UPDATABLE:
            raise PydanticCustomError("nothing", f"give one of {', '.join(sorted(UPDATABLE))}")
        return self


class BlockCard(_AboutCard):
    """Freeze a card: nothing can be spent until it is unblocked."""

    command: Literal["cards.block"] = "cards.block"
    reason: Why = Field(description="For people")


class UnblockCard(_AboutCard):
    """Thaw a card."""

    command: Literal["cards.unblock"] = "cards.unblock"
    reason: Why = Field(description="For people")


class CloseCard(_AboutCard):
    """End a card for good; what is left on it is paid out."""

    command: Literal["cards.close"] = "cards.close"
    reason: Why = Field(description="For people")


class ReplaceCard(_AboutCard):
    """Let another card take over balance, owner and dates; the old one is closed."""

    command: Literal["cards.replace"] = "cards.replace"
    new_card_id: Name = Field(description="Another card that is inactive, or not made yet")
    reason: Why = Field(description="For people")

    @field_validator("new_card_id")
    @classmethod
    def _another(cls, new_card_id: str, info: ValidationInfo) -> str:
        return _other_than_card(new_card_id, info)


class TransferBalance(_MovesOnCard):
    """Move balance to another card of the account."""

    command: Literal["cards.transfer"] = "cards.transfer"
    to_card_id: Name = Field(description="Another card: active, in the same currency")
    amount: Positive | None = Field(None, description="Absent: all that is available")

    @field_validator("to_card_id")
    @classmethod
    def _another(cls, to_card_id: str, info: ValidationInfo) -> str:
        return _other_than_card(to_card_id, info)


def _other_than_card(card_id: str, info: ValidationInfo) -> str:
    if card_id == info.data.get("card_id"):
        raise PydanticCustomError("same_card", "must be another card than card_id")
    return card_id


class AdjustBalance(_MovesOnCard):
    """Correct a balance, up or down."""

    command: Literal["cards.adjust"] = "cards.adjust"
    amount: Signed = Field(description="In minor units, up or down")
    currency: Currency = Field(description="ISO 4217")
    reason: Why = Field(description="For people")


class CreateToken(_GivesCodes):
    """Give a card one more token, for a while or for one payment."""

    command: Literal["tokens.create"] = "tokens.create"
    ref_id: RefId = Field(description="The idempotency key, unique among the card's tokens")
    expires_in: Seconds = Field(description="How long it serves")
    expires_after_transaction: StrictBool = Field(
        True, description="Whether the first accepted transaction spends it"
    )
    format: NeedsTokens[TokenFormat | None] = Field(
        None, validate_default=True, description="Absent: DINCARD: and a UUID"
    )
    metadata: Metadata | None = Field(None, description="Free JSON, at most 16 KiB")
    seal_to: Recipients | None = Field(
        None, description="Who can open it: age recipients; absent: the account's"
    )

    @property
    def key(self) -> str:
        return self._unless_dry(keys.new_token(self.card_id, self.ref_id))


class RevokeToken(_AboutCard):
    """Let a token serve no longer."""

    command: Literal["tokens.revoke"] = "tokens.revoke"
    token_id: TokenId = Field(description="The id that its event told")


class RotatePin(_GivesCodes):
    """Give a card a new PIN, or its first."""

    command: Literal["cards.rotate_pin"] = "cards.rotate_pin"
    pin: NeedsPins[PinOptions] = Field(description="What it looks like")
    seal_to: Recipients | None = Field(
        None, description="Who can open it: age recipients; absent: the account's"
    )


class ByToken(AboutAccount):
    """What names its card by `card_id`, or as its holder does, by a token and its PIN."""

    model_config = ConfigDict(
        json_schema_extra={
            **alternatives(["card_id"], ["token"]),
            "if": given("dry_run", {"const": True}),
            "then": {"properties": {"pin": {"type": "null"}}},
        }
    )

    card_id: Name | None = Field(None, description="What the caller calls the card")
    token: Secret | None = Field(
        None,
        validate_default=True,
        description="A value that names it instead; may be sealed to the workers",
    )
    pin: Secret | None = Field(
        None,
        description="Its PIN, where it has one; may be sealed as well. Not in a dry run: each try"
        " counts",
    )

    @field_validator("token")
    @classmethod
    def _names_one_card(cls, token: Secret | None, info: ValidationInfo) -> Secret | None:
        if "card_id" in info.data and (token is None) == (info.data["card_id"] is None):
            raise PydanticCustomError("card", "give exactly one of card_id and token")
        return keyed_token(token, info)

    @field_validator("pin")
    @classmethod
    def _can_be_compared(cls, pin: Secret | None, info: ValidationInfo) -> Secret | None:
        # To try a PIN counts, and a dry run leaves nothing behind.
        if pin is not None and info.data.get("dry_run"):
            raise PydanticCustomError("pin", "a dry run takes no PIN")
        return keyed_pin(pin, info)

    @property
    def given_token(self) -> GivenToken | None:
        """Return the token as it can be looked for."""
        assert self.token is None or isinstance(self.token, GivenToken)
        return self.token

    @property
    def given_pin(self) -> GivenPin | None:
        """Return the PIN as it can be compared."""
        assert self.pin is None or isinstance(self.pin, GivenPin)
        return self.pin


def _only_holds_end(schema: dict[str, Any]) -> None:
    """Add what JSON Schema can say of pending transactions to what it says of cards and tokens."""
    schema |= cast(dict[str, Any], ByToken.model_config["json_schema_extra"])
    is_pending = given("pending", {"const": True})
    schema["allOf"] = [
        {"if": is_pending, "then": {"properties": {"type": {"not": {"const": "fund"}}}}},
        {"if": given("hold_expires_in"), "then": is_pending},
    ]


class CreateTransaction(Moves, ByToken):
    """Draw a card down, put money on it, or lock some for a while."""

    model_config = ConfigDict(json_schema_extra=_only_holds_end)

    command: Literal["transactions.create"] = "transactions.create"
    amount: Positive = Field(description="In minor units")
    currency: Currency = Field(description="ISO 4217")
    type: Literal[TransactionType.DRAWDOWN, TransactionType.FUND] = Field(
        TransactionType.DRAWDOWN, description="Which way the money goes"
    )
    pending: StrictBool = Field(False, description="Lock the amount; capture or void it later")
    hold_expires_in: Seconds | None = Field(None, description="How long the lock lasts at most")
    metadata: Metadata | None = Field(None, description="Free JSON, at most 16 KiB")

    @property
    def key(self) -> str:
        if self.card_id is not None:
            return self._unless_dry(keys.on_card(self.card_id, self.ref_id))
        assert self.given_token is not None
        return self._unless_dry(keys.by_token(self.given_token.fingerprint, self.ref_id))

    @field_validator("pending")
    @classmethod
    def _is_drawn(cls, pending: bool, info: ValidationInfo) -> bool:
        if pending and info.data.get("type") is TransactionType.FUND:
            raise PydanticCustomError("pending", "only a drawdown can be pending")
        return pending

    @field_validator("hold_expires_in")
    @classmethod
    def _is_pending(cls, seconds: int | None, info: ValidationInfo) -> int | None:
        if seconds is not None and not info.data.get("pending"):
            raise PydanticCustomError("hold", "only what is pending can have an end")
        return seconds


class CaptureTransaction(_MovesByTransaction):
    """Take all or a part of what a pending transaction locks; the rest stays locked."""

    command: Literal["transactions.capture"] = "transactions.capture"
    amount: Positive | None = Field(None, description="Absent: all that is still locked")
    metadata: Metadata | None = Field(None, description="Free JSON, at most 16 KiB")


class VoidTransaction(_MovesByTransaction):
    """Release what a pending transaction still locks."""

    command: Literal["transactions.void"] = "transactions.void"
    metadata: Metadata | None = Field(None, description="Free JSON, at most 16 KiB")


class RefundTransaction(_MovesByTransaction):
    """Put back all or a part of what was drawn down."""

    command: Literal["transactions.refund"] = "transactions.refund"
    amount: Positive | None = Field(None, description="Absent: all that isn't refunded yet")
    metadata: Metadata | None = Field(None, description="Free JSON, at most 16 KiB")


class ExpireCard(_AboutCard):
    """Write down that a card's time has passed. What the sweep sends; anyone may."""

    command: Literal["cards.expire"] = "cards.expire"


class WithdrawCard(OwnCommand, _AboutCard):
    """Close a card that isn't activated, its batch having been cancelled."""

    command: Literal["batches.cancel"] = "batches.cancel"
    reason: Why | None = None


class ExpireHold(_AboutTransaction):
    """Release what a pending transaction locks, its time being up. What the sweep sends."""

    command: Literal["holds.expire"] = "holds.expire"


class InvalidCommand(BaseModel):
    """A command whose sender can be told, but whose fields can't be used."""

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
    received: str = Field(description="SHA-256 of the fields as they came")

    @property
    def key(self) -> str:
        key = keys.by_id(self.command_id)
        return keys.dry(key) if self.dry_run else key


Asked: TypeAlias = (
    CreateCard
    | CreateBatch
    | ApproveBatch
    | CancelBatch
    | BlockBatch
    | UnblockBatch
    | CloseBatch
    | ExtendBatch
    | ActivateCard
    | ReverseActivation
    | UpdateCard
    | BlockCard
    | UnblockCard
    | CloseCard
    | ReplaceCard
    | ExpireCard
    | ExpireHold
    | TransferBalance
    | AdjustBalance
    | RotatePin
    | CreateToken
    | RevokeToken
    | CreateTransaction
    | CaptureTransaction
    | VoidTransaction
    | RefundTransaction
)
Command: TypeAlias = Asked | WithdrawCard | InvalidCommand

COMMANDS: dict[str, type[Asked]] = {
    kind.model_fields["command"].default: kind
    for kind in (
        CreateCard,
        CreateBatch,
        ApproveBatch,
        CancelBatch,
        BlockBatch,
        UnblockBatch,
        CloseBatch,
        ExtendBatch,
        ActivateCard,
        ReverseActivation,
        UpdateCard,
        BlockCard,
        UnblockCard,
        CloseCard,
        ReplaceCard,
        TransferBalance,
        AdjustBalance,
        RotatePin,
        CreateToken,
        RevokeToken,
        CreateTransaction,
        CaptureTransaction,
        VoidTransaction,
        RefundTransaction,
        ExpireCard,
        ExpireHold,
    )
}
"""The commands by the name of their task."""

APPLY = "commands.apply"
"""The task that carries a list of commands."""

SWEEP_CARDS, SWEEP_HOLDS = "sweeps.expire_cards", "sweeps.expire_holds"
SWEEP_FILES = "sweeps.write_files"
SWEEP_RUNS = "sweeps.resume_batches"
SWEEPS = (SWEEP_CARDS, SWEEP_HOLDS, SWEEP_FILES, SWEEP_RUNS)
"""The tasks by which beat asks for what time has made due. They take no arguments."""

CHUNK = "batches.work"
"""The task by which workers ask each other for the next piece of what is done piece by piece."""

QUEUES: dict[str, str] = dict.fromkeys(COMMANDS, Queue.CARDS) | {
    "cards.batch_create": Queue.BULK,
    "cards.expire": Queue.SYSTEM,
    "holds.expire": Queue.SYSTEM,
    APPLY: Queue.BULK,
    CHUNK: Queue.BULK,
    **dict.fromkeys(SWEEPS, Queue.SYSTEM),
}
"""The queue each task waits in."""


def is_invalid(command: object) -> TypeIs[InvalidCommand]:
    """Say whether a command couldn't be read: by its type, since to ask pydantic's takes longer."""
    return type(command) is InvalidCommand


def digest_of(command: Command) -> str:
    """Return the SHA-256 of what is asked, so that a key used again for other content is seen."""
    if is_invalid(command):
        return command.received
    # Without defaults, so that a field that a later version adds doesn't change what was asked.
    if type(command) is UpdateCard:  # here null says something
        asked = command.model_dump_json(exclude={"command_id"}, exclude_unset=True)
    else:
        asked = command.model_dump_json(exclude=_unasked(command), exclude_defaults=True)
    return hashlib.sha256(f"{command.command} {asked}".encode()).hexdigest()


def _unasked(command: Asked | WithdrawCard) -> set[str]:
    """Return the fields that don't count for what is asked."""
    # The token stands in the key. A PIN is left out, so that nobody finds it by asking what was
    # asked before with another one, and seeing whether that is told to be something else.
    is_by_token = type(command) is CreateTransaction
    return {"command_id", "token", "pin"} if is_by_token else {"command_id"}


# A group asks for each of its ids several times.
@lru_cache(maxsize=4 * COMMANDS_PER_MESSAGE_MAX)
def event_id(account_id: str, key: str) -> UUID:
    """Return the id of the event that answers the command with this key."""
    return _event_id(f"{account_id}/{key}")
