"""Queries to what they show. Nothing is locked, nothing changed."""

import json
from typing import Any

from sqlalchemy import Connection

from card_worker.contracts.commands import InvalidCommand
from card_worker.contracts.events import write
from card_worker.contracts.kinds import MESSAGES, Reason
from card_worker.contracts.queries import GetBatch, GetCard, ListTransactions, Query
from card_worker.domain.answers import shown, shown_batch, shown_transaction
from card_worker.domain.rows import Card
from card_worker.storage.engine import clock
from card_worker.storage.looks import card_at, find_batch, find_card, find_transactions

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
            return {"batch": json.loads(write(shown_batch(batch)))}
    card = find_card(connection, query.account_id, query.card_id)
    if card is None:
        return _refusal(Reason.CARD_NOT_FOUND)
    return _card(connection, card) if isinstance(query, GetCard) else _rows(connection, card, query)


def _card(connection: Connection, card: Card) -> Seen:
    now = clock(connection)
    return {"card": json.loads(write(shown(card_at(connection, card, now), now)))}


def _rows(connection: Connection, card: Card, query: ListTransactions) -> Seen:
    after = 0 if query.cursor is None else int(query.cursor)
    rows = find_transactions(connection, card, after_version=after, rows_max=query.limit + 1)
    told = [json.loads(write(shown_transaction(row, card.card_id))) for row in rows[: query.limit]]
    following = str(told[-1]["version"]) if len(rows) > query.limit else None
    return {"transactions": told, "next_cursor": following}


def _refusal(reason: Reason) -> Seen:
    return {"reason": reason.value, "message": MESSAGES[reason]}
