"""Reading many rows of an account, in a fixed order, a few in memory at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Column, Connection, Select, Table, func, literal, select, tuple_

from card_worker.contracts.enums import EventType, TransactionType
from card_worker.domain.rows import Transaction
from card_worker.storage.json_rows import columns_named
from card_worker.storage.tables import cards, outbox, transactions

ROWS = 1_000
"""The number of rows in memory at a time."""


class StoredEvent(NamedTuple):
    """An event of the outbox; `event` is its JSON."""

    id: UUID
    created_at: datetime
    type: EventType
    subject: str
    event: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFilter:
    """A filter for transactions or events of an account; None: any."""

    account_id: str
    card_id: str | None = None
    type: TransactionType | EventType | None = None
    created_from: datetime | None = None
    created_before: datetime | None = None


class NoSuchRow(Exception):
    """There is no row to start after in the account."""


def select_transactions(
    connection: Connection, filter: RowFilter, after: UUID | None
) -> Select[Any]:
    """Select the `card_id` and the fields of transactions, in the order of time.

    Raises NoSuchRow if the account has no transaction `after`.
    """
    fields = columns_named(transactions, Transaction._fields)
    statement = select(cards.c.card_id, *fields)
    statement = statement.join_from(transactions, cards, cards.c.id == transactions.c.card)
    order = (transactions.c.created_at, transactions.c.id)
    return _filtered(
        connection, statement, transactions, filter, after, subject=cards.c.card_id, order=order
    )


def select_events(connection: Connection, filter: RowFilter, after: UUID | None) -> Select[Any]:
    """Select the fields of StoredEvent, in the order of the outbox.

    Raises NoSuchRow if the account has no event `after`.
    """
    statement = select(*columns_named(outbox, StoredEvent._fields))
    order = (outbox.c.position,)
    return _filtered(
        connection, statement, outbox, filter, after, subject=outbox.c.subject, order=order
    )


def _filtered(
    connection: Connection,
    statement: Select[Any],
    table: Table,
    filter: RowFilter,
    after: UUID | None,
    *,
    subject: Column[str],
    order: tuple[Column[Any], ...],
) -> Select[Any]:
    of_account = table.c.account_id == filter.account_id
    statement = statement.where(of_account).order_by(*order)
    if filter.card_id is not None:
        statement = statement.where(subject == filter.card_id)
    if filter.type is not None:
        statement = statement.where(table.c.type == filter.type)
    if filter.created_from is not None:
        statement = statement.where(table.c.created_at >= filter.created_from)
    if filter.created_before is not None:
        statement = statement.where(table.c.created_at < filter.created_before)
    if after is not None:
        place = connection.execute(select(*order).where(table.c.id == after, of_account)).first()
        if place is None:
            raise NoSuchRow
        last = (literal(value, column.type) for value, column in zip(place, order, strict=True))
        statement = statement.where(tuple_(*order) > tuple_(*last))
    return statement


def count_rows(connection: Connection, statement: Select[Any]) -> int:
    """Return the number of rows of a statement."""
    counted = select(func.count()).select_from(statement.order_by(None).subquery())
    return int(connection.execute(counted).scalar_one())


def read_slices(connection: Connection, statement: Select[Any]) -> Iterator[list[Any]]:
    """Yield the rows of a statement, ROWS at a time."""
    options = {"yield_per": ROWS}
    for slice in connection.execute(statement, execution_options=options).partitions():
        yield list(slice)
