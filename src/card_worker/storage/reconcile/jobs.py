"""Jobs beside their events, their batches and their chunks."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from sqlalchemy import case, func, or_, select

from card_worker.contracts import keys as key_of
from card_worker.contracts.commands import event_id
from card_worker.contracts.enums import Action, BatchState, EventType
from card_worker.domain.rows import Batch, BatchKey, File, Job
from card_worker.storage.reconcile.reading import Books
from card_worker.storage.reconcile.report import Difference, Wrong, report, unequal
from card_worker.storage.tables import batches, chunks, jobs, outbox

_BEGAN = {
    EventType.BATCH_ACCEPTED: (Action.MAKE,),
    EventType.BATCH_APPROVED: (Action.MAKE,),
    EventType.BATCH_CANCELLED: (Action.CANCEL, Action.REMOVE),
    EventType.BATCH_RECALLING: (Action.BLOCK, Action.UNBLOCK, Action.CLOSE, Action.EXTEND),
}
"""What may be done from an event on."""


_is_on_cards = jobs.c.ended_at.is_(None) & (jobs.c.action != Action.MAKE)


def jobs_add_up(books: Books) -> Iterator[Difference]:
    """Prove of each job its beginning, its turn, its batch, its end, and that it counts what its
    chunks have done."""
    for found, wrong in books.slices(jobs, Job, "id"):
        ids = {job.id for job in found} | {_end_id(job) for job in found}
        names = ("id", "account_id", "type", "subject", "event", "created_at")
        events = {row.id: row for row in books.rows(outbox, names, [{"id": id} for id in ids])}
        wanted = keys_of_batches(found)
        known = {one.key: one for one in books.find(batches, Batch, wanted, wrong, "batch_id")}
        first_open = _first_open(books, wanted)
        yield from wrong
        for job in found:
            key = job.account_id, job.batch_id
            batch, subject = known.get(key), f"{job.batch_id}, job {job.id}"
            for check, proof in (
                ("jobs_are_done_in_turn", _in_turn(job, first_open.get(key))),
                ("jobs_began_with_an_event", _began(job, batch, events)),
                ("jobs_count_their_chunks", _counted(books, job)),
                ("jobs_end_as_stated", _ended(job, batch, events)),
            ):
                yield from report(check, job.account_id, subject, proof)


def keys_of_batches(rows: Iterable[Job | File]) -> list[dict[str, Any]]:
    """Return what finds the batches of these rows."""
    keys = {(row.account_id, row.batch_id) for row in rows}
    return [{"account_id": account, "batch_id": batch} for account, batch in keys]


def _first_open(books: Books, wanted: Sequence[dict[str, Any]]) -> dict[BatchKey, int]:
    """Return the lowest sequence of the jobs on the cards of each batch that have not ended."""
    names = ("account_id", "batch_id", "sequence")
    first: dict[BatchKey, int] = {}
    for row in books.rows(jobs, names, wanted, _is_on_cards):
        key = row.account_id, row.batch_id
        first[key] = min(row.sequence, first.get(key, row.sequence))
    return first


def _in_turn(job: Job, first_open: int | None) -> Iterator[Wrong]:
    """Yield what a job has done though an earlier one on the cards of its batch has not ended. The
    job that makes them waits for none, and none waits for it."""
    if job.action is Action.MAKE or first_open is None or first_open >= job.sequence:
        return
    if job.ended_at is not None or job.open_chunks < job.chunks:
        yield Wrong("begun", f"sequence {job.sequence}", f"after the end of {first_open}")


def _end_id(job: Job) -> UUID:
    return event_id(job.account_id, key_of.of_job(job.id, "end"))


def _began(job: Job, batch: Batch | None, events: dict[UUID, Any]) -> Iterator[Wrong]:
    if batch is None:
        yield Wrong("batch", None, job.batch_id)
        return
    if not 1 <= job.first <= job.last <= batch.requested:
        yield Wrong("first, last", (job.first, job.last), f"within 1 and {batch.requested}")
    if job.chunk_cards < 1:
        yield Wrong("chunk_cards", job.chunk_cards, "above 0")
    event = events.get(job.id)
    if event is None or job.action not in _BEGAN.get(event.type, ()):
        yield Wrong(f"event with which to {job.action} began", event and event.type, "one")
        return
    yield from unequal("batch_id", job.batch_id, event.subject)
    yield from unequal("account_id", job.account_id, event.account_id)
    yield from unequal("created_at", job.created_at, event.created_at)
    data = _data(event)
    for name in ("command", "command_id"):
        yield from unequal(name, getattr(job, name), data.get(name))
    stated = data.get("recall", {"action": job.action, "first": 1, "last": batch.requested})
    for name in ("action", "first", "last"):
        yield from unequal(name, getattr(job, name), stated.get(name))
    if job.reason is not None or "recall" in data:
        yield from unequal("reason", job.reason, data.get("reason_text"))


def _data(event: Any) -> dict[str, Any]:
    """Return what an event says; nothing if it can't be read, which another check tells."""
    with suppress(ValueError, KeyError, TypeError):
        return dict(json.loads(event.event)["data"])
    return {}


def _counted(books: Books, job: Job) -> Iterator[Wrong]:
    if job.chunk_cards < 1:
        return
    statement = select(chunks.c.number, chunks.c.done_at.is_not(None)).where(chunks.c.job == job.id)
    rows = books.connection.execute(statement.order_by(chunks.c.number)).all()
    if job.ended_at is not None:
        yield from unequal("chunks, having ended", len(rows), 0)
        return
    yield from unequal("chunks", [number for number, _ in rows], list(range(1, job.end + 1)))
    done = {number for number, is_done in rows if is_done and number < job.end}
    yield from unequal("open_chunks", job.open_chunks, job.chunks - len(done))
    counted = job.done + job.already + job.refused
    proven = sum(job.span(number)[1] for number in done)
    if counted != proven and job.action is not Action.REMOVE:
        yield Wrong("done, already and refused", counted, proven)


def _ended(job: Job, batch: Batch | None, events: dict[UUID, Any]) -> Iterator[Wrong]:
    """Yield in what a job that has ended differs from the event of its end. A job on an order that
    was cancelled may end without one."""
    is_let_go = batch is not None and batch.state is BatchState.CANCELLED
    if job.ended_at is None or job.action is Action.REMOVE:
        return
    event = events.get(_end_id(job))
    if event is None:
        if not is_let_go:
            yield Wrong("event of its end", None, "one")
        return
    yield from unequal("ended_at", job.ended_at, event.created_at)
    yield from unequal("open_chunks", job.open_chunks, 0)
    all_of_them = job.last - job.first + 1
    yield from unequal(
        "done, already and refused", job.done + job.already + job.refused, all_of_them
    )
    stated = _data(event).get("recall")
    if stated is not None:
        for name in ("done", "already", "refused"):
            yield from unequal(name, getattr(job, name), stated[name])


def batches_count_their_jobs(books: Books) -> Iterator[Difference]:
    """Prove that the jobs of a batch have the sequences from 1 to the number that it counts."""
    its_own = (jobs.c.account_id, jobs.c.batch_id)
    sequence = jobs.c.sequence
    counts = {
        "jobs": func.count(),
        "different sequences": func.count(case((sequence > 0, sequence)).distinct()),
        "highest sequence": func.max(sequence),
    }
    labelled = [count.label(name) for name, count in counts.items()]
    begun = select(*its_own, *labelled).group_by(*its_own).subquery()
    known = (begun.c.account_id == batches.c.account_id) & (begun.c.batch_id == batches.c.batch_id)
    there = [func.coalesce(begun.c[name], 0) for name in counts]
    statement = (
        select(batches.c.account_id, batches.c.batch_id, batches.c.job_count, *there)
        .select_from(batches.outerjoin(begun, known))
        .where(or_(*(number != batches.c.job_count for number in there)))
    )
    for account_id, batch_id, counted, *numbers in books.stream(statement):
        proofs = (unequal(*each, counted) for each in zip(counts, numbers, strict=True))
        yield from report("batches_count_their_jobs", account_id, batch_id, *proofs)
