"""The rows about each card, read in the order of account and card_id: two streams, merged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import func, select

from card_worker.contracts.enums import EventType, TransactionType
from card_worker.domain.rows import Card, Hold, Pin, State, Transaction
from card_worker.storage.reconcile.reading import ROWS, Books, as_stored, sound
from card_worker.storage.reconcile.report import Difference, Wrong, difference
from card_worker.storage.tables import cards, holds, outbox, pins, transactions

HISTORY_ROWS = 20 * ROWS
"""So many events may be in memory beside the cards that they are about."""
SEQUENCE = func.substr(outbox.c.event, func.length(outbox.c.event) - 21, 20)
HAS_SEQUENCE = func.substr(outbox.c.event, func.length(outbox.c.event) - 33, 12) == '"sequence":"'
"""The last field of an event is the card's version, if it has one; read so, all else is skipped."""


class Head(NamedTuple):
    """An event of a card, without its content."""

    account_id: str
    subject: str
    sequence: str
    id: UUID
    type: EventType
    position: int
    created_at: datetime

    @property
    def version(self) -> int:
        return int(self.sequence) if self.sequence.isdecimal() else 0


@dataclass(slots=True)
class Replayed:
    """What the types of a card's events say of it."""

    states: tuple[State, ...]
    """Those it may have."""
    blocked: bool = False
    activated_at: datetime | None = None
    changed_at: datetime | None = None
    """The time of the last event."""
    load: UUID | None = None
    """The event that gave it its amount."""
    pin_at: datetime | None = None
    """When it got its PIN, if it has one."""

    @classmethod
    def of(cls, events: Sequence[Head]) -> "Replayed":
        replayed = cls((State.INACTIVE,))
        for event in events:
            replayed.go_on(event)
        return replayed

    def go_on(self, event: Head) -> None:
        self.changed_at = event.created_at
        match event.type:
            case EventType.CARD_CREATED | EventType.CARD_ACTIVATED:
                self.states = (State.ACTIVE,)
                self.activated_at, self.load = event.created_at, event.id
                if event.type is EventType.CARD_CREATED:
                    self.pin_at = event.created_at
            case EventType.CARD_ACTIVATION_REVERSED:
                self.states = (State.INACTIVE,)
                self.activated_at = self.load = None
            case EventType.CARD_CLOSED | EventType.CARD_REPLACED:
                self.states = (State.CLOSED,)
            case EventType.CARD_EXPIRED:
                self.states = (State.EXPIRED,)
            case EventType.CARD_UPDATED if State.EXPIRED in self.states:
                # It may have been given more time. What it shows says which, elsewhere.
                self.states = (State.EXPIRED, State.ACTIVE)
            case EventType.CARD_BLOCKED | EventType.CARD_UNBLOCKED:
                self.blocked = event.type is EventType.CARD_BLOCKED
            case EventType.CARD_PIN_ROTATED:
                self.pin_at = event.created_at


@dataclass(slots=True)
class Seen:
    """A card and all rows that are about it. Events and transactions are in order of version."""

    card: Card
    events: list[Head]
    replayed: Replayed
    history: list[Transaction] = field(default_factory=list)
    holds: dict[UUID, Hold] = field(default_factory=dict)
    """By the id of their pending transaction."""
    pin: Pin | None = None

    def moved(self, *types: TransactionType) -> list[Transaction]:
        return [one for one in self.history if one.type in types]


class Slice(NamedTuple):
    """Some cards, and what is wrong with those that can't be read."""

    cards: list[Seen]
    wrong: list[Difference]


def slices_of_cards(books: Books) -> Iterator[Slice]:
    """Yield cards with all rows about them, ROWS cards or HISTORY_ROWS events at a time."""
    done, total = 0, books.count(cards)
    following = Slice([], [])
    rows = 0
    for card, events in _merged(books):
        if card is None:
            wrong = Wrong(f"card of {len(events)} events, such as {events[0].id}", None, "one card")
            key = events[0].account_id, events[0].subject
            following.wrong.append(difference("events_have_their_card", *key, wrong))
            continue
        done += 1
        for row in sound(cards, [card], following.wrong, "card_id"):
            following.cards.append(Seen(Card._make(row), events, Replayed.of(events)))
        rows += 1 + len(events)
        if len(following.cards) >= ROWS or rows >= HISTORY_ROWS:
            _add_rows(books, following)
            yield following
            books.progress("cards", done, total)
            following, rows = Slice([], []), 0
    _add_rows(books, following)
    yield following
    books.progress("cards", done, total)


def _merged(books: Books) -> Iterator[tuple[Any, list[Head]]]:
    """Yield each card with its events; None with those whose card doesn't exist."""
    names = (as_stored(cards.c[name]) for name in Card._fields)
    by_name = books.bytewise(cards.c.account_id), books.bytewise(cards.c.card_id)
    rows = books.stream(select(*names).order_by(*by_name))
    groups = groupby(_heads(books), key=lambda event: (event.account_id, event.subject))
    key, events = _next_group(groups)
    for card in rows:
        here = card.account_id, card.card_id
        while key is not None and key < here:
            yield None, events
            key, events = _next_group(groups)
        if key == here:
            yield card, events
            key, events = _next_group(groups)
        else:
            yield card, []
    while key is not None:
        yield None, events
        key, events = _next_group(groups)


def _heads(books: Books) -> Iterator[Head]:
    by_name = books.bytewise(outbox.c.account_id), books.bytewise(outbox.c.subject)
    columns = {name: as_stored(outbox.c[name]) for name in Head._fields if name != "sequence"}
    columns["sequence"] = SEQUENCE.label("sequence")
    statement = select(*(columns[name] for name in Head._fields)).where(HAS_SEQUENCE)
    ordered = statement.order_by(*by_name, columns["sequence"], outbox.c.position)
    return map(Head._make, books.stream(ordered))


def _next_group(groups: Iterator[tuple[Any, Iterator[Head]]]) -> tuple[Any, list[Head]]:
    key, events = next(groups, (None, iter(())))
    return key, list(events)


def _add_rows(books: Books, slice_: Slice) -> None:
    """Add what hangs on the cards of a slice."""
    by_id = {seen.card.id: seen for seen in slice_.cards}
    of_cards = [{"card": id} for id in by_id]
    for one in books.find(transactions, Transaction, of_cards, slice_.wrong):
        by_id[one.card].history.append(one)
    pending: dict[UUID, Seen] = {}
    for seen in slice_.cards:
        seen.history.sort(key=lambda one: one.version)
        pending |= {one.id: seen for one in seen.moved(TransactionType.PENDING_CAPTURE)}
    for hold in books.find(holds, Hold, [{"id": id} for id in pending], slice_.wrong):
        pending[hold.id].holds[hold.id] = hold
    coded = [{"id": seen.card.id} for seen in slice_.cards if seen.card.has_codes]
    for pin in books.find(pins, Pin, coded, slice_.wrong):
        by_id[pin.id].pin = pin
