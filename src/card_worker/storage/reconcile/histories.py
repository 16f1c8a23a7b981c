"""Each card with all rows about it, in the order of account and card_id: two streams, merged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import merge
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple, get_args
from uuid import UUID

from sqlalchemy import func, select

from card_worker.contracts.enums import EventType, TransactionType
from card_worker.domain.events import CardEvent
from card_worker.domain.rows import Card, Hold, Pin, State, Transaction
from card_worker.storage.reconcile.reading import ROWS, Reader, as_stored, select_rows
from card_worker.storage.tables import cards, holds, outbox, pins, transactions

HISTORY_ROWS = 20 * ROWS
"""The number of events in memory beside the cards that they are about."""
_SEQUENCE = func.substr(outbox.c.event, func.length(outbox.c.event) - 21, 20)
_HAS_SEQUENCE = func.substr(outbox.c.event, func.length(outbox.c.event) - 33, 12) == '"sequence":"'
"""The last field of a card's event is the card's version: no other part of the JSON is read."""
_NAME = itemgetter(1, 2)
"""Returns account and card_id of a Card or of a CardEventRow."""


class CardEventRow(NamedTuple):
    """An event of a card, without its content."""

    id: UUID
    account_id: str
    subject: str
    type: EventType
    position: int
    created_at: datetime
    sequence: str

    @property
    def version(self) -> int:
        return int(self.sequence) if self.sequence.isdecimal() else 0


@dataclass(slots=True)
class Replayed:
    """The values of a card that follow from the types and times of its events."""

    states: tuple[State, ...] = (State.INACTIVE,)
    """The states that the card may have."""
    blocked: bool = False
    activated_at: datetime | None = None
    activation: UUID | None = None
    """The event of the activation."""
    activations: int = 0
    activated_in: int = 0
    """The version with which the last activation began, also if that was reversed."""
    is_replaced: bool = False
    pin_at: datetime | None = None
    """When the card got its last PIN, if it has one."""

    @classmethod
    def of(cls, events: Sequence[CardEventRow]) -> "Replayed":
        replayed = cls()
        for event in events:
            for name, value in CHANGES.get(event.type, {}).items():
                setattr(replayed, name, value(event) if callable(value) else value)
            if event.type in (EventType.CARD_CREATED, EventType.CARD_ACTIVATED):
                replayed.activations += 1
                replayed.activated_in = event.version
            if event.type is EventType.CARD_UPDATED and State.EXPIRED in replayed.states:
                # The event may have a later `expires_at`; its content is compared elsewhere.
                replayed.states = (State.EXPIRED, State.ACTIVE)
        return replayed


_ID, _TIME = attrgetter("id"), attrgetter("created_at")
_ACTIVATED = {"states": (State.ACTIVE,), "activated_at": _TIME, "activation": _ID}
_INACTIVE = {"states": (State.INACTIVE,), "activated_at": None, "activation": None}
_CLOSED = {"states": (State.CLOSED,)}
CHANGES: dict[EventType, dict[str, Any]] = {
    EventType.CARD_CREATED: {**_ACTIVATED, "pin_at": _TIME},
    EventType.CARD_ACTIVATED: _ACTIVATED,
    EventType.CARD_ACTIVATION_REVERSED: _INACTIVE,
    EventType.CARD_BLOCKED: {"blocked": True},
    EventType.CARD_UNBLOCKED: {"blocked": False},
    EventType.CARD_REPLACED: {**_CLOSED, "is_replaced": True},
    EventType.CARD_CLOSED: _CLOSED,
    EventType.CARD_EXPIRED: {"states": (State.EXPIRED,)},
    EventType.CARD_PIN_ROTATED: {"pin_at": _TIME},
    EventType.CARD_PIN_LOCKED: {},
    EventType.CARD_UPDATED: {},
    EventType.CARD_FUNDED: {},
    EventType.CARD_DRAWN_DOWN: {},
    EventType.CARD_REFUNDED: {},
    EventType.CARD_ADJUSTED: {},
    EventType.CARD_TRANSFERRED_OUT: {},
    EventType.CARD_TRANSFERRED_IN: {},
    EventType.TOKEN_CREATED: {},
    EventType.TOKEN_REVOKED: {},
    EventType.HOLD_PLACED: {},
    EventType.HOLD_CAPTURED: {},
    EventType.HOLD_VOIDED: {},
    EventType.HOLD_EXPIRED: {},
}
"""What each event of a card changes of these values; a function is called with the event."""
if missing := {event.type for event in get_args(CardEvent)} - CHANGES.keys():
    raise TypeError(f"{__name__}.CHANGES has no entry for {', '.join(sorted(missing))}")


@dataclass(slots=True)
class CardRows:
    """A card and all rows about it. Events and transactions are in the order of their versions."""

    card: Card
    events: list[CardEventRow]
    replayed: Replayed
    history: list[Transaction] = field(default_factory=list)
    holds: dict[UUID, Hold] = field(default_factory=dict)
    """By the id of their pending transaction."""
    pin: Pin | None = None


def slices_of_cards(reader: Reader) -> Iterator[list[CardRows]]:
    """Yield cards with all rows about them, ROWS cards or HISTORY_ROWS events at a time.

    Events without a card are reported.
    """
    done, total, rows = 0, reader.count(cards), 0
    slice_: list[CardRows] = []
    for card, events in _merged(reader):
        if card is None:
            missing = f"card of {len(events)} events, such as {events[0].id}", None, "one card"
            account_id, subject = _NAME(events[0])
            reader.found.add("events_have_their_card", account_id, subject, missing)
            continue
        readable = reader.readable(cards, Card, [card])
        slice_ += [CardRows(card, events, Replayed.of(events)) for card in readable]
        done, rows = done + 1, rows + 1 + len(events)
        if len(slice_) >= ROWS or rows >= HISTORY_ROWS:
            yield _with_rows(reader, slice_)
            reader.progress("cards", done, total)
            slice_, rows = [], 0
    yield _with_rows(reader, slice_)
    reader.progress("cards", done, total)


def _merged(reader: Reader) -> Iterator[tuple[Any, list[CardEventRow]]]:
    """Yield each card with its events, and None with the events of each missing card."""
    # Sort texts as Python does.
    collation = "C" if reader.connection.dialect.name == "postgresql" else "BINARY"
    by_name = (column.collate(collation) for column in (cards.c.account_id, cards.c.card_id))
    card_rows = reader.stream(select_rows(cards, Card).order_by(*by_name))
    columns = [as_stored(outbox.c[name]) for name in CardEventRow._fields if name != "sequence"]
    statement = select(*columns, _SEQUENCE.label("sequence")).where(_HAS_SEQUENCE)
    by_name = (column.collate(collation) for column in (outbox.c.account_id, outbox.c.subject))
    event_rows = reader.stream(statement.order_by(*by_name, "sequence", outbox.c.position))
    each = merge(card_rows, map(CardEventRow._make, event_rows), key=_NAME)
    for _, group in groupby(each, key=_NAME):
        rows = list(group)
        # Of equal names, the card comes first.
        card = None if isinstance(rows[0], CardEventRow) else rows.pop(0)
        yield card, rows


def _with_rows(reader: Reader, slice_: list[CardRows]) -> list[CardRows]:
    """Add the transactions, holds and PINs of the cards."""
    by_id = {rows.card.id: rows for rows in slice_}
    for transaction in reader.find(transactions, Transaction, by_id, "card"):
        by_id[transaction.card].history.append(transaction)
    pending: dict[UUID, CardRows] = {}
    for rows in slice_:
        rows.history.sort(key=lambda transaction: transaction.version)
        for transaction in rows.history:
            if transaction.type is TransactionType.PENDING_CAPTURE:
                pending[transaction.id] = rows
    for hold in reader.find(holds, Hold, pending, "id"):
        pending[hold.id].holds[hold.id] = hold
    coded = (rows.card.id for rows in slice_ if rows.card.has_codes)
    for pin in reader.find(pins, Pin, coded, "id"):
        by_id[pin.id].pin = pin
    return slice_
