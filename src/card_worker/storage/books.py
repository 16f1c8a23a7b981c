"""Claim, load, rows to save: how the books come out of the database and go back into it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Select, Table, and_, select, tuple_

from card_worker.contracts.commands import Command, digest_of, event_id, key_of
from card_worker.domain.answers import Answer
from card_worker.domain.books import Batch, Books, Card, Changes, State, Transaction
from card_worker.domain.rules import Needs
from card_worker.storage import outbox, tables
from card_worker.storage.pipeline import Rows, send
from card_worker.storage.sets import (
    Columns,
    Row,
    given,
    insert_absent,
    parameters,
)
from card_worker.storage.tables import batches, cards, keys, transactions
from card_worker.storage.writing import Changed, New

Key = tuple[str, str]
"""(account_id, idempotency key)."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What became of the keys of a group of commands."""

    fresh: frozenset[Key]
    """Never handled before, and now ours to answer."""
    digests: dict[Key, str]
    """Handled before: the digest of what was asked then."""


def claim(connection: Connection, asked: dict[Key, str], now: datetime) -> Claim:
    """Record `asked`, digests by key, as handled; say which keys were never handled before.

    Two workers given the same key meet here: the second waits for the first to commit, then finds
    it handled. Raises OperationalError after LOCK_TIMEOUT_MS.
    """
    rows = [
        {
            "account_id": account_id,
            "key": key,
            "digest": asked[account_id, key],
            "event_id": event_id(account_id, key),
            "created_at": now,
        }
        for account_id, key in sorted(asked)
    ]
    fresh = frozenset(insert_absent(connection, keys, rows))
    if len(fresh) == len(asked):
        return Claim(fresh, {})
    handled = [
        {"account_id": account_id, "key": key}
        for account_id, key in asked
        if (account_id, key) not in fresh
    ]
    found = _find(connection, keys, ("account_id", "key", "digest"), handled)()
    return Claim(fresh, {(account_id, key): digest for account_id, key, digest in found})


def key_and_digest(command: Command) -> tuple[Key, str]:
    """Return what a command is known by, and what it asks."""
    return (command.account_id, key_of(command)), digest_of(command)


def stored_answers(connection: Connection, ids: Iterable[UUID]) -> dict[UUID, Answer]:
    """Return the answers given before, byte for byte."""
    names = ("id", "account_id", "type", "subject", "partition_key", "event", "created_at")
    rows = _find(connection, tables.outbox, names, [{"id": id} for id in ids])()
    return {row[0]: Answer(*row) for row in rows}


def load(connection: Connection, needed: Iterable[Needs]) -> Callable[[], Books]:
    """Ask for the needed rows that exist, locked until the commit; return what waits for them.

    Rows are locked in id order, so that two groups sharing cards wait instead of deadlocking.
    """
    needed = list(needed)
    card_keys = {key for needs in needed for key in needs.cards}
    batch_keys = {key for needs in needed for key in needs.batches}
    loaded = _find(
        connection,
        cards,
        Card._fields,
        [{"account_id": account_id, "card_id": card_id} for account_id, card_id in card_keys],
        lock=True,
    )
    ordered = _find(
        connection,
        batches,
        Batch._fields,
        [{"account_id": account_id, "batch_id": batch_id} for account_id, batch_id in batch_keys],
        lock=True,
    )
    return lambda: Books(
        cards={card.key: card for card in map(Card._make, loaded())},
        batches={batch.key: batch for batch in map(Batch._make, ordered())},
    )


def to_rows(changes: Changes, answers: Sequence[Answer]) -> list[New | Changed]:
    """Return what the database has to be told of what a group did."""
    return [
        New(batches, _rows(changes.new_batches)),
        New(cards, _rows(changes.new_cards)),
        Changed(cards, _changing(changes.changed_cards)),
        New(transactions, _rows(changes.transactions)),
        outbox.new(answers),
    ]


def due_cards(
    connection: Connection, now: datetime, cards_max: int, after: Card | None = None
) -> list[Card]:
    """Return up to `cards_max` active cards whose time has passed, the longest past first.

    `after` is where the last slice ended. The cards are locked; those that another commit holds
    are left for the next look.
    """
    statement = select(*_columns(cards, Card._fields))
    statement = statement.where(cards.c.state == State.ACTIVE, cards.c.expires_at <= now)
    if after is not None:
        place = tuple_(cards.c.expires_at, cards.c.id)
        statement = statement.where(place > tuple_(after.expires_at, after.id))
    statement = statement.order_by(cards.c.expires_at, cards.c.id).limit(cards_max)
    rows = connection.execute(statement.with_for_update(skip_locked=True))
    return [Card._make(row) for row in rows]


def find_card(connection: Connection, account_id: str, card_id: str) -> Card | None:
    """Return a card as it is now, without locking it."""
    wanted = [{"account_id": account_id, "card_id": card_id}]
    found = _find(connection, cards, Card._fields, wanted)()
    return Card._make(found[0]) if found else None


def find_transactions(connection: Connection, card: Card) -> list[Transaction]:
    """Return what moved a card's money, in the order in which it did."""
    statement = select(*_columns(transactions, Transaction._fields))
    statement = statement.where(transactions.c.card == card.id)
    rows = connection.execute(statement.order_by(transactions.c.version))
    return [Transaction._make(row) for row in rows]


def _rows(values: Sequence[Card | Transaction | Batch]) -> list[Row]:
    """Return the rows of new values, without the columns that are empty in all of them."""
    if not values:
        return []
    columns = zip(values[0]._fields, zip(*values, strict=True), strict=True)
    return _transposed({name: column for name, column in columns if any(map(_is_there, column))})


def _changing(cards: Sequence[tuple[Card, Card]]) -> list[Row]:
    """Return the cards' ids with the columns in which any of them is not as it was."""
    if not cards:
        return []
    before, after = (zip(*side, strict=True) for side in zip(*cards, strict=True))
    columns = zip(Card._fields, before, after, strict=True)
    return _transposed({name: now for name, was, now in columns if name == "id" or now != was})


def _transposed(columns: dict[str, tuple[Any, ...]]) -> list[Row]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _is_there(value: object) -> bool:
    return value is not None


def _columns(table: Table, names: tuple[str, ...]) -> Columns:
    return tuple(table.c[name] for name in names)


def _find(
    connection: Connection,
    table: Table,
    names: tuple[str, ...],
    wanted: Sequence[dict[str, Any]],
    *,
    lock: bool = False,
) -> Callable[[], Rows]:
    """Ask for the columns `names` of the rows that have the values of one of `wanted`."""
    if not wanted:
        return list
    by = tuple(wanted[0])
    statement = _select(connection.dialect.name, table, names, by, lock)
    return send(
        connection, statement, parameters(connection.dialect.name, _columns(table, by), wanted)
    )


@cache
def _select(
    dialect: str, table: Table, names: tuple[str, ...], by: tuple[str, ...], lock: bool
) -> Select[Any]:
    source = given(dialect, _columns(table, by))
    statement = select(*_columns(table, names))
    statement = statement.join(source, and_(*(table.c[name] == source.c[name] for name in by)))
    if lock:
        statement = statement.order_by(*table.primary_key).with_for_update(of=table)
    return statement
