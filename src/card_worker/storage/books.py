"""How the books come out of the database, and what of them goes back into it."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime
from functools import cache
from itertools import chain
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Select,
    Table,
    bindparam,
    func,
    select,
    union,
)

from card_worker.contracts.batches import CARDS_PER_ORDER_MAX
from card_worker.contracts.enums import TransactionType
from card_worker.contracts.json_text import write_json
from card_worker.contracts.patterns import Pattern
from card_worker.domain.answers import Answer
from card_worker.domain.books import Books, Changes
from card_worker.domain.books import Changed as Differ
from card_worker.domain.needs import Needs, TokenKey, TransactionKey
from card_worker.domain.rows import (
    Batch,
    BatchKey,
    Card,
    CardKey,
    Hold,
    Pin,
    PinAttempt,
    Token,
    Transaction,
)
from card_worker.storage import jobs, outbox
from card_worker.storage.accounts import find_accounts
from card_worker.storage.batches import find_busy, find_reserved, names_taken, release_names
from card_worker.storage.bulk_write import Changed, New, write
from card_worker.storage.json_rows import Row, columns_named, find, json_table, matching, parameters
from card_worker.storage.pipeline import Pending, Rows, send
from card_worker.storage.tables import (
    batches,
    cards,
    counts,
    file_parts,
    files,
    holds,
    is_left,
    is_open,
    pin_attempts,
    pins,
    reserved_names,
    tokens,
    transactions,
)
from card_worker.storage.types import JsonText, UtcTime

_CARD, _TRANSACTION, _BATCH = (
    ("account_id", "card_id"),
    ("account_id", "id"),
    ("account_id", "batch_id"),
)
_PAID = frozenset(
    ["version", "changed_at", *(name for name in Card._fields if name.startswith("amount_"))]
)
"""The columns of a card that payments change."""


def check_columns(table: Table, names: Sequence[str]) -> None:
    """Raise TypeError when a row has a field without a column: then nothing starts."""
    missing = [name for name in names if name not in table.c]
    if missing:
        raise TypeError(f"storage.tables.{table.name} has no column {', '.join(missing)}")


check_columns(cards, Card._fields)
check_columns(batches, Batch._fields)
check_columns(transactions, Transaction._fields)
check_columns(holds, Hold._fields)
check_columns(tokens, Token._fields)
check_columns(pins, Pin._fields)
check_columns(pin_attempts, PinAttempt._fields)


def load(connection: Connection, needed: Sequence[Needs], now: datetime) -> Pending[Books]:
    """Ask for the needed rows that exist, locked until the commit; return what waits for them.

    Cards are locked in id order, so that two groups sharing cards wait instead of deadlocking.
    What hangs on a card changes only under its lock, and is read after that.
    """
    card_keys = {key for needs in needed for key in needs.cards}
    batch_keys = {key for needs in needed for key in needs.batches}
    named_keys = {key for needs in needed for key in needs.transactions}
    token_keys = {key for needs in needed for key in needs.tokens}
    locked = lock_cards(connection, card_keys, named_keys, token_keys)
    ordered = find(connection, batches, Batch._fields, _by(_BATCH, batch_keys), lock=True)
    named_rows = _by(_TRANSACTION, named_keys)
    named = find(connection, transactions, Transaction._fields, named_rows)
    given_rows = [{"digest": digest} for _, digest in token_keys]
    given_tokens = find(connection, tokens, Token._fields, given_rows)
    keys = chain(card_keys, named_keys, token_keys, batch_keys)
    tenants = {account_id for account_id, _ in keys}
    set_up = find_accounts(connection, tenants)
    busy = find_busy(connection, tenants)

    def wait() -> Books:
        rows = locked()
        books = Books(accounts=set_up(), orders=busy(), taken=_taken(connection, needed))
        for card in rows:
            books.load_card(card)
        for batch in map(Batch._make, ordered()):
            books.batches.load(batch)
        if _were_made_meanwhile(connection, books, needed):
            return load(connection, needed, now)()
        books.named = {row.id: row for row in _of_cards(books, map(Transaction._make, named()))}
        _know_tokens(books, given_tokens())
        _load_what_hangs_on_cards(connection, books, needed, now)
        return books

    return wait


def _were_made_meanwhile(connection: Connection, books: Books, needed: Sequence[Needs]) -> bool:
    """Say whether a card that was not there is there now.

    An order may have made its cards after these were locked, and have ended before the orders that
    are busy were read: then neither shows that the card exists.
    """
    wanted = {key for needs in needed if not needs.makes_cards for key in needs.cards}
    absent = [key for key in wanted if key not in books.cards and not books.busy_with(key)]
    return bool(find(connection, cards, ("id",), _by(_CARD, absent))())


OfCard = TypeVar("OfCard", Token, Transaction)


def _of_cards(books: Books, rows: Iterable[OfCard]) -> Iterator[OfCard]:
    """Yield the rows whose cards are in the books. Another commit may have made others since the
    cards were locked; for this one they don't exist yet."""
    return (row for row in rows if row.card in books.card_keys)


def _know_tokens(books: Books, rows: Rows) -> None:
    for token in _of_cards(books, map(Token._make, rows)):
        books.load_token(token)


def _taken(connection: Connection, needed: Sequence[Needs]) -> dict[BatchKey, Sequence[str]]:
    """Return which names of new orders cards have already."""
    taken = defaultdict[BatchKey, list[str]](list)
    for order in (needs.order for needs in needed if needs.order is not None):
        # A group may have several orders with the same batch_id, such as a dry run before another.
        taken[order.account_id, order.called] += names_taken(
            connection,
            order.account_id,
            Pattern.known(order.card_id_pattern or ""),
            min(order.requested, CARDS_PER_ORDER_MAX),
        )
    return {**taken}


def _load_what_hangs_on_cards(
    connection: Connection, books: Books, needed: Sequence[Needs], now: datetime
) -> None:
    held, refs, attempted = set[UUID](), set[tuple[UUID, str]](), set[UUID]()
    # Most cards have nothing locked, and so no hold that is open, be it due or not.
    locking = {card.id for card in books.cards.values() if card.amount_reserved}
    # No command of the group is later. Whether a hold is due is asked once more for each.
    latest = max([now, *[card.time(now) for card in books.cards.values()]]) if locking else now
    for needs, ids in _card_ids(books, needed):
        if needs.holds and locking:
            held.update(locking.intersection(ids))
        if needs.ref_id is not None and ids:
            refs.add((ids[0], needs.ref_id))
        if needs.pin_attempts:
            attempted.update(ids)
    due = _due_holds(connection, held, latest)
    named = find(connection, holds, Hold._fields, [{"id": id} for id in books.named])
    refunded = _refunded(connection, books.named)
    taken = find(connection, transactions, ("card", "ref_id", "id"), _by(("card", "ref_id"), refs))
    unmade = {key for needs in needed for key in needs.cards if key not in books.cards}
    reserved = find_reserved(connection, unmade, books.orders)
    load_codes = _ask_for_codes(connection, books, needed)
    load_pin_attempts = _ask_for_pin_attempts(connection, needed, attempted)
    for hold in map(Hold._make, due()):
        books.holds.load(hold)
        books.due[hold.card] = (*books.due.get(hold.card, ()), hold.id)
    for hold in map(Hold._make, named()):
        books.holds.load(hold)
    books.refunded = {parent_id: int(amount) for parent_id, amount in refunded()}
    books.refs = {(card, ref_id): id for card, ref_id, id in taken()}
    books.reserved = reserved()
    load_codes(books)
    load_pin_attempts(books)


def _ask_for_codes(
    connection: Connection, books: Books, needed: Sequence[Needs]
) -> Callable[[Books], None]:
    """Ask for the tokens that may serve, those that are named, and the PINs."""
    card_ids = [card.id for card in books.cards.values() if card.has_codes]
    serving = _on_cards(connection, tokens, Token._fields, is_left, card_ids)
    named_ids = {needs.token_id for needs in needed if needs.token_id is not None}
    named = find(connection, tokens, Token._fields, [{"id": id} for id in named_ids])
    kept = find(connection, pins, Pin._fields, [{"id": id} for id in card_ids])

    def wait(books: Books) -> None:
        _know_tokens(books, [*serving(), *named()])
        for pin in map(Pin._make, kept()):
            books.pins.load(pin)

    return wait


def _ask_for_pin_attempts(
    connection: Connection, needed: Sequence[Needs], card_ids: Collection[UUID]
) -> Callable[[Books], None]:
    """Ask for the PIN attempts that are to be judged, and for all that count on these cards."""
    ids = {needs.pin_attempt for needs in needed if needs.pin_attempt is not None}
    noted = find(connection, pin_attempts, PinAttempt._fields, [{"id": id} for id in ids])
    counting = _on_cards(connection, pin_attempts, PinAttempt._fields, counts, card_ids)

    def wait(books: Books) -> None:
        for attempt in map(PinAttempt._make, chain(noted(), counting())):
            books.load_pin_attempt(attempt)

    return wait


def _card_ids(books: Books, needed: Sequence[Needs]) -> Iterator[tuple[Needs, Sequence[UUID]]]:
    """Yield each need with the ids of its cards that exist."""
    made = dict[UUID, UUID]()
    for needs in needed:
        ids = [card.id for card in books.cards_for(needs)]
        if not ids:
            ids = [made[id] for _, id in needs.transactions if id in made]
        if needs.makes is not None and ids:
            made[needs.makes] = ids[0]
        yield needs, ids


def save(connection: Connection, changes: Changes, answers: Sequence[Answer]) -> None:
    """Write what a group of commands did."""
    for was, now in changes.batches.changed:
        if was.busy and not now.busy:
            release_names(connection, was)
    write(connection, _to_rows(changes, answers))


def _to_rows(changes: Changes, answers: Sequence[Answer]) -> list[New | Changed]:
    return [
        *_changes(batches, changes.batches),
        New(reserved_names, [row for batch in changes.batches.new for row in _reserved(batch)]),
        *jobs.new(changes.jobs),
        _new(files, changes.files),
        _new(file_parts, changes.file_parts),
        *_changes(cards, changes.cards),
        _new(transactions, changes.transactions),
        *_changes(holds, changes.holds),
        *_changes(tokens, changes.tokens),
        *_changes(pins, changes.pins),
        *_changes(pin_attempts, changes.pin_attempts),
        outbox.new(answers),
    ]


def _reserved(batch: Batch) -> Iterator[Row]:
    """Yield a row for each name that a new batch reserves."""
    if batch.busy:
        for card in batch.listed or ():
            yield {
                "account_id": batch.account_id,
                "card_id": card["card_id"],
                "batch_id": batch.batch_id,
            }


def _changes(table: Table, rows: Differ[Any]) -> list[New | Changed]:
    return [_new(table, rows.new), Changed(table, _changing(table, rows.changed))]


def _new(table: Table, values: Sequence[Any]) -> New:
    """Return what inserts values; what is NULL in all of them isn't sent."""
    if not values:
        return New(table, [])
    columns = zip(values[0]._fields, zip(*values, strict=True), strict=True)
    filled = {name: column for name, column in columns if any(map(_is_there, column))}
    return New(table, _transposed(filled), values[0]._fields)


def _changing(table: Table, values: Sequence[tuple[Any, Any]]) -> list[Row]:
    """Return the rows of values that are not as they were: what payments change of a card, or all
    columns."""
    if not values:
        return []
    before, after = (zip(*side, strict=True) for side in zip(*values, strict=True))
    columns = dict(zip(values[0][0]._fields, after, strict=True))
    changed = {
        name
        for (name, now), was in zip(columns.items(), before, strict=True)
        if _differs(table.c[name], was, now)
    }
    if not changed:
        return []
    keys = {column.name for column in table.primary_key}
    names = keys | _PAID if changed <= _PAID else columns.keys()
    return _transposed({name: columns[name] for name in columns if name in names})


def _differs(column: Column[Any], was: tuple[Any, ...], now: tuple[Any, ...]) -> bool:
    if not isinstance(column.type, JsonText):
        return now != was
    # As it is written: in Python 1, 1.0 and True are equal.
    return any(
        after is not before and write_json(after) != write_json(before)
        for before, after in zip(was, now, strict=True)
    )


def _transposed(columns: dict[str, tuple[Any, ...]]) -> list[Row]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _is_there(value: object) -> bool:
    return value is not None


def _by(names: tuple[str, ...], keys: Iterable[tuple[Any, ...]]) -> list[Row]:
    return [dict(zip(names, key, strict=True)) for key in keys]


def lock_cards(
    connection: Connection,
    keys: Collection[CardKey],
    named: Collection[TransactionKey] = (),
    given_tokens: Collection[TokenKey] = (),
) -> Pending[list[Card]]:
    """Ask for cards, also those named by transactions and tokens, locked in id order."""
    dialect, by_key = connection.dialect.name, _by(_CARD, keys)
    if not named and not given_tokens:
        rows = find(connection, cards, Card._fields, by_key, lock=True)
    else:
        values = parameters(dialect, columns_named(cards, _CARD), by_key)
        columns = columns_named(transactions, _TRANSACTION)
        values |= parameters(dialect, columns, _by(_TRANSACTION, named), "named")
        columns = columns_named(tokens, ("digest",))
        by_digest = [{"digest": digest} for _, digest in given_tokens]
        values |= parameters(dialect, columns, by_digest, "shown")
        rows = send(connection, _select_cards(dialect), values)
    return lambda: [Card._make(row) for row in rows()]


@cache
def _select_cards(dialect: str) -> Select[Any]:
    by_card = json_table(dialect, columns_named(cards, _CARD))
    by_transaction = json_table(dialect, columns_named(transactions, _TRANSACTION), "named")
    by_token = json_table(dialect, columns_named(tokens, ("digest",)), "shown")
    wanted = union(
        select(cards.c.id).join(by_card, matching(cards, by_card)),
        select(transactions.c.card).join(by_transaction, matching(transactions, by_transaction)),
        select(tokens.c.card).join(by_token, matching(tokens, by_token)),
    )
    statement = select(*columns_named(cards, Card._fields)).where(cards.c.id.in_(wanted))
    return statement.order_by(cards.c.id).with_for_update(of=cards)


def _on_cards(
    connection: Connection,
    table: Table,
    names: tuple[str, ...],
    condition: ColumnElement[bool],
    card_ids: Collection[UUID],
) -> Pending[Rows]:
    """Ask for the rows of these cards for which a condition is true."""
    if not card_ids:
        return list
    dialect, columns = connection.dialect.name, columns_named(table, ("card",))
    values = parameters(dialect, columns, [{"card": id} for id in card_ids])
    return send(connection, _select_on_cards(dialect, table, names, condition), values)


@cache
def _select_on_cards(
    dialect: str, table: Table, names: tuple[str, ...], condition: ColumnElement[bool]
) -> Select[Any]:
    source = json_table(dialect, columns_named(table, ("card",)))
    statement = select(*columns_named(table, names)).join(source, matching(table, source))
    return statement.where(condition)


def _due_holds(connection: Connection, card_ids: Collection[UUID], now: datetime) -> Pending[Rows]:
    if not card_ids:
        return list
    dialect, columns = connection.dialect.name, columns_named(holds, ("card",))
    values = parameters(dialect, columns, [{"card": id} for id in card_ids])
    return send(connection, _select_due_holds(dialect), {**values, "now": now})


@cache
def _select_due_holds(dialect: str) -> Select[Any]:
    source = json_table(dialect, columns_named(holds, ("card",)))
    due = holds.c.expires_at <= bindparam("now", type_=UtcTime())
    statement = select(*columns_named(holds, Hold._fields)).join(source, matching(holds, source))
    return statement.where(is_open, due).order_by(holds.c.expires_at, holds.c.id)


def _refunded(connection: Connection, parents: Collection[UUID]) -> Pending[Rows]:
    if not parents:
        return list
    dialect, columns = connection.dialect.name, columns_named(transactions, ("parent_id",))
    values = parameters(dialect, columns, [{"parent_id": id} for id in parents])
    return send(connection, _select_refunded(dialect), values)


@cache
def _select_refunded(dialect: str) -> Select[Any]:
    source = json_table(dialect, columns_named(transactions, ("parent_id",)))
    statement = select(transactions.c.parent_id, func.sum(transactions.c.amount))
    statement = statement.join(source, matching(transactions, source))
    statement = statement.where(transactions.c.type == TransactionType.FUND)
    return statement.group_by(transactions.c.parent_id)
