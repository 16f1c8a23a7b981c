"""Queries: cards, their tokens and PINs, their transactions."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any, NamedTuple, assert_never
from uuid import UUID

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Select,
    case,
    cast,
    func,
    not_,
    select,
)

from card_worker.contracts.enums import CardType, Status
from card_worker.domain.rows import Card, Pin, State, Token, Transaction, tokens_serving
from card_worker.storage.json_rows import columns_named, find_rows
from card_worker.storage.tables import (
    cards,
    hold_is_open,
    holds,
    pins,
    token_is_usable,
    tokens,
    transactions,
)
from card_worker.storage.types import WholeNumber


def find_card(connection: Connection, account_id: str, card_id: str) -> Card | None:
    """Return a card, without locking it."""
    key = {"account_id": account_id, "card_id": card_id}
    return next(iter(find_rows(connection, cards, Card, [key])()), None)


def card_at(connection: Connection, card: Card, now: datetime) -> Card:
    """Return a card as it is at `now`: expired holds lock nothing, with or without an event."""
    if card.amount_reserved == 0:
        return card
    due = int(connection.execute(_due(card.id, now)).scalar() or 0)
    return card._replace(amount_reserved=card.amount_reserved - due)


def _due(card: UUID | Column[Any], now: datetime) -> Select[Any]:
    """Select what the expired holds of a card lock according to its row."""
    left = func.sum(holds.c.amount - holds.c.captured - holds.c.released)
    return select(left).where(holds.c.card == card, hold_is_open, holds.c.expires_at <= now)


def find_codes(connection: Connection, card: Card, now: datetime) -> tuple[list[Token], Pin | None]:
    """Return the tokens of a card that are usable at `now`, the oldest first, and its PIN."""
    return find_codes_of(connection, [card], now)[0]


def find_codes_of(
    connection: Connection, found: Sequence[Card], now: datetime
) -> list[tuple[list[Token], Pin | None]]:
    """Return for each card its tokens that are usable at `now`, the oldest first, and its PIN."""
    coded = [card.id for card in found if card.has_codes]
    by_card = [{"card": id} for id in coded]
    find_tokens = find_rows(connection, tokens, Token, by_card, where=token_is_usable)
    find_pins = find_rows(connection, pins, Pin, [{"id": id} for id in coded])
    tokens_by_card = defaultdict[UUID, list[Token]](list)
    for token in find_tokens():
        tokens_by_card[token.card].append(token)
    pins_by_card = {pin.id: pin for pin in find_pins()}
    return [
        (tokens_serving(tokens_by_card[card.id], now), pins_by_card.get(card.id)) for card in found
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFilter:
    """A filter for cards of an account; None: any. Amounts in minor units."""

    status: Status | None = None
    type: CardType | None = None
    customer_id: str | None = None
    batch_id: str | None = None
    available_min: int | None = None
    available_max: int | None = None
    created_from: datetime | None = None
    created_before: datetime | None = None
    expires_before: datetime | None = None


ROWS_READ_MAX = 10_000
"""Largest number of cards that a page is searched in."""
ROWS_PER_SLICE = 1_000
PAGE_S_MAX = 2.0
"""Seconds after which a page ends. Meanwhile its worker handles nothing else."""


class Page(NamedTuple):
    """Cards, ordered by card_id, and where the next page begins."""

    cards: list[Card]
    next_cursor: str | None


def page_of_cards(
    connection: Connection,
    account_id: str,
    filter: CardFilter,
    now: datetime,
    *,
    cards_max: int,
    after: str | None = None,
) -> Page:
    """Return cards of an account as they are at `now`, searched in a limited number of cards.

    The next page is `after` the `next_cursor` of this one; there is none if that is None.
    """
    found: list[Card] = []
    until = monotonic() + PAGE_S_MAX
    for _ in range(ROWS_READ_MAX // ROWS_PER_SLICE):
        following = select(cards.c.card_id).where(*_after(account_id, after))
        following = following.order_by(cards.c.card_id).offset(ROWS_PER_SLICE - 1).limit(1)
        last = connection.execute(following).scalar()
        found += list_cards(
            connection,
            account_id,
            filter,
            now,
            cards_max=cards_max - len(found) + 1,
            after=after,
            last=last,
        )
        if len(found) > cards_max:
            return Page(found[:cards_max], found[cards_max - 1].card_id)
        after = last
        if after is None or monotonic() > until:
            break
    return Page(found, after)


def list_cards(
    connection: Connection,
    account_id: str,
    filter: CardFilter,
    now: datetime,
    *,
    cards_max: int,
    after: str | None = None,
    last: str | None = None,
) -> list[Card]:
    """Return cards of an account as they are at `now`, ordered by card_id.

    `after` is the last card_id of the page before, `last` the last one to return.
    """
    statement = select_cards(account_id, filter, now, after=after)
    if last is not None:
        statement = statement.where(cards.c.card_id <= last)
    return [Card._make(row) for row in connection.execute(statement.limit(cards_max))]


def select_cards(
    account_id: str, filter: CardFilter, now: datetime, *, after: str | None = None
) -> Select[Any]:
    """Select the fields of the cards of an account as they are at `now`, ordered by card_id."""
    # Most cards have no hold.
    due = case((cards.c.amount_reserved > 0, _due(cards.c.id, now).scalar_subquery()))
    reserved = cards.c.amount_reserved - cast(func.coalesce(due, 0), WholeNumber)
    available = cards.c.amount_balance - reserved
    conditions: dict[str, Callable[[Any], ColumnElement[bool]]] = {
        "status": lambda status: has_status(status, now),
        "type": lambda kind: cards.c.type == kind,
        "customer_id": lambda id: cards.c.customer_id == id,
        "batch_id": lambda id: cards.c.batch_id == id,
        "available_min": lambda amount: available >= amount,
        "available_max": lambda amount: available <= amount,
        "created_from": lambda time: cards.c.created_at >= time,
        "created_before": lambda time: cards.c.created_at < time,
        "expires_before": lambda time: cards.c.expires_at < time,
    }
    fields = [
        reserved.label(column.name) if column is cards.c.amount_reserved else column
        for column in columns_named(cards, Card._fields)
    ]
    statement = select(*fields).where(*_after(account_id, after)).order_by(cards.c.card_id)
    for name, condition in conditions.items():
        if (value := getattr(filter, name)) is not None:
            statement = statement.where(condition(value))
    return statement


def _after(account_id: str, card_id: str | None) -> list[ColumnElement[bool]]:
    after = [] if card_id is None else [cards.c.card_id > card_id]
    return [cards.c.account_id == account_id, *after]


def has_status(status: Status, now: datetime) -> ColumnElement[bool]:
    """Return the condition that a card has `status`: Card.status in SQL."""
    is_active = cards.c.state == State.ACTIVE
    is_due = cards.c.expires_at.is_not(None) & (cards.c.expires_at <= now)
    live = is_active & not_(is_due) & not_(cards.c.blocked)
    match status:
        case Status.INACTIVE:
            return cards.c.state == State.INACTIVE
        case Status.CLOSED:
            return cards.c.state == State.CLOSED
        case Status.EXPIRED:
            return (cards.c.state == State.EXPIRED) | (is_active & is_due)
        case Status.BLOCKED:
            return is_active & not_(is_due) & cards.c.blocked
        case Status.UNUSED:
            return live & (cards.c.amount_drawdown == 0)
        case Status.USED:
            return live & (cards.c.amount_drawdown > 0) & (cards.c.amount_balance == 0)
        case Status.PARTIALLY_USED:
            return live & (cards.c.amount_drawdown > 0) & (cards.c.amount_balance > 0)
    assert_never(status)


def find_transactions(
    connection: Connection, card: Card, *, after_version: int = 0, rows_max: int | None = None
) -> list[Transaction]:
    """Return the transactions of a card, the oldest first."""
    statement = select(*columns_named(transactions, Transaction._fields))
    statement = statement.where(
        transactions.c.card == card.id, transactions.c.version > after_version
    )
    rows = connection.execute(statement.order_by(transactions.c.version).limit(rows_max))
    return [Transaction._make(row) for row in rows]
