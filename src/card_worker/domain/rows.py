"""Rows: what is kept of cards, what hangs on them, batches and accounts. All are values."""

from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from card_worker.contracts.batches import APPROVAL_WITHIN
from card_worker.contracts.enums import (
    Action,
    BatchState,
    CardType,
    Expiry,
    Side,
    Status,
    TransactionType,
)
from card_worker.contracts.patterns import Pattern
from card_worker.money import Currency

CardKey = tuple[str, str]
"""(account_id, card_id)."""
BatchKey = tuple[str, str]
"""(account_id, batch_id)."""


class State(StrEnum):
    """What is stored of a card's life; what it shows depends on the time as well."""

    INACTIVE = "inactive"
    ACTIVE = "active"
    EXPIRED = "expired"
    CLOSED = "closed"


class Outcome(StrEnum):
    """What became of a PIN that was given."""

    OPEN = "open"
    """Not looked at yet."""
    WRONG = "wrong"
    SETTLED = "settled"
    """Right, or never compared, or followed by a right one: it counts no more."""


class Holds(StrEnum):
    """What stands in a file."""

    CODES = "codes"
    """The cards, with their tokens and PINs; without the PINs where these have a file."""
    PINS = "pins"
    REFUSED = "refused"
    """The cards that a recall couldn't be done to, and why."""


class Card(NamedTuple):
    """A card. Amounts in minor units; `version` is the number of events it has had."""

    id: UUID
    account_id: str
    card_id: str
    type: CardType
    state: State
    created_at: datetime
    created_by: str | None = None
    originated_by: str | None = None
    batch_id: str | None = None
    blocked: bool = False
    currency: Currency | None = None
    amount: int = 0
    customer_id: str | None = None
    name: str | None = None
    metadata: dict[str, Any] | None = None
    active_from: datetime | None = None
    activated_at: datetime | None = None
    expires_at: datetime | None = None
    version: int = 1
    amount_funds: int = 0
    amount_drawdown: int = 0
    amount_balance: int = 0
    amount_pending: int = 0
    amount_reserved: int = 0
    has_codes: bool = False
    """Whether it ever had a token or a PIN; a card that has none isn't asked for them."""
    changed_at: datetime | None = None
    """The time of its last event; None: `created_at`."""

    @property
    def key(self) -> CardKey:
        return self.account_id, self.card_id

    def time(self, now: datetime) -> datetime:
        """Return the time of what happens to the card at `now`: never before its last event."""
        return max(now, self.changed_at or self.created_at)

    @property
    def amount_available(self) -> int:
        return self.amount_balance - self.amount_reserved

    def is_due(self, now: datetime) -> bool:
        """Say whether the card's time has passed, noted or not."""
        return self.expires_at is not None and self.expires_at <= now

    def status(self, now: datetime) -> Status:
        """Return what the card shows at `now`."""
        if self.state is State.INACTIVE:
            return Status.INACTIVE
        if self.state is State.CLOSED:
            return Status.CLOSED
        if self.state is State.EXPIRED or self.is_due(now):
            return Status.EXPIRED
        if self.blocked:
            return Status.BLOCKED
        if self.amount_drawdown == 0:
            return Status.UNUSED
        return Status.USED if self.amount_balance == 0 else Status.PARTIALLY_USED


class Transaction(NamedTuple):
    """One movement of a card's money. It has two sides, so an unbalanced one can't be written."""

    id: UUID
    account_id: str
    card: UUID
    type: TransactionType
    amount: int
    currency: Currency
    debit: Side
    credit: Side
    balance_before: int
    balance_after: int
    version: int
    created_at: datetime
    created_by: str | None = None
    originated_by: str | None = None
    ref_id: str | None = None
    parent_id: UUID | None = None
    metadata: dict[str, Any] | None = None


class Hold(NamedTuple):
    """What a pending transaction, whose id it has, keeps locked. Amounts in minor units."""

    id: UUID
    account_id: str
    card: UUID
    amount: int
    created_at: datetime
    expires_at: datetime | None = None
    captured: int = 0
    released: int = 0

    @property
    def amount_open(self) -> int:
        """Return what is still locked, noted or not that its time is up."""
        return self.amount - self.captured - self.released

    def is_due(self, now: datetime) -> bool:
        """Say whether its time is up, noted or not."""
        return self.expires_at is not None and self.expires_at <= now


class Token(NamedTuple):
    """A value that names a card: what is kept of it."""

    id: UUID
    account_id: str
    card: UUID
    kid: str
    """Which pepper it was hashed with."""
    digest: str
    masked_code: str
    created_at: datetime
    ref_id: str | None = None
    format: dict[str, Any] | None = None
    expires_at: datetime | None = None
    expires_after_transaction: bool = False
    metadata: dict[str, Any] | None = None
    spent_at: datetime | None = None
    revoked_at: datetime | None = None

    def serves(self, now: datetime) -> bool:
        """Say whether the token names its card at `now`."""
        is_over = self.expires_at is not None and self.expires_at <= now
        return not (is_over or self.spent_at or self.revoked_at)


class Pin(NamedTuple):
    """A card's PIN: what is kept of it. It has the id of its card."""

    id: UUID
    account_id: str
    kid: str
    digest: str
    changed_at: datetime
    format: dict[str, Any] | None = None


class PinAttempt(NamedTuple):
    """A PIN that was given, noted before anybody looks whether it is the right one."""

    id: UUID
    """That of the event which answers the command."""
    account_id: str
    card: UUID | None
    number: int
    """The card's PIN attempts are numbered in the order in which they were noted."""
    outcome: Outcome
    created_at: datetime


class File(NamedTuple):
    """A file about the cards of a batch. Its parts are kept until it has arrived."""

    name: str
    """Where it lies, under FILES_URL."""
    account_id: str
    batch_id: str
    holds: Holds
    sha256: str
    cards: int
    bytes: int
    recipients: list[str]
    """Who can open it; nobody is named where it is not sealed."""
    created_at: datetime
    written_at: datetime | None = None
    confirmed_at: datetime | None = None
    last_error: str | None = None
    """Why it couldn't be put in its place, the last time."""


class FilePart(NamedTuple):
    """A piece of a file, in the order of their numbers."""

    name: str
    number: int
    content: str
    """Base64."""


class Account(NamedTuple):
    """A tenant's own rules. One that was never set up has these."""

    account_id: str
    currencies: tuple[Currency, ...] | None = None
    """Those that cards may have; None: all."""
    load_max: int | None = None
    """What a card may begin with, in minor units."""
    balance_max: int | None = None
    """What a card may hold, in minor units."""
    expiry: Expiry = Expiry.KEEP
    reversal_window_s: int = 24 * 3600
    """How long an activation can be reversed."""
    recipients: tuple[str, ...] | None = None
    """Who may open what is sealed, where a command doesn't say."""
    approve_from: int | None = None
    """A batch of so many cards, or more, needs approval; None: only one that says so."""


class Batch(NamedTuple):
    """An order of cards."""

    account_id: str
    batch_id: str
    state: BatchState
    type: CardType
    requested: int
    created: int
    created_at: datetime
    created_by: str | None = None
    originated_by: str | None = None
    name: str | None = None
    metadata: dict[str, Any] | None = None
    command_id: str | None = None
    """That of its order."""
    pattern: str | None = None
    """How its cards are called, from their numbers."""
    listed: list[dict[str, Any]] | None = None
    """Its cards, where they have no pattern: `card_id` and, where it isn't the batch's, `type`."""
    options: dict[str, Any] | None = None
    """The tokens and PINs that its cards are made with."""
    recipients: list[str] | None = None
    pin_recipients: list[str] | None = None
    busy: bool = False
    """Whether its cards are still to be made, being made, removed or let go."""
    job_count: int = 0
    """Number of jobs that have begun on its cards."""
    approved_by: str | None = None
    completed_at: datetime | None = None
    last_error: str | None = None
    """Why it doesn't get on, or was cancelled by itself."""

    @property
    def key(self) -> BatchKey:
        return self.account_id, self.batch_id

    def card_ids(self, first: int, count: int) -> list[str]:
        """Return what the cards with these numbers, from 1, are called."""
        if self.pattern is not None:
            return Pattern.known(self.pattern).card_ids(first, count)
        assert self.listed is not None
        return [card["card_id"] for card in self.listed[first - 1 : first - 1 + count]]

    def kinds(self, first: int, count: int) -> list[CardType]:
        """Return what the cards with these numbers, from 1, are."""
        if self.listed is None:
            return [self.type] * count
        listed = self.listed[first - 1 : first - 1 + count]
        return [CardType(card["type"]) if "type" in card else self.type for card in listed]

    def has_lapsed(self, now: datetime) -> bool:
        """Say whether the order waits for approval that nobody has given in time."""
        waits = self.state is BatchState.AWAITING_APPROVAL
        return waits and self.created_at + APPROVAL_WITHIN <= now

    def names_by_pattern(self, card_id: str) -> bool:
        """Say whether the order's pattern gives one of its cards this name."""
        if self.pattern is None:
            return False
        number = Pattern.known(self.pattern).number_of(card_id)
        return number is not None and 1 <= number <= self.requested


CARDS_PER_CHUNK = {Action.MAKE: 5_000, Action.REMOVE: 1_000}
"""A worker does a chunk in one go, and whoever waits for that worker waits for no more."""
CARDS_PER_RECALL = 200


class Job(NamedTuple):
    """Something that is done to the cards of a batch, in chunks: numbered, each in one commit.

    The last number, one beyond the chunks, stands for what is done when all of them are.
    """

    id: UUID
    """That of the event with which it began."""
    account_id: str
    batch_id: str
    action: Action
    sequence: int
    """Jobs of one batch are done in this order, one after the other."""
    first: int
    last: int
    chunk_cards: int
    open_chunks: int
    """How many chunks are still to be done."""
    command: str
    command_id: str
    created_at: datetime
    last_activity_at: datetime
    """When something of it was done last, or asked for again."""
    last_progress_at: datetime
    """When the world was told last how far it is."""
    created_by: str | None = None
    originated_by: str | None = None
    reason: str | None = None
    expires_at: datetime | None = None
    done: int = 0
    """Cards, as the next two."""
    already: int = 0
    refused: int = 0
    ended_at: datetime | None = None

    @classmethod
    def on(cls, batch: Batch, action: Action, first: int, last: int, **about: Any) -> "Job":
        """Return a job of which nothing is done yet; `batch` counts it already."""
        job = cls(
            account_id=batch.account_id,
            batch_id=batch.batch_id,
            action=action,
            sequence=batch.job_count,
            first=first,
            last=last,
            chunk_cards=CARDS_PER_CHUNK.get(action, CARDS_PER_RECALL),
            open_chunks=0,
            **about,
        )
        return job._replace(open_chunks=job.chunks)

    @property
    def chunks(self) -> int:
        return -(-(self.last - self.first + 1) // self.chunk_cards)

    @property
    def end(self) -> int:
        """Return the number that stands for the end."""
        return self.chunks + 1

    def span(self, number: int) -> tuple[int, int]:
        """Return the number of the chunk's first card, and how many there are."""
        first = self.first + (number - 1) * self.chunk_cards
        return first, min(self.chunk_cards, self.last - first + 1)
