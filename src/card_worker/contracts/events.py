"""Events: what comes back. One command has one answer, a CloudEvent; a refusal is an answer too.

They are typed dictionaries: the core fills them in, and `write` turns them into the bytes that the
world sees.
"""

from typing import Any, Literal, NotRequired
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from typing_extensions import TypedDict  # typing's own isn't enough for pydantic before 3.12

from card_worker.contracts.enums import (
    Action,
    BatchState,
    CardType,
    EventType,
    Reason,
    Side,
    Status,
    TransactionType,
)
from card_worker.contracts.fields import Time, write_json
from card_worker.money import Amount, Currency

PROBLEMS_MAX = 20
"""How many wrong fields, or cards of a batch, a refusal names."""


class Problem(BaseModel):
    """One field that can't be used, and why. Never its value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    field: str
    message: str


class TokenView(TypedDict):
    """A token of a card, without its value."""

    id: UUID
    ref_id: str | None
    masked_code: str
    format: dict[str, Any] | None
    expires_at: Time | None
    expires_after_transaction: bool


class PinView(TypedDict):
    """That a card has a PIN."""

    format: dict[str, Any] | None


class FileView(TypedDict):
    """A sealed file of cards: where it stands, and by what it can be told to be whole."""

    name: str
    sha256: str
    cards: int
    bytes: int
    recipients: tuple[str, ...]


class CardView(TypedDict):
    """A card as its events show it. Amounts in minor units."""

    account_id: str
    card_id: str
    id: UUID
    type: CardType
    currency: Currency | None
    amount: Amount
    customer_id: str | None
    name: str | None
    originated_by: str | None
    metadata: dict[str, Any] | None
    active_from: Time | None
    expires_at: Time | None
    status: Status
    created_at: Time
    created_by: str | None
    version: int
    amount_funds: Amount
    amount_drawdown: Amount
    amount_balance: Amount
    amount_pending: Amount
    amount_reserved: Amount
    amount_available: Amount
    tokens: tuple[TokenView, ...]
    """Those that serve."""
    pin: PinView | None


class TransactionView(TypedDict):
    """One movement of a card's money, in minor units."""

    id: UUID
    account_id: str
    card_id: str
    type: TransactionType
    amount: Amount
    currency: Currency
    debit: Side
    credit: Side
    ref_id: str | None
    parent_id: UUID | None
    metadata: dict[str, Any] | None
    originated_by: str | None
    created_at: Time
    created_by: str | None
    balance_before: Amount
    balance_after: Amount
    version: int


class CommandInfo(TypedDict):
    """What every answer repeats of its command."""

    command: str
    command_id: str
    account_id: str
    dry_run: NotRequired[Literal[True]]


class HoldView(TypedDict):
    """What a pending transaction locks, and what became of it, in minor units."""

    id: UUID
    amount: Amount
    amount_captured: Amount
    amount_released: Amount
    amount_open: Amount
    expires_at: Time | None


class CardData(CommandInfo):
    """What happened to a card: the card after it, and the transaction it made."""

    card_id: str
    version: int
    card: CardView
    transaction: TransactionView | None
    hold: NotRequired[HoldView]
    other_card_id: NotRequired[str]
    """Where the money went, or came from."""
    reason_text: NotRequired[str]
    """What the sender gave as the reason."""
    token: NotRequired[TokenView]
    """The one that was made or revoked."""
    sealed: NotRequired[str]
    """The secrets that were made, as JSON in an age file, for whoever they were sealed to."""


class BatchCardView(TypedDict):
    """A card of a batch; its version is 1."""

    card_id: str
    type: CardType


class BatchData(CommandInfo):
    """What became of a batch."""

    batch_id: str
    state: BatchState
    requested: int
    created: int
    name: str | None
    metadata: dict[str, Any] | None
    created_by: str | None
    approved_by: str | None
    card_id_pattern: NotRequired[str]
    cards: NotRequired[tuple[BatchCardView, ...]]
    file: NotRequired[FileView | None]
    """The sealed one with its cards' secrets; of a recall, that with the cards refused."""
    pin_file: NotRequired[FileView]
    """The one with the PINs, where these are sealed to somebody else."""
    reason_text: NotRequired[str]
    """What the sender gave as the reason."""
    reason: NotRequired[Reason]
    """Why an order was let go that nobody cancelled."""
    problems: NotRequired[tuple[Problem, ...]]
    recall: NotRequired["RecallView"]
    confirmed_by: NotRequired[str]
    """Who said that the files have arrived."""


class RecallView(TypedDict):
    """What is done to the cards of a batch, one after the other, and to how many it was done."""

    action: Action
    first: int
    last: int
    done: int
    already: int
    """Those for which nothing had to be done."""
    refused: int


class BatchView(TypedDict):
    """An order of cards as a query shows it."""

    account_id: str
    batch_id: str
    state: BatchState
    type: CardType
    requested: int
    created: int
    card_id_pattern: str | None
    approved_by: str | None
    completed_at: Time | None
    last_error: str | None
    """Why it doesn't get on, or was let go by itself."""
    files: tuple[FileView, ...]
    name: str | None
    metadata: dict[str, Any] | None
    originated_by: str | None
    created_at: Time
    created_by: str | None


class RejectionData(CommandInfo):
    """Why a command was refused. Nothing but this answer came of it."""

    card_id: NotRequired[str]
    reason: Reason
    message: str
    problems: NotRequired[tuple[Problem, ...]]


class Envelope(TypedDict):
    """CloudEvents 1.0. `sequence` is the card's version; what has no version has none."""

    specversion: Literal["1.0"]
    id: UUID
    source: str
    type: EventType
    subject: str
    time: Time
    datacontenttype: Literal["application/json"]
    partitionkey: str
    sequence: NotRequired[str]
    correlationid: str
    data: CardData | BatchData | RejectionData


def write(told: Envelope | CardView | TransactionView | BatchView) -> str:
    """Return JSON as it stands on the stream, in the order in which the fields were given."""
    return write_json(told)
