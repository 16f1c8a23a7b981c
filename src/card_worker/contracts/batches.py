"""Commands on batches: cards that are ordered, let go, called back, many at a time."""

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
from typing_extensions import TypeIs

from card_worker.contracts.about import AboutAccount, OwnCommand, alternatives, given
from card_worker.contracts.codes import BatchOptions
from card_worker.contracts.enums import CardType
from card_worker.contracts.fields import (
    ID_SCHEMA,
    CellName,
    Metadata,
    Name,
    Text255,
    Time,
    Why,
    read_id,
)
from card_worker.contracts.patterns import PATTERN, Pattern
from card_worker.contracts.secret_fields import Recipients
from card_worker.secrets.formats import FORMULA_PATTERN, no_formula

CARDS_PER_BATCH_MAX = 1_000
CARDS_PER_ORDER_MAX = 10_000_000
WAITING_ORDERS_MAX = 100
"""Orders of an account that may wait for approval at a time."""
APPROVAL_WITHIN = timedelta(days=30)
"""An order that nobody has approved within this time lapses."""

Number = Annotated[StrictInt, Field(ge=1, le=CARDS_PER_ORDER_MAX)]
"""The place of a card in its batch, from 1."""


class BatchCard(BaseModel):
    """One card of a listed batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    card_id: CellName = Field(
        description="What the caller calls the card, for ever; no = + - @ in front"
    )
    type: CardType | None = Field(None, description="Absent: the batch's type")


_LONG_LIST = TypeAdapter(Annotated[tuple[BatchCard, ...], FailFast()])


def _read_long_list(cards: object) -> object:
    """Read a list that is too long for a batch anyhow up to its first wrong card only."""
    if isinstance(cards, list | tuple) and len(cards) > CARDS_PER_BATCH_MAX:
        return _LONG_LIST.validate_python(cards)
    return cards


# How many there may be at most the rules say, in the place that this has among their reasons.
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


class CreateBatch(AboutAccount):
    """Make cards, inactive and without money: those of a list, or as many as a pattern names.

    A list is made in one step, all of it or nothing. A pattern is an order: it is accepted, made
    piece by piece, and no card of it can be used before the last one is made.
    """

    model_config = ConfigDict(
        json_schema_extra={
            **alternatives(["cards"], ["count", "card_id_pattern"]),
            "if": given("seal_pins_to"),
            "then": given("options", given("pin")),
        }
    )

    command: Literal["cards.batch_create"] = "cards.batch_create"
    count: _Count | None = Field(None, description="How many cards, numbered from 1")
    card_id_pattern: _CardIdPattern | None = Field(
        None,
        validate_default=True,
        description="How they are called: `{n}` or `{n:08d}` is the number, `{luhn}` at the end a"
        " check digit over all digits before it; no = + - @ in front. No name may have more than"
        " 255 characters",
    )
    cards: _Cards | None = Field(
        None, validate_default=True, description="One by one, instead of a count and a pattern"
    )
    batch_id: Name | None = Field(None, description="Absent: the command_id")
    type: CardType = Field(CardType.GIFT_CARD, description="What it is")
    name: Text255 | None = Field(None, description="What people call it")
    metadata: Metadata | None = Field(None, description="Free JSON, at most 16 KiB")
    options: BatchOptions | None = Field(None, description="Make each with a token, a PIN, or both")
    seal_to: Recipients | None = Field(
        None, description="Who can open it: age recipients; absent: the account's"
    )
    seal_pins_to: Recipients | None = Field(
        None, description="Who can open the PINs, in a file of their own; absent: who can open it"
    )
    needs_approval: StrictBool = Field(
        False,
        description="Wait until somebody else than `created_by` approves. An order that nobody"
        f" approves within {APPROVAL_WITHIN.days} days is cancelled",
    )

    @property
    def called(self) -> str:
        """Return what the batch is called: what its order says, else the id of the order."""
        return self.batch_id if self.batch_id is not None else self.command_id

    @property
    def requested(self) -> int:
        """Return how many cards are wanted."""
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
                raise PydanticCustomError("pattern", "is needed with a count")
            return None
        pattern = Pattern.read(text)
        if "count" in info.data and count is None:
            raise PydanticCustomError("pattern", "needs a count")
        if count is not None and not pattern.fits(count):
            raise PydanticCustomError("pattern", "doesn't make names that cards can have")
        no_formula(pattern.card_id(1))
        return text

    @field_validator("cards")
    @classmethod
    def _instead(
        cls, cards: tuple[BatchCard, ...] | None, info: ValidationInfo
    ) -> tuple[BatchCard, ...] | None:
        named = [info.data.get(name, ...) for name in ("count", "card_id_pattern")]
        if ... in named:  # one is wrong, and has been told so
            return cards
        is_ordered = any(value is not None for value in named)
        if (cards is None) is not is_ordered:
            message = "give either cards, or a count and a card_id_pattern"
            raise PydanticCustomError("cards", message)
        return cards

    @field_validator("seal_pins_to")
    @classmethod
    def _there_are_pins(
        cls, recipients: tuple[str, ...] | None, info: ValidationInfo
    ) -> tuple[str, ...] | None:
        options = info.data.get("options", ...)
        if recipients is not None and options is not ... and getattr(options, "pin", None) is None:
            raise PydanticCustomError("pins", "no PINs are asked for")
        return recipients


class ApproveBatch(AboutAccount):
    """Let an order be made that waits for it. Somebody else than who ordered has to."""

    command: Literal["batches.approve"] = "batches.approve"
    batch_id: Name = Field(description="What its order called it, or the command_id of that")
    reason: Why | None = Field(None, description="For people")


class CancelBatch(AboutAccount):
    """Stop an order and remove what was made; of one that is complete, close what isn't active."""

    command: Literal["batches.cancel"] = "batches.cancel"
    batch_id: Name = Field(description="What its order called it, or the command_id of that")
    reason: Why | None = Field(None, description="For people")


class LapseBatch(OwnCommand, CancelBatch):
    """Cancel an order that nobody has approved in time."""


class _OnCards(AboutAccount):
    """What is done to all cards of a batch, or to those in a range of its numbers."""

    batch_id: Name = Field(description="What its order called it, or the command_id of that")
    first: Number = Field(1, description="The number of the first card")
    last: Number | None = Field(
        None, description="The number of the last one, not below first; absent: of all"
    )

    @field_validator("last")
    @classmethod
    def _not_before_first(cls, last: int | None, info: ValidationInfo) -> int | None:
        if last is not None and last < info.data.get("first", 1):
            raise PydanticCustomError("range", "must not be before first")
        return last


class BlockBatch(_OnCards):
    """Freeze the cards of a batch, each as `cards.block` does."""

    command: Literal["batches.block"] = "batches.block"
    reason: Why = Field(description="For people")


class UnblockBatch(_OnCards):
    """Thaw the cards of a batch, each as `cards.unblock` does."""

    command: Literal["batches.unblock"] = "batches.unblock"
    reason: Why = Field(description="For people")


class CloseBatch(_OnCards):
    """End the cards of a batch for good, each as `cards.close` does."""

    command: Literal["batches.close"] = "batches.close"
    reason: Why = Field(description="For people")


class ExtendBatch(_OnCards):
    """Put the end of the cards of a batch off, each as `cards.update` does."""

    command: Literal["batches.extend"] = "batches.extend"
    expires_at: Time = Field(description="Later than now, and than it is")


Recall: TypeAlias = BlockBatch | UnblockBatch | CloseBatch | ExtendBatch
"""What goes on with the cards of a batch, one after the other."""
OnBatch: TypeAlias = ApproveBatch | CancelBatch | Recall
"""What names a batch that exists."""
ABOUT_BATCHES = frozenset([CreateBatch, LapseBatch, *get_args(OnBatch)])


def is_about_batch(command: object) -> TypeIs[CreateBatch | OnBatch]:
    """Say whether a command is about a batch: by its type, since a union is slow to ask."""
    return type(command) in ABOUT_BATCHES
