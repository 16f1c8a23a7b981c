"""Queries to what they show. Nothing changes by them, but that a PIN was tried."""

import json
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from card_worker.contracts.commands import InvalidCommand
from card_worker.contracts.enums import Reason
from card_worker.contracts.events import write
from card_worker.contracts.queries import (
    CardQuery,
    GetBatch,
    ListTransactions,
    Query,
)
from card_worker.domain.answers import answer, shown, shown_batch, shown_transaction
from card_worker.domain.books import Books
from card_worker.domain.entry import NotLetIn, enter, settle
from card_worker.domain.evolve import evolve
from card_worker.domain.needs import needs
from card_worker.domain.rows import Card
from card_worker.storage.batches import find_batch, find_busy, find_reserved
from card_worker.storage.books import load, save
from card_worker.storage.engine import clock
from card_worker.storage.files import find_files
from card_worker.storage.queries import (
    card_at,
    find_card,
    find_codes,
    find_transactions,
)

Seen = dict[str, Any]


def look(connection: Connection, query: Query | InvalidCommand) -> Seen:
    """Return what `query` asks for, or `{reason, message}` where that isn't there."""
    match query:
        case InvalidCommand():
            problems = [problem.model_dump() for problem in query.problems]
            return _refusal(Reason.INVALID) | {"problems": problems}
        case GetBatch():
            batch = find_batch(connection, query.account_id, query.batch_id)
            if batch is None:
                return _refusal(Reason.BATCH_NOT_FOUND)
            files = find_files(connection, query.account_id, query.batch_id)
            return {"batch": json.loads(write(shown_batch(batch, files)))}
    assert query.card_id is not None
    card = find_card(connection, query.account_id, query.card_id)
    if _is_busy(connection, query.account_id, query.card_id, card):
        return _refusal(Reason.BATCH_STATE)
    if card is None:
        return _refusal(Reason.CARD_NOT_FOUND)
    return _see(connection, card, query, card.time(clock(connection)))


def look_as_holder(connection: Connection, query: CardQuery, now: datetime) -> Seen:
    """Return what a query asks for that brings a token or a PIN, within the commit that is open.

    The PIN must have been noted before, as a command's. Wrong ones count in the same way.
    """
    needed = needs(query)
    books = load(connection, [needed], now)()
    now, told = books.time(needed, now), []
    try:
        card, judged = enter(books, query, now)
    except NotLetIn as refusal:
        seen, judged = _refusal(refusal.reason), refusal.judged
    else:
        seen = _see(connection, card, query, now)
    if query.pin is not None:
        settle(books, query, judged, now)
    if judged is not None and judged.guard is not None:
        told.append(answer(books, judged.guard, evolve(judged.guard, books)))
    save(connection, books.take_changes(), told)
    return seen


def _is_busy(connection: Connection, account_id: str, card_id: str, card: Card | None) -> bool:
    """Say whether a card is still to be made, removed or let go with its batch."""
    key = account_id, card_id
    orders = find_busy(connection, [account_id])()
    reserved = find_reserved(connection, [key], orders)()
    books = Books({} if card is None else {key: card}, orders=orders, reserved=reserved)
    return books.busy_with(key) is not None


def _see(connection: Connection, card: Card, query: CardQuery, now: datetime) -> Seen:
    if isinstance(query, ListTransactions):
        return _rows(connection, card, query)
    serving, pin = find_codes(connection, card, now)
    told = shown(card_at(connection, card, now), now, serving, pin)
    return {"card": json.loads(write(told))}


def _rows(connection: Connection, card: Card, query: ListTransactions) -> Seen:
    after = 0 if query.cursor is None else int(query.cursor)
    rows = find_transactions(connection, card, after_version=after, rows_max=query.limit + 1)
    told = [json.loads(write(shown_transaction(row, card.card_id))) for row in rows[: query.limit]]
    following = str(told[-1]["version"]) if len(rows) > query.limit else None
    return {"transactions": told, "next_cursor": following}


def _refusal(reason: Reason) -> Seen:
    return {"reason": reason.value, "message": reason.text}
