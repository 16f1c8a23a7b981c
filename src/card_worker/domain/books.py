"""The books: the rows a group of commands needs, held in memory while the rules run over them."""

from collections import ChainMap
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from card_worker.contracts.kinds import Side, TransactionType
from card_worker.domain.rows import (
    Account,
    Batch,
    BatchKey,
    Card,
    CardKey,
    Hold,
    Transaction,
)


class Movement(NamedTuple):
    """Money on its way from one side to another, in minor units of the card's currency."""

    type: TransactionType
    amount: int
    debit: Side
    credit: Side
    ref_id: str | None = None
    parent_id: UUID | None = None
    metadata: dict[str, Any] | None = None
    captures: bool = False
    """Whether it was locked before."""


class Cause(NamedTuple):
    """The event that moves money. It does so once or not at all, so the transaction has its id."""

    id: UUID
    at: datetime
    created_by: str | None
    originated_by: str | None


class Changes(NamedTuple):
    """What a database has to be told. What changed comes as it was, and as it is."""

    new_cards: list[Card]
    changed_cards: list[tuple[Card, Card]]
    new_holds: list[Hold]
    changed_holds: list[tuple[Hold, Hold]]
    new_batches: list[Batch]
    transactions: list[Transaction]


@dataclass(slots=True)
class Books:
    """Rows by what callers call them. Rows are values: a change puts another in the place."""

    cards: MutableMapping[CardKey, Card] = field(default_factory=dict)
    batches: MutableMapping[BatchKey, Batch] = field(default_factory=dict)
    ids: MutableMapping[UUID, CardKey] = field(default_factory=dict)
    """What the card with the service's own id is called."""
    holds: MutableMapping[UUID, Hold] = field(default_factory=dict)
    """By the id of their pending transaction: those that are named, and those that are due."""
    due: dict[UUID, list[UUID]] = field(default_factory=dict)
    """The holds whose time is up, by card, as they were loaded."""
    named: MutableMapping[UUID, Transaction] = field(default_factory=dict)
    """Transactions by their id: those that are named, and those made here."""
    refunded: MutableMapping[UUID, int] = field(default_factory=dict)
    """How much of a drawdown has been refunded, in minor units."""
    refs: MutableMapping[tuple[UUID, str], UUID] = field(default_factory=dict)
    """(card, ref_id) of those that are asked for and taken; the transaction's id."""
    accounts: MutableMapping[str, Account] = field(default_factory=dict)
    """Those that were set up."""
    transactions: list[Transaction] = field(default_factory=list)
    """What was moved here, in order."""
    _cards_before: dict[CardKey, Card | None] = field(default_factory=dict)
    _holds_before: dict[UUID, Hold | None] = field(default_factory=dict)
    _new_batches: list[Batch] = field(default_factory=list)
    _told: int = 0

    def account(self, account_id: str) -> Account:
        return self.accounts.get(account_id) or Account(account_id)

    def due_holds(self, card: Card, now: datetime) -> list[Hold]:
        """Return the card's holds that still lock something although their time is up."""
        holds = (self.holds[id] for id in self.due.get(card.id, ()))
        return [hold for hold in holds if hold.amount_open and hold.is_due(now)]

    def put(self, card: Card) -> None:
        """Let a card be as given: one that changes, or one that is new."""
        key = card.key
        self._cards_before.setdefault(key, self.cards.get(key))
        self.cards[key] = card
        self.ids[card.id] = key

    def put_hold(self, hold: Hold) -> None:
        """Let a hold be as given."""
        self._holds_before.setdefault(hold.id, self.holds.get(hold.id))
        self.holds[hold.id] = hold

    def add(self, batch: Batch) -> None:
        """Let a new batch be as given."""
        self.batches[batch.key] = batch
        self._new_batches.append(batch)

    def post(self, card: Card, moved: Movement, cause: Cause) -> Transaction:
        """Move money and write it down. Nothing else changes an amount.

        `card` is the card as its event leaves it, but for the money.
        """
        assert moved.amount > 0
        assert card.currency is not None
        after = _apply(card, moved)
        transaction = Transaction(
            id=cause.id,
            account_id=card.account_id,
            card=card.id,
            type=moved.type,
            amount=moved.amount,
            currency=card.currency,
            debit=moved.debit,
            credit=moved.credit,
            balance_before=card.amount_balance,
            balance_after=after.amount_balance,
            version=card.version,
            created_at=cause.at,
            created_by=cause.created_by,
            originated_by=cause.originated_by,
            ref_id=moved.ref_id,
            parent_id=moved.parent_id,
            metadata=moved.metadata,
        )
        self.put(after)
        self.transactions.append(transaction)
        self.named[transaction.id] = transaction
        if moved.ref_id is not None:
            self.refs[card.id, moved.ref_id] = transaction.id
        return transaction

    def aside(self) -> "Books":
        """Return books that start as these and leave these as they are: for a dry run."""
        return Books(
            ChainMap({}, self.cards),
            ChainMap({}, self.batches),
            ChainMap({}, self.ids),
            ChainMap({}, self.holds),
            self.due,
            ChainMap({}, self.named),
            ChainMap({}, self.refunded),
            ChainMap({}, self.refs),
            self.accounts,
        )

    def take_changes(self) -> Changes:
        """Return how the rows differ from those at the last call, or from those loaded."""
        cards = [(was, self.cards[key]) for key, was in self._cards_before.items()]
        assert all(was is None or now.version > was.version for was, now in cards)
        holds = [(was, self.holds[id]) for id, was in self._holds_before.items()]
        changes = Changes(
            new_cards=[now for was, now in cards if was is None],
            changed_cards=[(was, now) for was, now in cards if was is not None],
            new_holds=[now for was, now in holds if was is None],
            changed_holds=[(was, now) for was, now in holds if was is not None],
            new_batches=self._new_batches,
            transactions=self.transactions[self._told :],
        )
        self._cards_before, self._holds_before, self._new_batches = {}, {}, []
        self._told = len(self.transactions)
        return changes


def _apply(card: Card, moved: Movement) -> Card:
    """Return the card with the amounts that a movement leaves it with."""
    amount, debit, credit = moved.amount, moved.debit, moved.credit
    # Written in one step: of all that is done for a command, copying a card costs most.
    after: dict[str, Any] = {}
    if credit is Side.CARD:
        after["amount_balance"] = card.amount_balance + amount
    elif debit is Side.CARD:
        after["amount_balance"] = card.amount_balance - amount
    elif credit is Side.RESERVED and debit is Side.AVAILABLE:
        after["amount_reserved"] = card.amount_reserved + amount
    elif credit is Side.AVAILABLE and debit is Side.RESERVED:
        after["amount_reserved"] = card.amount_reserved - amount
    else:
        raise AssertionError(f"no {moved.type} goes from {debit} to {credit}")
    if moved.captures:
        after["amount_reserved"] = card.amount_reserved - amount
    # Three amounts are sums of one type each; a reversal takes a fund back.
    if moved.type is TransactionType.FUND:
        after["amount_funds"] = card.amount_funds + amount
    elif moved.type is TransactionType.REVERSAL:
        after["amount_funds"] = card.amount_funds - amount
    elif moved.type is TransactionType.DRAWDOWN:
        after["amount_drawdown"] = card.amount_drawdown + amount
    elif moved.type is TransactionType.PENDING_CAPTURE:
        after["amount_pending"] = card.amount_pending + amount
    return card._replace(**after)
