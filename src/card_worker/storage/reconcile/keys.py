"""Keys beside their answers, and events that wait to be published."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import func, literal, select

from card_worker.contracts import keys as key_of
from card_worker.contracts.commands import event_id
from card_worker.contracts.json_text import write_time
from card_worker.domain.rows import Job
from card_worker.storage.idempotency import with_checksum
from card_worker.storage.reconcile.reading import ROWS, Books, as_stored
from card_worker.storage.reconcile.report import Difference, Wrong, difference, report, unequal
from card_worker.storage.tables import idempotency_keys, jobs, outbox, unpublished
from card_worker.storage.types import UtcTime

NEIGHBOURS = 100
"""An event that follows from another one stands no farther from it: only those of commits at the
same time can come between."""
NEAR = 3
"""Hardly ever does one stand farther, so these are read for many events at once."""


class Key(NamedTuple):
    """A row of the keys."""

    account_id: str
    key: str
    digest: str
    event_id: UUID
    created_at: datetime


def keys_have_their_answer(books: Books) -> Iterator[Difference]:
    """Prove that each key leads to the event that answers its command, made no earlier than it."""
    for found, wrong in books.slices(idempotency_keys, Key, "key"):
        asked = [{"id": row.event_id} for row in found]
        answers = {
            row.id: row for row in books.rows(outbox, ("id", "account_id", "created_at"), asked)
        }
        yield from wrong
        for row in found:
            proof = _answered(row, answers.get(row.event_id))
            yield from report("keys_have_their_answer", row.account_id, row.key, proof)


def _answered(row: Key, answer: Any) -> Iterator[Wrong]:
    yield from unequal("event_id", row.event_id, event_id(row.account_id, row.key))
    digest = row.digest.partition(":")[0]
    if row.digest != with_checksum((row.account_id, row.key), digest):
        yield Wrong("digest", row.digest, "one that its check sum fits")
    if answer is None:
        yield Wrong("answer", None, "one event")
        return
    yield from unequal("account_id of its answer", answer.account_id, row.account_id)
    if row.created_at > answer.created_at:
        yield Wrong("created_at", row.created_at, answer.created_at)


def events_have_their_key(books: Books) -> Iterator[Difference]:
    """Prove that each event answers a command whose key is kept, or follows from another event."""
    names = ("id", "position", "account_id", "type", "subject", "event")
    without = books.stream(select(outbox.c.id).except_(select(idempotency_keys.c.event_id)))
    while ids := [{"id": id} for (id,) in islice(without, ROWS)]:
        rows = books.rows(outbox, names, ids)
        near = _near(books, {row.position for row in rows})
        for row in rows:
            if row.id not in _following(books, row, near):
                wrong = Wrong(f"key of event {row.id} ({row.type})", None, "one")
                yield difference("events_have_their_key", row.account_id, row.subject, wrong)


def _following(books: Books, row: Any, near: dict[int, UUID]) -> Iterator[UUID]:
    """Yield the ids that an event has which isn't the answer to a command."""
    account_id = row.account_id
    try:
        data = json.loads(row.event)["data"]
        asked = event_id(account_id, key_of.query(data["command"], data["command_id"]))
        job_keys = [key for job in _jobs(books, row) for key in _keys_of_job(job, data)]
        hold = data["hold"]["id"] if "hold" in data else None
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return
    if hold is not None:
        yield event_id(account_id, key_of.release(hold))
    if "batch_id" in data:
        yield event_id(account_id, key_of.confirmation(row.subject))
        yield from (event_id(account_id, key) for key in job_keys)
        return
    nearest = (near.get(row.position - distance) for distance in range(1, NEAR + 1))
    for cause in (asked, *filter(None, nearest)):
        yield from _caused(account_id, cause)
    for cause in _before(books, row):
        yield from _caused(account_id, cause)


def _caused(account_id: str, cause: UUID) -> Iterator[UUID]:
    for key in (key_of.guard, key_of.arrival, key_of.breakage):
        yield event_id(account_id, key(cause))


def _near(books: Books, positions: set[int]) -> dict[int, UUID]:
    """Return the ids of the events right before these positions, by their own."""
    wanted = {place - distance for place in positions for distance in range(1, NEAR + 1)}
    rows = books.rows(outbox, ("position", "id"), [{"position": place} for place in wanted])
    return {row.position: row.id for row in rows}


def _before(books: Books, row: Any) -> Iterator[UUID]:
    """Yield the ids of the account's events shortly before one, the nearest first."""
    near = outbox.c.position.between(row.position - NEIGHBOURS, row.position - 1)
    statement = select(as_stored(outbox.c.id)).where(near, outbox.c.account_id == row.account_id)
    yield from books.connection.execute(statement.order_by(outbox.c.position.desc())).scalars()


def _jobs(books: Books, row: Any) -> Sequence[Job]:
    if not row.type.startswith("batch."):
        return []
    its_own = (jobs.c.account_id == row.account_id) & (jobs.c.batch_id == row.subject)
    columns = (as_stored(jobs.c[name]) for name in Job._fields)
    return [Job._make(found) for found in books.connection.execute(select(*columns).where(its_own))]


def _keys_of_job(job: Job, data: dict[str, Any]) -> Iterator[str]:
    yield key_of.of_job(job.id, "end")
    yield key_of.of_job(job.id, "cancelled")
    recall = data.get("recall")
    names = ("done", "already", "refused")
    done = data["created"] if recall is None else sum(recall[name] for name in names)
    # The last chunk may be smaller, and be done before others.
    for chunks in (done // job.chunk_cards, -(-done // job.chunk_cards)):
        yield key_of.of_job(job.id, f"left/{job.chunks - chunks}")


def events_are_published(books: Books) -> Iterator[Difference]:
    """Prove that no event waits to be published for longer than the books are to allow."""
    if books.published_within is None:
        return
    now: Any = books.connection.execute(select(func.current_timestamp())).scalar()
    now = now if isinstance(now, datetime) else datetime.fromisoformat(now).replace(tzinfo=UTC)
    late = outbox.c.created_at < literal(now.astimezone(UTC) - books.published_within, UtcTime())
    columns = (outbox.c.account_id, outbox.c.subject, outbox.c.id, outbox.c.created_at)
    statement = select(*map(as_stored, columns)).order_by(outbox.c.position)
    waiting = statement.join(unpublished, unpublished.c.position == outbox.c.position).where(late)
    for account_id, subject, id, made_at in books.stream(waiting):
        since = f"waits since {made_at if isinstance(made_at, str) else write_time(made_at)}"
        wrong = Wrong(f"publication of event {id}", since, f"within {books.published_within}")
        yield difference("events_are_published", account_id, subject, wrong)
