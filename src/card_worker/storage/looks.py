"""What is looked at without being changed: a card, its history, and what time has made due."""

from datetime import datetime

from sqlalchemy import Connection, select, tuple_

from card_worker.domain.rows import Card, Hold, State, Transaction
from card_worker.storage.finding import columns_named, find
from card_worker.storage.tables import cards, holds, is_open, transactions


def find_card(connection: Connection, account_id: str, card_id: str) -> Card | None:
    """Return a card as it is now, without locking it."""
    wanted = [{"account_id": account_id, "card_id": card_id}]
    found = find(connection, cards, Card._fields, wanted)()
    return Card._make(found[0]) if found else None


def find_transactions(connection: Connection, card: Card) -> list[Transaction]:
    """Return what moved a card's money, in the order in which it did."""
    statement = select(*columns_named(transactions, Transaction._fields))
    statement = statement.where(transactions.c.card == card.id)
    rows = connection.execute(statement.order_by(transactions.c.version))
    return [Transaction._make(row) for row in rows]


def due_cards(
    connection: Connection, now: datetime, cards_max: int, after: Card | None = None
) -> list[Card]:
    """Return up to `cards_max` active cards whose time has passed, the longest past first.

    `after` is where the last slice ended. The cards are locked; those that another commit holds
    are left for the next look.
    """
    statement = select(*columns_named(cards, Card._fields))
    statement = statement.where(cards.c.state == State.ACTIVE, cards.c.expires_at <= now)
    if after is not None:
        place = tuple_(cards.c.expires_at, cards.c.id)
        statement = statement.where(place > tuple_(after.expires_at, after.id))
    statement = statement.order_by(cards.c.expires_at, cards.c.id).limit(cards_max)
    rows = connection.execute(statement.with_for_update(skip_locked=True))
    return [Card._make(row) for row in rows]


def due_holds(
    connection: Connection, now: datetime, holds_max: int, after: Hold | None = None
) -> list[Hold]:
    """Return up to `holds_max` open holds whose time has passed, the longest past first.

    `after` is where the last slice ended. Their cards are locked; those whose cards another commit
    holds are left for the next look.
    """
    statement = select(*columns_named(holds, Hold._fields)).join(cards, cards.c.id == holds.c.card)
    statement = statement.where(is_open, holds.c.expires_at <= now)
    if after is not None:
        place = tuple_(holds.c.expires_at, holds.c.id)
        statement = statement.where(place > tuple_(after.expires_at, after.id))
    statement = statement.order_by(holds.c.expires_at, holds.c.id).limit(holds_max)
    rows = connection.execute(statement.with_for_update(skip_locked=True, of=cards))
    return [Hold._make(row) for row in rows]
