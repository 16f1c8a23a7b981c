"""Sums for the financial report: what moved in which period, and what cards hold now.

Times are compared as stored, in UTC; the bounds of the periods say what a month is. Amounts are
whole numbers in minor units.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    case,
    func,
    literal_column,
    select,
    true,
)

from card_worker.contracts.enums import (
    BatchState,
    CardType,
    Funding,
    Side,
    Status,
    TransactionType,
)
from card_worker.money import Currency
from card_worker.storage.queries import has_status
from card_worker.storage.tables import batches, cards, transactions

_LOCKS = (TransactionType.PENDING_CAPTURE, TransactionType.VOIDED)
"""Transactions that reserve or release money, and move none."""


class Moved(NamedTuple):
    """The sum of the transactions that have all of this in common."""

    currency: Currency
    card_type: CardType
    period: int
    """The number of bounds that are not after the transactions."""
    cohort: int | None
    """The same for the activation of their cards; None: not active, so nothing is left of it."""
    type: TransactionType
    to_card: bool
    """Whether the money was put onto the cards; otherwise it left them."""
    funding: Funding | None
    is_refund: bool
    amount: int


class Held(NamedTuple):
    """The sum of the cards that have all of this in common."""

    currency: Currency | None
    card_type: CardType
    status: Status
    age: int | None
    """The number of bounds that are not after the last movement of their money; None: no money."""
    expiry: int | None
    """The number of bounds that are not after `expires_at`; None: they never expire."""
    cards: int
    balance: int
    reserved: int


class Ordered(NamedTuple):
    """The orders in one state; `failed` is the number of those with an error."""

    state: BatchState
    orders: int
    requested: int
    created: int
    failed: int


def plan_for_sums(connection: Connection) -> None:
    """Let PostgreSQL add up all rows in hash tables, until the end of the transaction.

    It doesn't know into how few groups the rows fall, and would sort them all: 6 s for a million
    transactions instead of 2.
    """
    if connection.dialect.name == "postgresql":
        settings = {"work_mem": "64MB", "enable_sort": "off", "jit": "off"}
        connection.execute(select(*(func.set_config(*each, true()) for each in settings.items())))


def first_movement(connection: Connection, account_id: str | None) -> datetime | None:
    """Return the time of the oldest transaction."""
    oldest = select(func.min(transactions.c.created_at))
    return connection.execute(_of_account(oldest, transactions, account_id)).scalar()


def sum_moved(
    connection: Connection, account_id: str | None, bounds: Sequence[datetime]
) -> list[Moved]:
    """Return what moved, by period and by cohort. `bounds` are ascending times."""
    moved = select(
        transactions.c.currency,
        cards.c.type.label("card_type"),
        _period(transactions.c.created_at, bounds).label("period"),
        case((cards.c.activated_at.is_not(None), _period(cards.c.activated_at, bounds))).label(
            "cohort"
        ),
        transactions.c.type.label("type"),
        (transactions.c.credit == Side.CARD).label("to_card"),
        transactions.c.funding,
        transactions.c.parent_id.is_not(None).label("is_refund"),
        transactions.c.amount,
    ).join_from(transactions, cards, cards.c.id == transactions.c.card)
    moved = moved.where(transactions.c.type.not_in(_LOCKS))
    rows = _of_account(moved, transactions, account_id).subquery()
    *keys, amount = rows.c
    summed = select(*keys, func.sum(amount)).group_by(*keys)
    return [
        Moved(*row[:5], bool(row[5]), row[6], bool(row[7]), int(row[8]))
        for row in connection.execute(summed)
    ]


def sum_held(
    connection: Connection,
    account_id: str | None,
    now: datetime,
    *,
    ages: Sequence[datetime],
    expiries: Sequence[datetime],
) -> list[Held]:
    """Return what cards hold at `now`, by the time of the last movement and by expiry."""
    last = select(transactions.c.card, func.max(transactions.c.created_at).label("at"))
    last = last.where(transactions.c.type.not_in(_LOCKS)).group_by(transactions.c.card)
    moved = _of_account(last, transactions, account_id).subquery()
    has_money = cards.c.amount_balance > 0
    held = select(
        cards.c.currency,
        cards.c.type.label("card_type"),
        case(*((has_status(each, now), each.value) for each in Status)).label("status"),
        case((has_money, _period(moved.c.at, ages))).label("age"),
        case((cards.c.expires_at.is_not(None), _period(cards.c.expires_at, expiries))).label(
            "expiry"
        ),
        cards.c.amount_balance,
        cards.c.amount_reserved,
    ).join_from(cards, moved, moved.c.card == cards.c.id, isouter=True)
    rows = _of_account(held, cards, account_id).subquery()
    *keys, balance, reserved = rows.c
    summed = select(*keys, func.count(), func.sum(balance), func.sum(reserved)).group_by(*keys)
    return [
        Held(*row[:2], Status(row[2]), *row[3:6], int(row[6]), int(row[7]))
        for row in connection.execute(summed)
    ]


def sum_ordered(connection: Connection, account_id: str | None) -> list[Ordered]:
    """Return the orders by state."""
    summed = select(
        batches.c.state,
        func.count(),
        func.sum(batches.c.requested),
        func.sum(batches.c.created),
        func.count(batches.c.last_error),
    ).group_by(batches.c.state)
    rows = connection.execute(_of_account(summed, batches, account_id))
    return [Ordered(state, *map(int, counts)) for state, *counts in rows]


def _period(time: ColumnElement[Any], bounds: Sequence[datetime]) -> ColumnElement[int]:
    """Return the number of bounds that are not after a time, found by halving."""

    def search(low: int, high: int) -> ColumnElement[int]:
        if low == high:
            return literal_column(str(low))
        middle = (low + high) // 2
        return case((time < bounds[middle], search(low, middle)), else_=search(middle + 1, high))

    return search(0, len(bounds))


def _of_account(statement: Select[Any], table: FromClause, account_id: str | None) -> Select[Any]:
    return statement if account_id is None else statement.where(table.c.account_id == account_id)
