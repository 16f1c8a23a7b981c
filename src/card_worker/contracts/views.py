"""The objects in events and in the results of queries: cards, transactions, holds, batches, files.

They are typed dictionaries: the core fills them in, `write` turns them into JSON. The texts below
the fields go into the JSON Schemas and into the reference.
"""

from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, with_config
from typing_extensions import TypedDict  # typing's own isn't enough for pydantic before 3.12

from card_worker.contracts.enums import (
    Action,
    BatchState,
    CardType,
    Funding,
    Side,
    Status,
    TransactionType,
)
from card_worker.contracts.fields import Time
from card_worker.money import Amount, Currency

PROBLEMS_MAX = 20
"""Largest number of invalid fields, or cards of a batch, that a refusal names."""

View = TypeVar("View", bound=type)


def documented(view: View) -> View:
    """Take the texts below the fields for their descriptions."""
    return with_config(ConfigDict(use_attribute_docstrings=True))(view)


class Problem(BaseModel):
    """An invalid field. Its value is never repeated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    field: str = Field(description="Path of the field, such as `cards.3.card_id`; empty: all.")
    message: str = Field(description="What is wrong with it, for people.")


@documented
class TokenView(TypedDict):
    """A token of a card, without its value."""

    id: UUID
    """Id of the token."""
    ref_id: str | None
    """The `ref_id` of `tokens.create`; null for the token that the card was made with."""
    masked_code: str
    """The token with all but its prefix replaced by `*`. Its last four characters are shown only if
    at least 64 random bits stay hidden."""
    format: dict[str, Any] | None
    """The format, complete with its defaults; null: `DINCARD:` and a random UUID."""
    expires_at: Time | None
    """When the token expires; null: with the card."""
    expires_after_transaction: bool
    """Whether the first accepted transaction uses it up."""


@documented
class PinView(TypedDict):
    """The PIN of a card, without its value."""

    format: dict[str, Any]
    """The format, complete with its defaults."""
    locked_until: Time | None
    """Until when the card can't be used by a token or the PIN, after wrong PINs; null, or a time
    that has passed: the PIN is not locked."""


@documented
class FileView(TypedDict):
    """A file about the cards of a batch, in the store of FILES_URL."""

    name: str
    """Path of the file in the store."""
    sha256: str
    """SHA-256 of the file as it is stored, 64 hex digits."""
    cards: int
    """Number of cards in the file."""
    bytes: int
    """Size of the file as it is stored."""
    recipients: tuple[str, ...]
    """The age recipients who can open the file; empty: it isn't encrypted."""


@documented
class CardView(TypedDict):
    """A card after an event, or at the time of a query. Amounts are in minor units."""

    account_id: str
    """The account that owns the card."""
    card_id: str
    """The producer's id of the card."""
    id: UUID
    """The worker's own id of the card."""
    type: CardType
    """Type of the card."""
    currency: Currency | None
    """ISO 4217; null until the card is activated."""
    amount: Amount
    """The first load."""
    customer_id: str | None
    """The customer who owns the card."""
    name: str | None
    """Name of the card, shown to people."""
    originated_by: str | None
    """The `originated_by` of the command that made the card."""
    metadata: dict[str, Any] | None
    """The producer's own data."""
    active_from: Time | None
    """Nothing can be spent before this time."""
    expires_at: Time | None
    """When the card expires; null: never."""
    status: Status
    """Status of the card at the time of the event."""
    created_at: Time
    """When the card was made."""
    created_by: str | None
    """The `created_by` of the command that made the card."""
    activation: int
    """Number of activations so far: 0 for a card that was never active, 1 for most others."""
    activated_by: str | None
    """The `created_by` of the last activation; null also after it was reversed."""
    activated_from: str | None
    """The `originated_by` of the last activation; null also after it was reversed."""
    version: int
    """Number of the card's events so far, from 1."""
    amount_funds: Amount
    """Sum of all loads and refunds, less reversed activations."""
    amount_drawdown: Amount
    """Sum of all drawdowns, captures among them. A refund doesn't lower it."""
    amount_balance: Amount
    """The money on the card, reserved or not."""
    amount_pending: Amount
    """Sum of all amounts ever reserved. It never falls; see `amount_reserved`."""
    amount_reserved: Amount
    """The part of the balance that holds reserve now."""
    amount_available: Amount
    """What can be spent now: `amount_balance` less `amount_reserved`."""
    tokens: tuple[TokenView, ...]
    """The tokens that can be used."""
    pin: PinView | None
    """The card's PIN; null: it has none."""


@documented
class TransactionView(TypedDict):
    """One movement of a card's money, or one reservation. Amounts are in minor units."""

    id: UUID
    """Id of the transaction, which later commands refer to."""
    account_id: str
    """The account that owns the card."""
    card_id: str
    """The card."""
    type: TransactionType
    """Why the money moved."""
    amount: Amount
    """The amount, never negative; `debit` and `credit` give the direction."""
    currency: Currency
    """ISO 4217."""
    debit: Side
    """Where the money came from."""
    credit: Side
    """Where the money went."""
    ref_id: str | None
    """The `ref_id` of the command, if it has one; null where a transfer arrives, and for what a
    `final` capture releases."""
    parent_id: UUID | None
    """The transaction that is captured, voided or refunded; null: none."""
    funding: Funding | None
    """Why the money was put onto the card; null: no new money came in."""
    metadata: dict[str, Any] | None
    """The metadata of the command; null for the first load, whose metadata is the card's, and for
    what a `final` capture releases."""
    originated_by: str | None
    """The `originated_by` of the command."""
    created_at: Time
    """When the money moved."""
    created_by: str | None
    """The `created_by` of the command."""
    balance_before: Amount
    """The card's `amount_balance` before."""
    balance_after: Amount
    """The card's `amount_balance` after."""
    version: int
    """The card's version after. It orders the transactions of a card."""


@documented
class HoldView(TypedDict):
    """A hold: the amount that a pending transaction reserves. Amounts are in minor units."""

    id: UUID
    """Id of the hold, which is the id of its pending transaction."""
    amount: Amount
    """The amount that was reserved at first."""
    amount_captured: Amount
    """The part that was captured (spent)."""
    amount_released: Amount
    """The part that was voided or has expired."""
    amount_open: Amount
    """The part that is still reserved."""
    expires_at: Time | None
    """When the hold expires; null: never."""


@documented
class BatchCardView(TypedDict):
    """A card of a listed batch. Its version is 1."""

    id: UUID
    """The worker's own id of the card."""
    card_id: str
    """The producer's id of the card."""
    type: CardType
    """Type of the card."""
    status: Status
    """Status of the card."""
    masked_code: str | None
    """The card's token, masked as the card shows it; null: it has none."""


@documented
class RecallView(TypedDict):
    """The progress of a command on the cards of a batch."""

    action: Action
    """What is done to the cards."""
    first: int
    """Number of the first card."""
    last: int
    """Number of the last card."""
    done: int
    """Number of cards that were changed so far."""
    already: int
    """Number of cards that were in the wanted state already."""
    refused: int
    """Number of cards that could not be changed. The file names them, but not after `cancel`."""


@documented
class BatchView(TypedDict):
    """A batch at the time of a query."""

    account_id: str
    """The account that owns the batch."""
    batch_id: str
    """The producer's id of the batch."""
    state: BatchState
    """State of the batch."""
    type: CardType
    """Type of its cards."""
    requested: int
    """Number of cards that were ordered."""
    created: int
    """Number of cards that exist so far."""
    card_id_pattern: str | None
    """The pattern of the card_ids; null: a list."""
    approved_by: str | None
    """Who approved the order."""
    completed_at: Time | None
    """When the last card was made."""
    last_error: str | None
    """Why the order makes no progress, or why the worker cancelled it; null: no error."""
    files: tuple[FileView, ...]
    """The files of the batch."""
    name: str | None
    """Name of the batch."""
    metadata: dict[str, Any] | None
    """The producer's own data."""
    originated_by: str | None
    """The `originated_by` of the order."""
    created_at: Time
    """When the order was accepted."""
    created_by: str | None
    """Who ordered."""
