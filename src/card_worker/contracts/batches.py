"""Commands on batches: order cards, cancel an order, recall cards."""

from datetime import timedelta
from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from card_worker.contracts.base import InternalCommand, Request, alternatives, given
from card_worker.contracts.cards import CELL_CARD_ID, METADATA, REASON
from card_worker.contracts.enums import CardType
from card_worker.contracts.fields import CellName, Name, ReasonText, Text255, Time
from card_worker.contracts.metadata import Metadata
from card_worker.contracts.patterns import PATTERN, Pattern
from card_worker.contracts.secrets import SEAL_TO, BatchOptions, Recipients
from card_worker.contracts.text import ID_SCHEMA, read_id
from card_worker.secrets.formats import FORMULA_PATTERN, no_formula

CARDS_PER_BATCH_MAX = 1_000
CARDS_PER_ORDER_MAX = 10_000_000
WAITING_ORDERS_MAX = 100
"""Orders of an account that may wait for approval at the same time."""
APPROVAL_WITHIN = timedelta(days=30)
"""An order that isn't approved within this time is cancelled."""

BATCH_ID = "The id of the batch: the batch_id of its order, or the command_id of that."

Number = Annotated[StrictInt, Field(ge=1, le=CARDS_PER_ORDER_MAX)]
"""The number of a card in its batch, from 1."""


class BatchCard(BaseModel):
    """One card of a listed batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    card_id: CellName = Field(description=CELL_CARD_ID)
    type: CardType | None = Field(
        None, description="Type of the card. Default: the type of the batch."
    )


_LONG_LIST = TypeAdapter(Annotated[tuple[BatchCard, ...], FailFast()])


def _read_long_list(cards: object) -> object:
    """Validate a list that is too long for a batch only up to its first invalid card."""
    if isinstance(cards, list | tuple) and len(cards) > CARDS_PER_BATCH_MAX:
        return _LONG_LIST.validate_python(cards)
    return cards


# The rules check the maximum, which has a reason of its own: batch_too_large.
_Count = Annotated[StrictInt, Field(ge=1, json_schema_extra={"maximum": CARDS_PER_ORDER_MAX})]
_CardIdPattern = Annotated[
    StrictStr,
    Field(
        min_length=1,
        max_length=255,
        json_schema_extra={
            "pattern": ID_SCHEMA["pattern"],
            "allOf": [{"pattern": PATTERN}],
            "not": {"pattern": f"^ | $|{FORMULA_PATTERN}"},
        },
    ),
    AfterValidator(read_id),
]
_Cards = Annotated[
    tuple[BatchCard, ...],
    Field(min_length=1, json_schema_extra={"maxItems": CARDS_PER_BATCH_MAX}),
    BeforeValidator(_read_long_list),
]


class CreateBatch(Request):
    """Make inactive cards without money: those of a list, or a number of cards named by a pattern.

    A list is made in one step, completely or not at all. A pattern is an order: it is accepted and
    made in chunks, and no card can be used before the last one is made.
    """

    model_config = ConfigDict(
        json_schema_extra={
            **alternatives(["cards"], ["count", "card_id_pattern"]),
            "if": given("seal_pins_to"),
            "then": given("options", given("pin")),
        }
    )

    command: Literal["cards.batch_create"] = "cards.batch_create"
    count: _Count | None = Field(
        None, description="Number of cards, numbered from 1. Required with `card_id_pattern`."
    )
    card_id_pattern: _CardIdPattern | None = Field(
        None,
        validate_default=True,
        description="Pattern of the card_ids. `{n}` or `{n:08d}` is the number, `{luhn}` at the end"
        " a check digit over all digits before it. No card_id may be longer than 255 characters, or"
        " begin with `=`, `+`, `-` or `@`.",
    )
    cards: _Cards | None = Field(
        None,
        validate_default=True,
        description="The cards, instead of `count` and `card_id_pattern`.",
    )
    batch_id: Name | None = Field(
        None, description="Your id of the batch, unique in the account. Default: the command_id."
    )
    type: CardType = Field(CardType.GIFT_CARD, description="Type of the cards.")
    name: Text255 | None = Field(None, description="Name of the batch, shown to people.")
    metadata: Metadata | None = Field(None, description=METADATA)
    options: BatchOptions | None = Field(
        None, description="Give each card a token, a PIN, or both. Default: neither."
    )
    seal_to: Recipients | None = Field(None, description=SEAL_TO)
    seal_pins_to: Recipients | None = Field(
        None,
        description="age recipients of the PINs, which go into a separate file then. Default: one"
        " file for all. Only with `options.pin`.",
    )
    needs_approval: StrictBool = Field(
        False,
        description="Wait until another person than `created_by`, which is required then, approves"
        f" the order. Without approval it is cancelled after {APPROVAL_WITHIN.days} days.",
    )

    @property
    def called(self) -> str:
        """Return the id of the batch."""
        return self.batch_id if self.batch_id is not None else self.command_id

    @property
    def requested(self) -> int:
        """Return the number of cards."""
        if self.cards is not None:
            return len(self.cards)
        assert self.count is not None
        return self.count

    @field_validator("card_id_pattern")
    @classmethod
    def _names_all(cls, text: str | None, info: ValidationInfo) -> str | None:
        count = info.data.get("count")
        if text is None:
            if count is not None:
                raise PydanticCustomError("pattern", "is required with count")
            return None
        pattern = Pattern.read(text)
        if "count" in info.data and count is None:
            raise PydanticCustomError("pattern", "requires count")
        if count is not None and not pattern.fits(count):
            message = "makes card_ids of more than 255 characters"
            raise PydanticCustomError("pattern", message)
        no_formula(pattern.card_id(1))
        return text

    @field_validator("cards")
    @classmethod
    def _instead(
        cls, cards: tuple[BatchCard, ...] | None, info: ValidationInfo
    ) -> tuple[BatchCard, ...] | None:
        named = [info.data.get(name, ...) for name in ("count", "card_id_pattern")]
        if ... in named:  # that one is invalid already
            return cards
        is_ordered = any(value is not None for value in named)
        if (cards is None) is not is_ordered:
            message = "give either cards, or count and card_id_pattern"
            raise PydanticCustomError("cards", message)
        return cards

    @field_validator("seal_pins_to")
    @classmethod
    def _there_are_pins(
        cls, recipients: tuple[str, ...] | None, info: ValidationInfo
    ) -> tuple[str, ...] | None:
        options = info.data.get("options", ...)
        if recipients is not None and options is not ... and getattr(options, "pin", None) is None:
            raise PydanticCustomError("pins", "is only allowed with options.pin")
        return recipients


class ApproveBatch(Request):
    """Approve an order that waits for it, as another person than the one who ordered."""

    command: Literal["batches.approve"] = "batches.approve"
    batch_id: Name = Field(description=BATCH_ID)
    reason: ReasonText | None = Field(None, description=REASON)


class CancelBatch(Request):
    """Cancel an order and remove its cards. If it is complete, close its inactive cards."""

    command: Literal["batches.cancel"] = "batches.cancel"
    batch_id: Name = Field(description=BATCH_ID)
    reason: ReasonText | None = Field(None, description=REASON)


class LapseBatch(InternalCommand, CancelBatch):
    """Cancel an order that wasn't approved in time."""


class _OnCards(Request):
    """A command on all cards of a batch, or on those with certain numbers."""

    batch_id: Name = Field(description=BATCH_ID)
    first: Number = Field(1, description="Number of the first card, from 1.")
    last: Number | None = Field(
        None, description="Number of the last card, at least `first`. Default: the last one."
    )

    @field_validator("last")
    @classmethod
    def _not_before_first(cls, last: int | None, info: ValidationInfo) -> int | None:
        if last is not None and last < info.data.get("first", 1):
            raise PydanticCustomError("range", "must not be less than first")
        return last


class BlockBatch(_OnCards):
    """Block the cards of a batch, each as `cards.block` does."""

    command: Literal["batches.block"] = "batches.block"
    reason: ReasonText = Field(description=REASON)


class UnblockBatch(_OnCards):
    """Unblock the cards of a batch, each as `cards.unblock` does."""

    command: Literal["batches.unblock"] = "batches.unblock"
    reason: ReasonText = Field(description=REASON)


class CloseBatch(_OnCards):
    """Close the cards of a batch for good, each as `cards.close` does."""

    command: Literal["batches.close"] = "batches.close"
    reason: ReasonText = Field(description=REASON)


class ExtendBatch(_OnCards):
    """Give the cards of a batch a later expiry time, each as `cards.update` does."""

    command: Literal["batches.extend"] = "batches.extend"
    expires_at: Time = Field(
        description="The new expiry time, in the future and after that of each card."
    )


Recall: TypeAlias = BlockBatch | UnblockBatch | CloseBatch | ExtendBatch
"""A command that is applied to the cards of a batch, one after the other."""
OnBatch: TypeAlias = ApproveBatch | CancelBatch | Recall
"""A command on an existing batch."""
BatchCommand: TypeAlias = CreateBatch | OnBatch
"""A command on a batch that producers may send."""
ABOUT_BATCHES = frozenset(get_args(BatchCommand))
