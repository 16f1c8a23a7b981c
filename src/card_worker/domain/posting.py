"""Moving money: only this module changes an amount, and each change leaves a transaction."""

from typing import NamedTuple, TypeAlias, TypedDict
from uuid import UUID

from typing_extensions import Unpack

from card_worker.contracts.enums import Funding, Side, TransactionType
from card_worker.contracts.metadata import Json
from card_worker.domain.books import Books
from card_worker.domain.events import CardEvent
from card_worker.domain.rows import Card, State, Transaction

Posted: TypeAlias = Transaction | None
"""The transaction of an event, if it moved money."""


class Movement(NamedTuple):
    """An amount that goes from one side to another, in minor units of the card's currency."""

    type: TransactionType
    amount: int
    debit: Side
    credit: Side
    ref_id: str | None = None
    parent_id: UUID | None = None
    metadata: dict[str, Json] | None = None
    captures: bool = False
    """Whether the amount was locked before."""
    funding: Funding | None = None


class CardChange(TypedDict, total=False):
    """The fields of a card that change with no more than an event."""

    state: State
    blocked: bool
    has_codes: bool
    replaced_by: UUID


class _Amounts(TypedDict, total=False):
    amount_balance: int
    amount_drawdown: int
    amount_funds: int
    amount_pending: int
    amount_reserved: int


def next_version(books: Books, event: CardEvent, **changed: Unpack[CardChange]) -> Card:
    """Return the card of an event, with its next version and the changes."""
    card = books.cards[event.card]
    return card._replace(version=card.version + 1, changed_at=event.at, **changed)


def post(books: Books, card: Card, movement: Movement, event: CardEvent) -> Transaction:
    """Move money and add its transaction. `card` is as the event leaves it, but for the amounts.

    An event moves money once or not at all, so the transaction has the event's id.
    """
    assert movement.amount > 0
    assert card.currency is not None
    command = event.command
    after = card._replace(postings=card.postings + 1, **_amounts(card, movement))
    transaction = Transaction(
        id=event.id,
        account_id=card.account_id,
        card=card.id,
        type=movement.type,
        amount=movement.amount,
        currency=card.currency,
        debit=movement.debit,
        credit=movement.credit,
        balance_before=card.amount_balance,
        balance_after=after.amount_balance,
        version=card.version,
        created_at=event.at,
        created_by=command.created_by,
        originated_by=command.originated_by,
        ref_id=movement.ref_id,
        parent_id=movement.parent_id,
        metadata=movement.metadata,
        funding=movement.funding,
    )
    books.put_card(after)
    books.add_transaction(transaction)
    return transaction


def post_unless_zero(books: Books, card: Card, movement: Movement, event: CardEvent) -> Posted:
    """Move money as `post` does; only change the card when the amount is zero."""
    if movement.amount > 0:
        return post(books, card, movement, event)
    books.put_card(card)
    return None


def _amounts(card: Card, movement: Movement) -> _Amounts:
    """Return the amounts that a movement changes."""
    amount, debit, credit = movement.amount, movement.debit, movement.credit
    after: _Amounts = {}
    if credit is Side.CARD:
        after["amount_balance"] = card.amount_balance + amount
    elif debit is Side.CARD:
        after["amount_balance"] = card.amount_balance - amount
    elif credit is Side.RESERVED and debit is Side.AVAILABLE:
        after["amount_reserved"] = card.amount_reserved + amount
    elif credit is Side.AVAILABLE and debit is Side.RESERVED:
        after["amount_reserved"] = card.amount_reserved - amount
    else:
        raise AssertionError(f"no {movement.type} goes from {debit} to {credit}")
    if movement.captures:
        after["amount_reserved"] = card.amount_reserved - amount
    # Three amounts are sums of one type each; a reversal takes a fund back.
    if movement.type is TransactionType.FUND:
        after["amount_funds"] = card.amount_funds + amount
    elif movement.type is TransactionType.REVERSAL:
        after["amount_funds"] = card.amount_funds - amount
    elif movement.type is TransactionType.DRAWDOWN:
        after["amount_drawdown"] = card.amount_drawdown + amount
    elif movement.type is TransactionType.PENDING_CAPTURE:
        after["amount_pending"] = card.amount_pending + amount
    return after
