"""Rows: cards, and what belongs to them, batches, files, jobs and accounts. All are values."""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, TypeAlias
from uuid import UUID

from card_worker.contracts.batches import APPROVAL_WITHIN
from card_worker.contracts.enums import (
    Action,
    BatchState,
    CardType,
    Expiry,
    Funding,
    Side,
    Status,
    TransactionType,
)
from card_worker.contracts.metadata import Json
from card_worker.contracts.patterns import Pattern
from card_worker.money import Currency

CardKey: TypeAlias = tuple[str, str]
"""(account_id, card_id)."""
BatchKey: TypeAlias = tuple[str, str]
"""(account_id, batch_id)."""
CardUuid: TypeAlias = UUID
"""The service's own id of a card."""
TransactionUuid: TypeAlias = UUID
"""The id of a transaction, and of the hold that a pending one places."""
TokenUuid: TypeAlias = UUID
EventUuid: TypeAlias = UUID


class State(StrEnum):
    """The stored state of a card. Its status also depends on the time."""

    INACTIVE = "inactive"
    ACTIVE = "active"
    EXPIRED = "expired"
    CLOSED = "closed"


class Outcome(StrEnum):
    """The outcome of a PIN attempt."""

    OPEN = "open"
    """Not checked yet."""
    WRONG = "wrong"
    CLEARED = "cleared"
    """Right, or never compared, or followed by a right one: it no longer counts."""


class FileKind(StrEnum):
    """The kind of a file of a batch."""

    CODES = "codes"
    """The cards with their tokens and PINs; without the PINs if these have a separate file."""
    PINS = "pins"
    REFUSED = "refused"
    """The cards that a recall refused, with the reasons."""


class Card(NamedTuple):
    """A card. Amounts in minor units; `version` is the number of events it has had."""

    id: CardUuid
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
    metadata: dict[str, Json] | None = None
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
    """Whether it ever had a token or a PIN: only then are these loaded."""
    changed_at: datetime | None = None
    """The time of its last event; None: `created_at`."""
    activation: int = 0
    """The number of its activations."""
    activated_by: str | None = None
    activated_from: str | None = None
    postings: int = 0
    """The number of its transactions since the last activation, with the load."""
    replaced_by: CardUuid | None = None

    @property
    def key(self) -> CardKey:
        return self.account_id, self.card_id

    def time(self, now: datetime) -> datetime:
        """Return the time of an event of the card at `now`: never before its last event."""
        return max(now, self.changed_at or self.created_at)

    @property
    def amount_available(self) -> int:
        return self.amount_balance - self.amount_reserved

    def is_due(self, now: datetime) -> bool:
        """Say whether the card has expired, with or without an event for that."""
        return self.expires_at is not None and self.expires_at <= now

    def status(self, now: datetime) -> Status:
        """Return the status at `now`."""
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
    """One movement of a card's money. It has two sides, so it is always balanced."""

    id: TransactionUuid
    account_id: str
    card: CardUuid
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
    parent_id: TransactionUuid | None = None
    metadata: dict[str, Json] | None = None
    funding: Funding | None = None


class Hold(NamedTuple):
    """The amount that a pending transaction locks. It has the id of that. In minor units."""

    id: TransactionUuid
    account_id: str
    card: CardUuid
    amount: int
    created_at: datetime
    expires_at: datetime | None = None
    captured: int = 0
    released: int = 0

    @property
    def amount_open(self) -> int:
        """Return what is still locked, also after the hold has expired."""
        return self.amount - self.captured - self.released

    def is_due(self, now: datetime) -> bool:
        """Say whether the hold has expired, with or without an event for that."""
        return self.expires_at is not None and self.expires_at <= now


class Token(NamedTuple):
    """What is stored of a value that names a card."""

    id: TokenUuid
    account_id: str
    card: CardUuid
    kid: str
    """The pepper it was hashed with."""
    digest: str
    masked_code: str
    created_at: datetime
    ref_id: str | None = None
    format: dict[str, Json] | None = None
    expires_at: datetime | None = None
    expires_after_transaction: bool = False
    metadata: dict[str, Json] | None = None
    spent_at: datetime | None = None
    revoked_at: datetime | None = None
    issued_expires_at: datetime | None = None
    """`expires_at` before the card's activation changed it."""
    issued_expires_after_transaction: bool | None = None
    """The same of `expires_after_transaction`; None: the activation changed neither."""

    def serves(self, now: datetime) -> bool:
        """Say whether the token is usable at `now`."""
        is_over = self.expires_at is not None and self.expires_at <= now
        return not (is_over or self.spent_at or self.revoked_at)

    def as_issued(self) -> "Token":
        """Return the token as it was before the card's activation."""
        is_once = self.issued_expires_after_transaction
        # A revoked token stays as it is, because it is not always in the books.
        if is_once is None or self.revoked_at is not None:
            return self
        return self._replace(
            expires_at=self.issued_expires_at,
            expires_after_transaction=is_once,
            issued_expires_at=None,
            issued_expires_after_transaction=None,
        )


def tokens_serving(tokens: Iterable[Token], now: datetime) -> list[Token]:
    """Return the tokens that are usable at `now`, the oldest first."""
    serving = (token for token in tokens if token.serves(now))
    return sorted(serving, key=lambda token: (token.created_at, token.id))


class Pin(NamedTuple):
    """What is stored of a card's PIN. It has the id of its card."""

    id: CardUuid
    account_id: str
    kid: str
    digest: str
    changed_at: datetime
    format: dict[str, Json] | None = None
    locked_until: datetime | None = None
    """The end of its last lock, also after that, until a payment with the PIN or an unblock."""

    def is_locked(self, now: datetime) -> bool:
        """Say whether the PIN is locked at `now`, the time of the database's clock."""
        return self.locked_until is not None and self.locked_until > now


class PinAttempt(NamedTuple):
    """A PIN that a command or query has. It is stored before the PIN is compared."""

    id: EventUuid
    """That of the answer to the command."""
    account_id: str
    card: CardUuid | None
    number: int
    """PIN attempts of a card are numbered in the order in which they were stored."""
    outcome: Outcome
    created_at: datetime


class File(NamedTuple):
    """A file about the cards of a batch. Its parts are stored until it has arrived."""

    name: str
    """Its path under FILES_URL."""
    account_id: str
    batch_id: str
    kind: FileKind
    sha256: str
    cards: int
    bytes: int
    recipients: list[str]
    """The recipients it is sealed to; none if it is not sealed."""
    created_at: datetime
    written_at: datetime | None = None
    confirmed_at: datetime | None = None
    last_error: str | None = None
    """Why the last attempt to write it failed."""


class FilePart(NamedTuple):
    """A part of a file. Parts are numbered."""

    name: str
    number: int
    content: str
    """Base64."""


class Account(NamedTuple):
    """The rules of a tenant. These are the defaults."""

    account_id: str
    currencies: tuple[Currency, ...] | None = None
    """The currencies that cards may have; None: all."""
    load_max: int | None = None
    """The highest first load of a card, in minor units."""
    balance_max: int | None = None
    """The highest balance of a card, in minor units."""
    expiry: Expiry = Expiry.KEEP
    reversal_window_s: int = 24 * 3600
    """How long after it an activation can be reversed."""
    recipients: tuple[str, ...] | None = None
    """The recipients of sealed secrets when a command has none."""
    transfers_extend_expiry: bool = True
    """Whether money may move to a card that expires later."""
    approve_from: int | None = None
    """The number of cards from which a batch needs approval; None: only if its order says so."""


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
    metadata: dict[str, Json] | None = None
    command_id: str | None = None
    """The command_id of its order."""
    pattern: str | None = None
    """The pattern of its card_ids."""
    card_list: list[dict[str, str]] | None = None
    """Its cards if there is no pattern: `card_id`, and `type` if it differs from the batch's."""
    options: dict[str, Json] | None = None
    """The options of its cards' tokens and PINs."""
    recipients: list[str] | None = None
    pin_recipients: list[str] | None = None
    busy: bool = False
    """Whether its cards are waiting to be created, or being created, removed or withdrawn."""
    job_count: int = 0
    """The number of jobs that have begun on its cards."""
    approved_by: str | None = None
    completed_at: datetime | None = None
    last_error: str | None = None
    """Why its job makes no progress, or why it was cancelled without a command."""

    @property
    def key(self) -> BatchKey:
        return self.account_id, self.batch_id

    def card_ids(self, first: int, count: int) -> list[str]:
        """Return the card_ids of the cards with these numbers. Numbers begin at 1."""
        if self.pattern is not None:
            return Pattern.known(self.pattern).card_ids(first, count)
        assert self.card_list is not None
        return [card["card_id"] for card in self.card_list[first - 1 : first - 1 + count]]

    def types(self, first: int, count: int) -> list[CardType]:
        """Return the types of the cards with these numbers. Numbers begin at 1."""
        if self.card_list is None:
            return [self.type] * count
        listed = self.card_list[first - 1 : first - 1 + count]
        return [CardType(card["type"]) if "type" in card else self.type for card in listed]

    def has_lapsed(self, now: datetime) -> bool:
        """Say whether the order was not approved in time."""
        waits = self.state is BatchState.AWAITING_APPROVAL
        return waits and self.created_at + APPROVAL_WITHIN <= now

    def names_by_pattern(self, card_id: str) -> bool:
        """Say whether the order's pattern has a card with this card_id."""
        if self.pattern is None:
            return False
        number = Pattern.known(self.pattern).number_of(card_id)
        return number is not None and 1 <= number <= self.requested


CARDS_PER_CHUNK = {Action.MAKE: 5_000, Action.REMOVE: 1_000}
"""A worker does one chunk at a time. Other messages wait no longer than that."""
CARDS_PER_RECALL = 200


class Job(NamedTuple):
    """An action on the cards of a batch. It is done in numbered chunks, each in one commit.

    One more number, after those of the chunks, stands for the end of the job.
    """

    id: EventUuid
    """That of the event that began it."""
    account_id: str
    batch_id: str
    action: Action
    sequence: int
    """The jobs of a batch are done in this order, one after the other."""
    first: int
    last: int
    chunk_cards: int
    open_chunks: int
    """The number of chunks that are not done."""
    command: str
    command_id: str
    created_at: datetime
    last_activity_at: datetime
    """When a chunk was last done, or requested again."""
    last_progress_at: datetime
    """When its progress was last published."""
    created_by: str | None = None
    originated_by: str | None = None
    reason: str | None = None
    expires_at: datetime | None = None
    done: int = 0
    """A number of cards, as the next two."""
    already: int = 0
    refused: int = 0
    ended_at: datetime | None = None

    @property
    def chunks(self) -> int:
        return -(-(self.last - self.first + 1) // self.chunk_cards)

    @property
    def end(self) -> int:
        """Return the number that stands for the end of the job."""
        return self.chunks + 1

    def span(self, number: int) -> tuple[int, int]:
        """Return the number of the chunk's first card, and its number of cards."""
        first = self.first + (number - 1) * self.chunk_cards
        return first, min(self.chunk_cards, self.last - first + 1)
