"""Answers queries. They change nothing except the count of PIN attempts."""

import json
from dataclasses import fields
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import Connection

from card_worker.attempts import Attempts
from card_worker.contracts.commands import InvalidCommand
from card_worker.contracts.enums import Reason
from card_worker.contracts.events import write
from card_worker.contracts.queries import CardQuery, GetBatch, ListCards, ListTransactions, Query
from card_worker.domain.access import AccessDenied, grant_access, record_attempt
from card_worker.domain.answers import Answer, answer
from card_worker.domain.books import Books
from card_worker.domain.decide import apply
from card_worker.domain.needs import needs_access
from card_worker.domain.producers import Sender
from card_worker.domain.refusal import Refused
from card_worker.domain.rows import Card
from card_worker.domain.views import batch_view, card_view, transaction_view
from card_worker.storage.batches import find_batch, find_busy, find_reserved
from card_worker.storage.engine import clock
from card_worker.storage.files import find_files
from card_worker.storage.loading import load
from card_worker.storage.pin_attempts import delete_attempt_on_nothing, delete_open_attempts
from card_worker.storage.queries import (
    CardFilter,
    card_at,
    find_card,
    find_codes,
    find_codes_of,
    find_transactions,
    page_of_cards,
)
from card_worker.storage.saving import save

QueryResult: TypeAlias = dict[str, Any]


def answer_query(connection: Connection, query: Query | InvalidCommand) -> QueryResult:
    """Return the result of a query, or `{reason, message}` when it is refused."""
    if not isinstance(query, InvalidCommand) and _is_late(query, clock(connection)):
        return refused(Refused(Reason.STALE_COMMAND))
    match query:
        case InvalidCommand():
            return refused(Refused(Reason.INVALID, *query.problems))
        case GetBatch():
            batch = find_batch(connection, query.account_id, query.batch_id)
            if batch is None:
                return refused(Refused(Reason.BATCH_NOT_FOUND))
            files = find_files(connection, query.account_id, query.batch_id)
            return {"batch": json.loads(write(batch_view(batch, files)))}
        case ListCards():
            return _cards(connection, query, clock(connection))
    assert query.card_id is not None
    card = find_card(connection, query.account_id, query.card_id)
    if _is_busy(connection, query.account_id, query.card_id, card):
        return refused(Refused(Reason.BATCH_STATE))
    if card is None:
        return refused(Refused(Reason.CARD_NOT_FOUND))
    return _result(connection, card, query, card.time(clock(connection)))


def answer_card_query(
    connection: Connection, query: CardQuery, now: datetime, sender: Sender | None = None
) -> QueryResult:
    """Return the result of a query with a token or a PIN, within the open commit.

    As for commands, the PIN attempt must have been stored before, and a wrong PIN counts. Raises
    LimitReached (`within_limits`).
    """
    attempts = Attempts(connection, [(query, sender)], now)
    needed = needs_access(query)
    if sender is not None and not _is_late(query, now) and attempts.is_refused(query, sender):
        delete_open_attempts(connection, [needed])
        return refused(Refused(Reason.TOO_MANY_ATTEMPTS))
    books = load(connection, [needed], now)()
    now = books.time(needed, now)
    emitted: list[Answer] = []
    try:
        if _is_late(query, now):
            raise AccessDenied(Reason.STALE_COMMAND)  # noqa: TRY301
        attempts.admit(query, sender)
        card, pin_check = grant_access(books, query, now)
    except AccessDenied as refusal:
        if refusal.is_wrong:
            attempts.note_wrong(query, sender)
        result, pin_check = refused(refusal), refusal.pin_check
    else:
        result = _result(connection, card, query, now)
    if query.pin is not None:
        record_attempt(books, query, pin_check, now)
    if pin_check is not None and pin_check.lock is not None:
        emitted.append(answer(books, pin_check.lock, apply(pin_check.lock, books)))
    save(connection, books.take_changes(), emitted)
    if query.pin is not None:
        delete_attempt_on_nothing(connection, query)
    attempts.save()
    return result


def _is_late(query: Query, now: datetime) -> bool:
    return query.not_after is not None and query.not_after < now


def _is_busy(connection: Connection, account_id: str, card_id: str, card: Card | None) -> bool:
    """Return whether a job is creating, removing or withdrawing the card."""
    key = account_id, card_id
    orders = find_busy(connection, [account_id])()
    reserved = find_reserved(connection, [key], orders)()
    books = Books(orders=orders, reserved=reserved)
    if card is not None:
        books.load_card(card)
    return books.busy_with(key) is not None


def _result(connection: Connection, card: Card, query: CardQuery, now: datetime) -> QueryResult:
    if isinstance(query, ListTransactions):
        return _transactions(connection, card, query)
    tokens, pin = find_codes(connection, card, now)
    view = card_view(card_at(connection, card, now), now, tokens, pin)
    return {"card": json.loads(write(view))}


def _cards(connection: Connection, query: ListCards, now: datetime) -> QueryResult:
    names = (field.name for field in fields(CardFilter))
    page = page_of_cards(
        connection,
        query.account_id,
        CardFilter(**{name: getattr(query, name) for name in names}),
        now,
        cards_max=query.limit,
        after=query.cursor,
    )
    codes = find_codes_of(connection, page.cards, now)
    views = [card_view(card, now, *of) for card, of in zip(page.cards, codes, strict=True)]
    cards = [json.loads(write(view)) for view in views]
    return {"cards": cards, "next_cursor": page.next_cursor}


def _transactions(connection: Connection, card: Card, query: ListTransactions) -> QueryResult:
    after = 0 if query.cursor is None else int(query.cursor)
    rows = find_transactions(connection, card, after_version=after, rows_max=query.limit + 1)
    views = [json.loads(write(transaction_view(row, card.card_id))) for row in rows[: query.limit]]
    next_cursor = str(views[-1]["version"]) if len(rows) > query.limit else None
    return {"transactions": views, "next_cursor": next_cursor}


def refused(refusal: Refused) -> QueryResult:
    """Return the result of a query that is refused."""
    result = {"reason": refusal.reason.value, "message": refusal.reason.text}
    if not refusal.problems:
        return result
    return result | {"problems": [problem.model_dump() for problem in refusal.problems]}
