"""Ids that derive from other values: of the events that answer, of other events, and of tokens."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import func, literal, select

from card_worker.contracts import keys as key_of
from card_worker.contracts.commands import event_id
from card_worker.contracts.enums import EventType
from card_worker.contracts.events import is_pruned
from card_worker.contracts.json_text import write_time
from card_worker.domain.ids import token_uuids
from card_worker.domain.rows import Card, Job, Token
from card_worker.storage.idempotency import with_checksum
from card_worker.storage.reconcile.reading import BATCH_KEY, ROWS, Reader, StoredEvent, as_stored
from card_worker.storage.reconcile.report import Comparisons
from card_worker.storage.tables import (
    batches,
    cards,
    idempotency_keys,
    jobs,
    outbox,
    tokens,
    unpublished,
)
from card_worker.storage.types import UtcTime

NEIGHBOURS = 100
"""An event that follows from another one is at most so many positions later, after events of
commits at the same time."""
NEAR = 3
"""It is hardly ever further away, so so many are read for many events at once."""


class Key(NamedTuple):
    """A row of the idempotency keys."""

    account_id: str
    key: str
    digest: str
    event_id: UUID
    created_at: datetime


class EventRow(NamedTuple):
    """An event without its content."""

    id: UUID
    position: int
    account_id: str
    created_at: datetime


def check_keys(reader: Reader) -> None:
    for found in reader.slices(idempotency_keys, Key):
        answers = reader.by_key(outbox, EventRow, (row.event_id for row in found))
        for row in found:
            check = keys_have_their_answer(row, answers.get(row.event_id))
            reader.found.compare(row.account_id, row.key, check)


def keys_have_their_answer(row: Key, answer: EventRow | None) -> Comparisons:
    """A key has the event that answers its command, which is not older than the key."""
    yield "event_id", row.event_id, event_id(row.account_id, row.key)
    if row.digest != with_checksum((row.account_id, row.key), row.digest.partition(":")[0]):
        yield "digest", row.digest, "a digest that fits its checksum"
    if answer is None:
        yield "answer", None, "one event"
        return
    yield "account_id of its answer", answer.account_id, row.account_id
    if row.created_at > answer.created_at:
        yield "created_at", row.created_at, answer.created_at


def events_have_their_key(reader: Reader) -> None:
    """Each event answers a command whose key is stored, or follows from another event."""
    without_key = select(as_stored(outbox.c.id)).except_(select(idempotency_keys.c.event_id))
    ids = reader.stream(without_key)
    while slice_ := [id for (id,) in islice(ids, ROWS)]:
        events = reader.find(outbox, StoredEvent, slice_, "id")
        before = {event.position - place for event in events for place in range(1, NEAR + 1)}
        near = reader.by_key(outbox, EventRow, before, "position")
        for event in events:
            if event.id not in _derived_ids(reader, event, near):
                missing = f"key of event {event.id} ({event.type})", None, "one"
                reader.found.add("events_have_their_key", *event.key, missing)


def _derived_ids(reader: Reader, event: StoredEvent, near: dict[int, EventRow]) -> Iterator[UUID]:
    """Yield the ids that the event can have if it is not the answer to a command."""
    if is_pruned(event.event):
        yield event.id  # nothing tells any more what it follows from
        return
    try:
        data = json.loads(event.event)["data"]
        if "hold" in data:
            yield event_id(event.account_id, key_of.release(data["hold"]["id"]))
        if "batch_id" in data:
            for key in _keys_of_batch(reader, event, data):
                yield event_id(event.account_id, key)
            if _has_pruned_jobs(reader, event):
                yield event.id  # it may be of one of these
            return
        query = event_id(event.account_id, key_of.query(data["command"], data["command_id"]))
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return
    places = (event.position - place for place in range(1, NEAR + 1))
    nearest = (near[place].id for place in places if place in near)
    for cause in chain([query], nearest, _ids_before(reader, event)):
        for key_from in (key_of.guard, key_of.arrival, key_of.breakage, key_of.rest):
            yield event_id(event.account_id, key_from(cause))


def _ids_before(reader: Reader, event: StoredEvent) -> Iterator[UUID]:
    """Yield the ids of the account's events shortly before an event, the nearest first."""
    near = outbox.c.position.between(event.position - NEIGHBOURS, event.position - 1)
    statement = select(as_stored(outbox.c.id)).where(near, outbox.c.account_id == event.account_id)
    yield from reader.connection.execute(statement.order_by(outbox.c.position.desc())).scalars()


def _has_pruned_jobs(reader: Reader, event: StoredEvent) -> bool:
    key = {"account_id": event.account_id, "batch_id": event.subject}
    pruned = select(batches.c.pruned_jobs).filter_by(**key)
    return bool(reader.connection.execute(pruned).scalar())


def _keys_of_batch(reader: Reader, event: StoredEvent, data: dict[str, Any]) -> Iterator[str]:
    yield key_of.confirmation(event.subject)
    for job in reader.find(jobs, Job, [event.key], *BATCH_KEY):
        yield key_of.of_job(job.id, "end")
        yield key_of.of_job(job.id, "cancelled")
        recall = data.get("recall")
        names = ("done", "already", "refused")
        done = data["created"] if recall is None else sum(recall[name] for name in names)
        # The last chunk may be smaller, and be done before others.
        for chunks in (done // job.chunk_cards, -(-done // job.chunk_cards)):
            yield key_of.of_job(job.id, f"left/{job.chunks - chunks}")


def events_are_published(reader: Reader, within: timedelta) -> None:
    """No event waits for more than this time to be published."""
    now: Any = reader.connection.execute(select(func.current_timestamp())).scalar()
    now = now if isinstance(now, datetime) else datetime.fromisoformat(now).replace(tzinfo=UTC)
    late = outbox.c.created_at < literal(now.astimezone(UTC) - within, UtcTime())
    columns = (outbox.c.account_id, outbox.c.subject, outbox.c.id, outbox.c.created_at)
    statement = select(*map(as_stored, columns)).where(late).order_by(outbox.c.position)
    waiting = statement.join(unpublished, unpublished.c.position == outbox.c.position)
    for account_id, subject, id, created_at in reader.stream(waiting):
        since = created_at if isinstance(created_at, str) else write_time(created_at)
        waits = f"publication of event {id}", f"waits since {since}", f"within {within}"
        reader.found.add("events_are_published", account_id, subject, waits)


def check_tokens(reader: Reader) -> None:
    for found in reader.slices(tokens, Token):
        later = [token for token in found if token.id != id_with_card(token)]
        events = reader.by_key(outbox, StoredEvent, (token.id for token in later))
        owners = reader.by_key(cards, Card, (token.card for token in later))
        for token in found:
            issued = tokens_were_issued(token, owners.get(token.card), events.get(token.id))
            reader.found.compare(token.account_id, f"token {token.id}", issued)


def tokens_were_issued(token: Token, card: Card | None, event: StoredEvent | None) -> Comparisons:
    """A token was issued with its card, or by an event about the card."""
    if token.id == id_with_card(token):
        yield "ref_id", token.ref_id, None
        yield "metadata", token.metadata, None
    elif event is None or event.type is not EventType.TOKEN_CREATED:
        yield "id", token.id, "the id of an event, or derived from card and created_at"
    elif card is not None:
        yield "card", card.card_id, event.subject


def id_with_card(token: Token) -> UUID:
    """Return the id of a token that is issued together with its card."""
    return UUID(bytes=token_uuids([token.card.bytes], token.created_at)[0])
