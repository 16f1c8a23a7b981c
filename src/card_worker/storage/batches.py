"""Batches: which are busy, which names of an order are taken, and how far one has come."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from itertools import islice, product
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Connection,
    Delete,
    Select,
    Table,
    bindparam,
    delete,
    func,
    null,
    select,
    update,
)

from card_worker.contracts.enums import BatchState
from card_worker.contracts.events import PROBLEMS_MAX
from card_worker.contracts.patterns import Pattern
from card_worker.domain.rows import Batch, BatchKey, CardKey
from card_worker.storage.json_rows import (
    Columns,
    columns_named,
    delete_rows,
    find,
    json_table,
    matching,
    parameters,
)
from card_worker.storage.pipeline import Pending, send
from card_worker.storage.tables import batches, cards, pins, reserved_names, tokens
from card_worker.storage.types import WholeNumber

_COLUMNS = columns_named(batches, Batch._fields)
NAMES_TOGETHER, PAGES_MAX = 1_000, 100
# Said of every chunk, and made into SQL once.
_ADD_CREATED = (
    update(batches)
    .where(batches.c.account_id == bindparam("its_account"))
    .where(batches.c.batch_id == bindparam("its_batch"))
    .where(batches.c.state == BatchState.RUNNING)
    .values(created=batches.c.created + bindparam("more", type_=WholeNumber), last_error=null())
    .returning(*_COLUMNS)
)


def find_batch(
    connection: Connection, account_id: str, batch_id: str, *, lock: bool = False
) -> Batch | None:
    """Return a batch as it is now."""
    wanted = [{"account_id": account_id, "batch_id": batch_id}]
    found = find(connection, batches, Batch._fields, wanted, lock=lock)()
    return Batch._make(found[0]) if found else None


def find_busy(
    connection: Connection, account_ids: Collection[str]
) -> Pending[dict[str, Mapping[str, Batch]]]:
    """Ask for the accounts' batches that are busy, without lists of names; return a pending result
    by account_id and batch_id."""
    if not account_ids:
        return dict
    dialect, columns = connection.dialect.name, columns_named(batches, ("account_id",))
    values = parameters(dialect, columns, [{"account_id": id} for id in account_ids])
    rows = send(connection, _select_busy(dialect), values)

    def wait() -> dict[str, Mapping[str, Batch]]:
        found = dict[str, dict[str, Batch]]()
        for batch in map(Batch._make, rows()):
            found.setdefault(batch.account_id, {})[batch.batch_id] = batch
        return {**found}

    return wait


def find_unapproved(
    connection: Connection, ordered_until: datetime, *, batches_max: int
) -> list[BatchKey]:
    """Return the orders that have waited for approval since then, the oldest first."""
    statement = select(batches.c.account_id, batches.c.batch_id).where(
        batches.c.busy,
        batches.c.state == BatchState.AWAITING_APPROVAL,
        batches.c.created_at <= ordered_until,
    )
    statement = statement.order_by(batches.c.created_at).limit(batches_max)
    return [(account_id, batch_id) for account_id, batch_id in connection.execute(statement)]


def find_reserved(
    connection: Connection, keys: Iterable[CardKey], busy: Mapping[str, Mapping[str, Batch]]
) -> Pending[dict[CardKey, str]]:
    """Ask which of these names a list of the `busy` batches reserves; return a pending result."""
    with_lists = {
        account_id
        for account_id, orders in busy.items()
        if any(order.pattern is None for order in orders.values())
    }
    named = [
        {"account_id": account_id, "card_id": card_id}
        for account_id, card_id in keys
        if account_id in with_lists
    ]
    rows = find(connection, reserved_names, ("account_id", "card_id", "batch_id"), named)
    return lambda: {(account_id, card_id): batch_id for account_id, card_id, batch_id in rows()}


def release_names(connection: Connection, batch: Batch) -> None:
    """Let others use the names that a list has reserved."""
    named = [
        {"account_id": batch.account_id, "card_id": card["card_id"], "batch_id": batch.batch_id}
        for card in batch.listed or ()
    ]
    delete_rows(connection, reserved_names, named)


@cache
def _select_busy(dialect: str) -> Select[Any]:
    source = json_table(dialect, columns_named(batches, ("account_id",)))
    # A list can have a thousand names; find_reserved looks them up by key.
    columns = [null().label(c.name) if c is batches.c.listed else c for c in _COLUMNS]
    return select(*columns).join(source, matching(batches, source)).where(batches.c.busy)


def names_taken(connection: Connection, account_id: str, pattern: Pattern, count: int) -> list[str]:
    """Return the first few names from 1 to `count` of a pattern that cards have, or lists reserve.

    Where very many cards have names that are much alike, some may be overlooked. Whoever makes the
    chunk meets them.
    """
    taken: list[str] = []
    for (first, last), table in product(_of_one_length(pattern, count), (cards, reserved_names)):
        pages = _names_between(connection, table, account_id, first, last)
        for found in islice(pages, PAGES_MAX):
            numbers = map(pattern.number_of, found)
            taken += [
                name
                for name, number in zip(found, numbers, strict=True)
                if number and number <= count
            ]
            if len(taken) >= PROBLEMS_MAX:
                return taken[:PROBLEMS_MAX]
    return taken


def _of_one_length(pattern: Pattern, count: int) -> Iterator[tuple[str, str]]:
    """Yield the ends of those parts of 1 to `count` whose names sort as their numbers do."""
    first = 1
    while first <= count:
        digits = max(pattern.width, len(str(first)))
        last = min(count, 10**digits - 1)
        # Whatever the check digit of the last name is, no name with its number comes after this.
        end = pattern.card_id(last)
        yield pattern.card_id(first), f"{end[:-1]}9" if pattern.is_checked else end
        first = last + 1


def _names_between(
    connection: Connection, table: Table, account_id: str, first: str, last: str
) -> Iterator[Sequence[str]]:
    """Yield the card_ids in a table from `first` to `last` that are as long, some at a time."""
    name = table.c.card_id
    statement = select(name).where(
        table.c.account_id == account_id, name <= last, func.length(name) == len(last)
    )
    statement = statement.order_by(name).limit(NAMES_TOGETHER)
    found = connection.execute(statement.where(name >= first)).scalars().all()
    while found:
        yield found
        found = connection.execute(statement.where(name > found[-1])).scalars().all()


def add_created(connection: Connection, batch: Batch, number: int) -> Batch | None:
    """Count cards that were made for a running order; None when it doesn't run any more.

    The order is locked until the commit.
    """
    named = {"its_account": batch.account_id, "its_batch": batch.batch_id}
    rows = send(connection, _ADD_CREATED, {**named, "more": number})()
    return Batch._make(rows[0]) if rows else None


def remove_cards(connection: Connection, batch: Batch, ids: Sequence[UUID]) -> int:
    """Delete cards that a batch has made, with their tokens and PINs; return how many."""
    dialect, by_id = connection.dialect.name, [{"id": id} for id in ids]
    found = find(connection, cards, ("id", "batch_id"), by_id)()
    ids = [id for id, batch_id in found if batch_id == batch.batch_id]
    for table, name in ((pins, "id"), (tokens, "card")):
        columns = columns_named(table, (name,))
        connection.execute(
            _delete(dialect, table, columns), parameters(dialect, columns, [{name: i} for i in ids])
        )
    columns = columns_named(cards, ("id",))
    values = parameters(dialect, columns, [{"id": id} for id in ids])
    return connection.execute(_delete(dialect, cards, columns), values).rowcount


@cache
def _delete(dialect: str, table: Table, columns: Columns) -> Delete:
    return delete(table).where(columns[0].in_(select(json_table(dialect, columns))))


def change_batch(connection: Connection, batch: Batch) -> None:
    """Update a batch, which is locked."""
    if not batch.busy:
        release_names(connection, batch)
    statement = update(batches).where(
        batches.c.account_id == batch.account_id, batches.c.batch_id == batch.batch_id
    )
    connection.execute(
        statement.values(
            state=batch.state,
            created=batch.created,
            busy=batch.busy,
            job_count=batch.job_count,
            completed_at=batch.completed_at,
            last_error=batch.last_error,
        )
    )
