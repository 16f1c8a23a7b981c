"""Batches, the card_ids of their patterns and lists, and the numbers of cards they created."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice, product
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Connection,
    FromClause,
    Table,
    bindparam,
    delete,
    func,
    null,
    select,
    update,
)

from card_worker.contracts.enums import BatchState
from card_worker.contracts.patterns import Pattern
from card_worker.contracts.views import PROBLEMS_MAX
from card_worker.domain.rows import Batch, BatchKey, CardKey
from card_worker.storage.json_rows import (
    columns_named,
    delete_rows,
    find,
    find_rows,
    send_with_rows,
)
from card_worker.storage.pipeline import Pending, send
from card_worker.storage.tables import batches, cards, pin_attempts, pins, reserved_card_ids, tokens
from card_worker.storage.types import WholeNumber

CARD_IDS_PER_PAGE, PAGES_MAX = 1_000, 100
_WITHOUT_LIST = tuple(name for name in Batch._fields if name != "card_list")
# Executed for each chunk, and so built once.
_ADD_CREATED = (
    update(batches)
    .where(batches.c.account_id == bindparam("its_account"))
    .where(batches.c.batch_id == bindparam("its_batch"))
    .where(batches.c.state == BatchState.RUNNING)
    .values(created=batches.c.created + bindparam("more", type_=WholeNumber), last_error=null())
    .returning(*columns_named(batches, Batch._fields))
)


def find_batch(
    connection: Connection, account_id: str, batch_id: str, *, lock: bool = False
) -> Batch | None:
    """Return a batch. `lock` locks it until the commit."""
    key = {"account_id": account_id, "batch_id": batch_id}
    return next(iter(find_rows(connection, batches, Batch, [key], lock=lock)()), None)


def find_busy(
    connection: Connection, account_ids: Collection[str]
) -> Pending[dict[str, Mapping[str, Batch]]]:
    """Find the busy batches of accounts, without their lists of cards; pending, by account_id and
    batch_id."""
    # A list can have 1,000 cards. `find_reserved` finds them by their keys.
    keys = [{"account_id": id} for id in account_ids]
    rows = find(connection, batches, _WITHOUT_LIST, keys, where=batches.c.busy)

    def wait() -> dict[str, Mapping[str, Batch]]:
        found = dict[str, dict[str, Batch]]()
        for row in rows():
            batch = Batch(**dict(zip(_WITHOUT_LIST, row, strict=True)))
            found.setdefault(batch.account_id, {})[batch.batch_id] = batch
        return {**found}

    return wait


def find_unapproved(
    connection: Connection, ordered_until: datetime, *, batches_max: int
) -> list[BatchKey]:
    """Return the orders until a time that still wait for approval, the oldest first."""
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
    """Find the keys of cards that `busy` batches with a list of cards reserve; pending, the
    batch_id by key."""
    with_lists = {
        account_id
        for account_id, orders in busy.items()
        if any(order.pattern is None for order in orders.values())
    }
    names = ("account_id", "card_id")
    rows = [dict(zip(names, key, strict=True)) for key in keys if key[0] in with_lists]
    found = find(connection, reserved_card_ids, (*names, "batch_id"), rows)
    return lambda: {(account_id, card_id): batch_id for account_id, card_id, batch_id in found()}


def release_card_ids(connection: Connection, batch: Batch) -> None:
    """Release the card_ids that the list of a batch reserves."""
    key = {"account_id": batch.account_id, "batch_id": batch.batch_id}
    rows = [{**key, "card_id": card["card_id"]} for card in batch.card_list or ()]
    delete_rows(connection, reserved_card_ids, rows)


def taken_card_ids(
    connection: Connection, account_id: str, pattern: Pattern, count: int
) -> list[str]:
    """Return the first card_ids of a pattern, from 1 to `count`, that are used or reserved.

    At most PROBLEMS_MAX. Where very many cards have similar card_ids, some may be missed; then the
    order is cancelled when their chunk is made.
    """
    taken: list[str] = []
    ranges = _ranges(pattern, count)
    for (first, last), table in product(ranges, (cards, reserved_card_ids)):
        for found in islice(_pages(connection, table, account_id, first, last), PAGES_MAX):
            numbers = map(pattern.number_of, found)
            taken += [
                card_id
                for card_id, number in zip(found, numbers, strict=True)
                if number and number <= count
            ]
            if len(taken) >= PROBLEMS_MAX:
                return taken[:PROBLEMS_MAX]
    return taken


def _ranges(pattern: Pattern, count: int) -> Iterator[tuple[str, str]]:
    """Yield the first and last card_id of ranges in which card_ids sort as their numbers do."""
    first = 1
    while first <= count:
        digits = max(pattern.width, len(str(first)))
        last = min(count, 10**digits - 1)
        # The last card_id may have any check digit; none with its number sorts after this.
        end = pattern.card_id(last)
        yield pattern.card_id(first), f"{end[:-1]}9" if pattern.is_checked else end
        first = last + 1


def _pages(
    connection: Connection, table: Table, account_id: str, first: str, last: str
) -> Iterator[Sequence[str]]:
    """Yield the card_ids of a table from `first` to `last` that have the length of `last`."""
    card_id = table.c.card_id
    statement = select(card_id).where(
        table.c.account_id == account_id, card_id <= last, func.length(card_id) == len(last)
    )
    statement = statement.order_by(card_id).limit(CARD_IDS_PER_PAGE)
    following = card_id >= first
    while found := connection.execute(statement.where(following)).scalars().all():
        yield found
        following = card_id > found[-1]


def add_created(connection: Connection, batch: Batch, number: int) -> Batch | None:
    """Add to the number of cards that a running order has created, and lock the order.

    Return the order after that; None if it does not run any more.
    """
    key = {"its_account": batch.account_id, "its_batch": batch.batch_id}
    rows = send(connection, _ADD_CREATED, {**key, "more": number})()
    return Batch._make(rows[0]) if rows else None


def remove_cards(connection: Connection, batch: Batch, ids: Sequence[UUID]) -> int:
    """Delete those of the cards that the batch has created, with their tokens and PINs; return
    their number. PIN attempts on them are kept, without the card."""
    # Locked in the order of ids, as groups lock cards.
    found = find(connection, cards, ("id", "batch_id"), [{"id": id} for id in ids], lock=True)()
    keys = [{"id": id} for id, batch_id in found if batch_id == batch.batch_id]
    delete_rows(connection, pins, keys)
    delete_rows(connection, tokens, [{"card": key["id"]} for key in keys])
    deleted = send_with_rows(connection, _delete_cards, cards, keys)()
    # Last: the deletion waits for commits that are storing a PIN attempt on a card.
    send_with_rows(connection, _clear_card, pin_attempts, [{"card": id} for (id,) in deleted])
    return len(deleted)


def _delete_cards(source: FromClause) -> Any:
    return delete(cards).where(cards.c.id.in_(select(source))).returning(cards.c.id)


def _clear_card(source: FromClause) -> Any:
    return (
        update(pin_attempts)
        .where(pin_attempts.c.card.in_(select(source)))
        .values(card=null(), number=0)
    )


def change_batch(connection: Connection, batch: Batch) -> None:
    """Update a batch that is locked, and release its card_ids if it is not busy."""
    if not batch.busy:
        release_card_ids(connection, batch)
    names = ("state", "created", "busy", "job_count", "completed_at", "last_error")
    statement = update(batches).where(
        batches.c.account_id == batch.account_id, batches.c.batch_id == batch.batch_id
    )
    connection.execute(statement.values({name: getattr(batch, name) for name in names}))
