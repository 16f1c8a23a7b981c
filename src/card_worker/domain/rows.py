"""Rows: what is kept of a card, a transaction, a hold, a batch, an account. All are values."""

from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from card_worker.contracts.kinds import (
    BatchState,
    CardType,
    Expiry,
    Side,
    Status,
    TransactionType,
)
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

    @property
    def key(self) -> CardKey:
        return self.account_id, self.card_id

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

    @property
    def key(self) -> BatchKey:
        return self.account_id, self.batch_id
