"""The books: the rows a group of commands needs, held in memory while the rules run over them."""

from collections import ChainMap
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from card_worker.contracts.kinds import (
    BatchState,
    CardType,
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


@dataclass(slots=True)
class Books:
    """Rows by what callers call them. Rows are values: a change puts another in the place."""

    cards: MutableMapping[CardKey, Card] = field(default_factory=dict)
    batches: MutableMapping[BatchKey, Batch] = field(default_factory=dict)
    transactions: list[Transaction] = field(default_factory=list)
    _before: dict[CardKey, Card | None] = field(default_factory=dict)
    _new_batches: list[Batch] = field(default_factory=list)
    _told: int = 0

    def put(self, card: Card) -> None:
        """Let a card be as given: one that changes, or one that is new."""
        key = card.key
        self._before.setdefault(key, self.cards.get(key))
        self.cards[key] = card

    def add(self, batch: Batch) -> None:
        """Let a new batch be as given."""
        self.batches[batch.key] = batch
        self._new_batches.append(batch)

    def post(
        self,
        card: Card,
        *,
        type: TransactionType,
        amount: int,
        debit: Side,
        credit: Side,
        cause: UUID,
        at: datetime,
        created_by: str | None,
        originated_by: str | None,
        metadata: dict[str, Any] | None = None,
    ) -> Transaction:
        """Move money and write it down. Nothing else changes a balance.

        `card` is the card as its event leaves it, but for the money. `cause` is the id of the
        event, and the transaction's own: an event moves money once, or not at all.
        """
        assert amount > 0
        assert card.currency is not None
        match debit, credit:
            case Side.ISSUER, Side.CARD:
                after = card._replace(
                    amount_funds=card.amount_funds + amount,
                    amount_balance=card.amount_balance + amount,
                )
            case _:
                raise AssertionError(f"no {type} goes from {debit} to {credit}")
        transaction = Transaction(
            id=cause,
            account_id=card.account_id,
            card=card.id,
            type=type,
            amount=amount,
            currency=card.currency,
            debit=debit,
            credit=credit,
            balance_before=card.amount_balance,
            balance_after=after.amount_balance,
            version=card.version,
            created_at=at,
            created_by=created_by,
            originated_by=originated_by,
            metadata=metadata,
        )
        self.put(after)
        self.transactions.append(transaction)
        return transaction

    def aside(self) -> "Books":
        """Return books that start as these and leave these as they are: for a dry run."""
        return Books(ChainMap({}, self.cards), ChainMap({}, self.batches))

    def take_changes(self) -> "Changes":
        """Return how the rows differ from those at the last call, or from those loaded."""
        touched, self._before = self._before, {}
        new_batches, self._new_batches = self._new_batches, []
        told, self._told = self._told, len(self.transactions)
        after = [(before, self.cards[key]) for key, before in touched.items()]
        assert all(before is None or card.version > before.version for before, card in after)
        return Changes(
            new_cards=[card for before, card in after if before is None],
            changed_cards=[(before, card) for before, card in after if before is not None],
            new_batches=new_batches,
            transactions=self.transactions[told:],
        )


@dataclass(frozen=True, slots=True)
class Changes:
    """What a database has to be told."""

    new_cards: list[Card]
    changed_cards: list[tuple[Card, Card]]
    """Each as it was, and as it is."""
    new_batches: list[Batch]
    transactions: list[Transaction]
