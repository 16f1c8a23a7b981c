"""Events: their columns beside their JSON, and what they say beside the rows they are about."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from sqlalchemy import Table

from card_worker.contracts import keys as key_of
from card_worker.contracts.commands import event_id
from card_worker.contracts.enums import EventType
from card_worker.contracts.json_text import write_json, write_time
from card_worker.domain.ids import card_uuid
from card_worker.domain.rows import (
    Batch,
    BatchKey,
    Card,
    CardKey,
    File,
    Hold,
    Pin,
    Token,
    Transaction,
)
from card_worker.domain.views import card_view, file_view, transaction_view
from card_worker.storage.reconcile.reading import Books, T
from card_worker.storage.reconcile.report import Difference, Wrong, difference, report, unequal
from card_worker.storage.tables import (
    batches,
    cards,
    files,
    holds,
    outbox,
    pins,
    tokens,
    transactions,
)

Json: TypeAlias = dict[str, Any]


class Row(NamedTuple):
    """A row of the outbox."""

    position: int
    id: UUID
    account_id: str
    type: EventType
    subject: str
    partition_key: str
    event: str
    created_at: datetime


@dataclass(slots=True)
class Known:
    """The rows that the events of a slice are about."""

    cards: dict[CardKey, Card] = field(default_factory=dict)
    transactions: dict[UUID, Transaction] = field(default_factory=dict)
    """Those with the events' ids, and the other ends of transfers."""
    holds: dict[UUID, Hold] = field(default_factory=dict)
    tokens: dict[UUID, Token] = field(default_factory=dict)
    """Those that events name."""
    serving: dict[UUID, list[Token]] = field(default_factory=dict)
    """Those that were neither spent nor revoked, by their card."""
    pins: dict[UUID, Pin] = field(default_factory=dict)
    batches: dict[BatchKey, Batch] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)


class Seen(NamedTuple):
    """An event that can be read, and all rows that its slice is about."""

    row: Row
    event: Json
    data: Json
    known: Known

    @property
    def is_of_card(self) -> bool:
        return "card" in self.data

    @property
    def is_dry(self) -> bool:
        return "dry_run" in self.data

    @property
    def card(self) -> Card | None:
        return self.known.cards.get((self.row.account_id, self.row.subject))

    @property
    def batch(self) -> Batch | None:
        return self.known.batches.get((self.row.account_id, self.row.subject))


EventCheck: TypeAlias = Callable[[Seen], Iterator[Wrong]]


def columns_are_as_in_the_json(seen: Seen) -> Iterator[Wrong]:
    """Prove that each column of the outbox says what the event says that is published."""
    row, event, data = seen.row, seen.event, seen.data
    key = f"{row.account_id}/{row.subject}"
    yield from unequal("partition_key", row.partition_key, key)
    for name, proven in (
        ("specversion", "1.0"),
        ("id", str(row.id)),
        ("source", f"/card-worker/{row.account_id}"),
        ("type", row.type),
        ("subject", row.subject),
        ("time", write_time(row.created_at)),
        ("datacontenttype", "application/json"),
        ("partitionkey", key),
        ("correlationid", data.get("command_id")),
    ):
        yield from unequal(f"event.{name}", event.get(name), proven)
    yield from unequal("event.data.account_id", data.get("account_id"), row.account_id)


def versions_agree(seen: Seen) -> Iterator[Wrong]:
    """Prove that an event of a card names it and its version in the same way everywhere."""
    if not seen.is_of_card:
        return
    card, version = seen.data["card"], seen.data.get("version")
    yield from unequal("event.data.card_id", seen.data.get("card_id"), seen.row.subject)
    yield from unequal("event.data.card.card_id", card.get("card_id"), seen.row.subject)
    yield from unequal("event.data.card.version", card.get("version"), version)
    sequence = None if seen.is_dry else f"{version:020d}"
    yield from unequal("event.sequence", seen.event.get("sequence"), sequence)


def transactions_equal_their_events(seen: Seen) -> Iterator[Wrong]:
    """Prove that an event has the transaction it shows, and no other."""
    if not seen.is_of_card:
        return
    row, stated = seen.known.transactions.get(seen.row.id), seen.data.get("transaction")
    if row is None or stated is None:
        if row is not None or stated is not None:
            stands = None if row is None else row.amount
            yield Wrong("transaction", stands, "none" if stated is None else stated.get("amount"))
        return
    yield from _unlike("transaction", transaction_view(row, seen.row.subject), stated)
    if seen.card is not None:
        yield from unequal("transaction: card", row.card, seen.card.id)


def card_equals_its_last_event(seen: Seen) -> Iterator[Wrong]:
    """Prove that a card is as its last event shows it, with its tokens and PIN."""
    card = seen.card
    if not seen.is_of_card or card is None or card.version != seen.data.get("version"):
        return
    at = seen.row.created_at
    left = [one for one in seen.known.serving.get(card.id, ()) if one.serves(at)]
    serving = sorted(left, key=lambda token: (token.created_at, token.id))
    yield from _unlike(
        "card", card_view(card, at, serving, seen.known.pins.get(card.id)), seen.data["card"]
    )


def holds_equal_their_events(seen: Seen) -> Iterator[Wrong]:
    """Prove that the hold of an event has the amount and the end that it shows."""
    stated = seen.data.get("hold")
    if stated is None:
        return
    hold = seen.known.holds.get(UUID(stated["id"]))
    if hold is None:
        yield Wrong(f"hold {stated['id']}", None, "one")
        return
    yield from unequal(f"hold {hold.id}: amount", hold.amount, stated["amount"])
    yield from unequal(f"hold {hold.id}: expires_at", _time(hold.expires_at), stated["expires_at"])


def tokens_equal_their_events(seen: Seen) -> Iterator[Wrong]:
    """Prove that each token an event shows is the card's and looks so, and when the one that it is
    about was made or revoked."""
    about = seen.data.get("token")
    if not seen.is_of_card:
        return
    for stated in _tokens(seen.data):
        token, name = seen.known.tokens.get(UUID(stated["id"])), f"token {stated['id']}"
        if token is None:
            yield Wrong(name, None, "one")
            continue
        if seen.card is not None:
            yield from unequal(f"{name}: card", token.card, seen.card.id)
        for field_ in ("ref_id", "masked_code", "format"):
            yield from unequal(f"{name}: {field_}", getattr(token, field_), stated[field_])
        if stated is about:
            made = seen.row.type is EventType.TOKEN_CREATED
            time = "created_at" if made else "revoked_at"
            yield from unequal(f"{name}: {time}", getattr(token, time), seen.row.created_at)


def _tokens(data: Json) -> list[Json]:
    """Return the tokens that an event shows."""
    about = [data["token"]] if "token" in data else []
    return about + (data["card"]["tokens"] if "card" in data else [])


def transfers_have_two_ends(seen: Seen) -> Iterator[Wrong]:
    """Prove that what leaves a card for another one arrives there."""
    stated = seen.data.get("transaction")
    if stated is None or stated.get("credit") != "other_card":
        return
    arrived = seen.known.transactions.get(_arrival(seen.row))
    other = card_uuid(seen.row.account_id, seen.data["other_card_id"])
    ends = None if arrived is None else (arrived.card, arrived.amount, arrived.currency)
    yield from unequal("what arrived", ends, (other, stated["amount"], stated["currency"]))


def batches_equal_their_events(seen: Seen) -> Iterator[Wrong]:
    """Prove that a batch is what its events say that never changes, and when it was ordered,
    completed, approved and cancelled."""
    row, data, batch = seen.row, seen.data, seen.batch
    if "batch_id" not in data:
        return
    if batch is None:
        yield Wrong("batch", None, "one")
        return
    for name in ("requested", "name", "metadata", "created_by"):
        yield from unequal(name, getattr(batch, name), data[name])
    yield from unequal("pattern", batch.pattern, data.get("card_id_pattern"))
    match row.type:
        case EventType.BATCH_ACCEPTED | EventType.BATCH_AWAITING_APPROVAL:
            yield from unequal("created_at", batch.created_at, row.created_at)
            yield from unequal("command_id", batch.command_id, data["command_id"])
        case EventType.BATCH_APPROVED:
            yield from unequal("approved_by", batch.approved_by, data["approved_by"])
        case EventType.BATCH_COMPLETED:
            yield from unequal("completed_at", batch.completed_at, row.created_at)
            yield from unequal("created", data["created"], data["requested"])
        case EventType.BATCH_CANCELLED:
            yield from unequal("state", batch.state, data["state"])
            if batch.busy:
                yield from unequal("created", batch.created, data["created"])


def files_equal_their_events(seen: Seen) -> Iterator[Wrong]:
    """Prove that each file an event names is there, with the digest and size that were stated."""
    for stated in filter(None, map(seen.data.get, ("file", "pin_file"))):
        file = seen.known.files.get(stated["name"])
        if file is None:
            yield Wrong(f"file {stated['name']}", None, "one")
            continue
        yield from _unlike(f"file {file.name}", file_view(file), stated)
        yield from unequal(f"file {file.name}: batch_id", file.batch_id, seen.row.subject)
        yield from unequal(f"file {file.name}: account_id", file.account_id, seen.row.account_id)
        time = "confirmed_at" if seen.row.type is EventType.BATCH_CONFIRMED else "created_at"
        yield from unequal(f"file {file.name}: {time}", getattr(file, time), seen.row.created_at)


EVENT_CHECKS: tuple[EventCheck, ...] = (columns_are_as_in_the_json, versions_agree)
EFFECT_CHECKS: tuple[EventCheck, ...] = (
    transactions_equal_their_events,
    card_equals_its_last_event,
    holds_equal_their_events,
    tokens_equal_their_events,
    transfers_have_two_ends,
    batches_equal_their_events,
    files_equal_their_events,
)
"""Those of an event that isn't the answer to a dry run, which changes nothing."""


def events_equal_their_rows(books: Books) -> Iterator[Difference]:
    """Do the checks of each event, in the order of their positions."""
    for rows, wrong in books.slices(outbox, Row, "position"):
        read = list(_read(rows, wrong))
        known = _known(books, read, wrong)
        yield from wrong
        for row, event, data in read:
            yield from _checked(Seen(row, event, data, known))


def _checked(seen: Seen) -> Iterator[Difference]:
    subject = f"{seen.row.subject}, event {seen.row.id}"
    for check in EVENT_CHECKS if seen.is_dry else (*EVENT_CHECKS, *EFFECT_CHECKS):
        yield from report(check.__name__, seen.row.account_id, subject, check(seen))


def _read(rows: Sequence[Row], wrong: list[Difference]) -> Iterator[tuple[Row, Json, Json]]:
    """Yield the events that are JSON, with their data."""
    for row in rows:
        try:
            event = json.loads(row.event)
            data = event["data"]
            _named(data)
        except (AttributeError, KeyError, TypeError, ValueError):
            found = Wrong("event", row.event[:40], "JSON of an event with data")
            subject = f"{row.subject}, event {row.id}"
            wrong.append(difference("events_are_json", row.account_id, subject, found))
        else:
            yield row, event, data


def _known(books: Books, read: Sequence[tuple[Row, Json, Json]], wrong: list[Difference]) -> Known:
    known = Known()

    def by_id(table: Table, kind: type[T], ids: Iterable[UUID]) -> dict[UUID, T]:
        found: Any = books.find(table, kind, [{"id": id} for id in ids], wrong)
        return {row.id: row for row in found}

    names = {(row.account_id, row.subject) for row, _, data in read if "card" in data}
    wanted = [{"account_id": account, "card_id": card} for account, card in names]
    found = books.find(cards, Card, wanted, wrong, "card_id")
    known.cards = {card.key: card for card in found}
    names_in = [_named(data) for _, _, data in read]
    ids = {row.id for row, _, data in read if "card" in data}
    ids |= {_arrival(row) for row, _, data in read if "other_card_id" in data}
    known.transactions = by_id(transactions, Transaction, ids)
    known.holds = by_id(holds, Hold, {id for named in names_in for id in named.holds})
    known.tokens = by_id(tokens, Token, {id for named in names_in for id in named.tokens})
    coded = [card.id for card in known.cards.values() if card.has_codes]
    known.pins = by_id(pins, Pin, coded)
    known.serving = books.serving(coded, wrong)
    names = {(row.account_id, row.subject) for row, _, data in read if "batch_id" in data}
    wanted = [{"account_id": account, "batch_id": batch} for account, batch in names]
    ordered = books.find(batches, Batch, wanted, wrong, "batch_id")
    known.batches = {batch.key: batch for batch in ordered}
    paths = [{"name": path} for named in names_in for path in named.files]
    known.files = {file.name: file for file in books.find(files, File, paths, wrong, "name")}
    return known


class _Named(NamedTuple):
    holds: list[UUID]
    tokens: list[UUID]
    files: list[str]


def _named(data: Json) -> _Named:
    """Return what an event names. Raises what is raised for something that is no event."""
    if "card" in data:
        data["card"]["version"] + data["version"]
    return _Named(
        [UUID(data["hold"]["id"])] if "hold" in data else [],
        [UUID(token["id"]) for token in _tokens(data)],
        [file["name"] for file in (data.get("file"), data.get("pin_file")) if file],
    )


def _arrival(row: Row) -> UUID:
    return event_id(row.account_id, key_of.arrival(row.id))


def _unlike(what: str, row: Any, stated: Json) -> Iterator[Wrong]:
    """Yield the fields that an event shows and a row has, and in which the two differ."""
    stands = json.loads(write_json(row))
    if write_json(stands) == write_json(stated):
        return
    for name in stated:
        if name in stands:
            yield from unequal(f"{what}: {name}", stands[name], stated[name])


def _time(time: datetime | None) -> str | None:
    return None if time is None else write_time(time)
