"""The chunks of a job: how they are requested, and how one is done.

A chunk is one commit and is done once, however often it is requested and whatever fails. Which
chunks are missing is stored in the database; messages only request them. A worker that has done a
chunk requests the one AHEAD numbers later, so that a few are requested at a time and never all.
Jobs of one batch are done one after the other: the end of one requests the next.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Annotated, NamedTuple, TypeAlias
from uuid import UUID

import structlog
from pydantic import Field
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from card_worker.batches.making import complete, make
from card_worker.batches.recalling import recall, recalled
from card_worker.batches.removing import give_up, remove, removed
from card_worker.batches.work import Impossible, Stopped, Work
from card_worker.contracts.batches import CARDS_PER_ORDER_MAX
from card_worker.contracts.enums import Action, Reason
from card_worker.contracts.events import PROBLEMS_MAX, Problem
from card_worker.contracts.fields import AccountId, Name
from card_worker.domain.rows import Job
from card_worker.secret_issuer import SecretIssuer
from card_worker.secrets.encryption import PepperMissing
from card_worker.storage import jobs
from card_worker.storage.batches import change_batch, find_batch
from card_worker.storage.engine import LOCK_TIMEOUT_MS, begin
from card_worker.storage.json_rows import find
from card_worker.storage.tables import cards

AHEAD = 64
"""Number of chunks of a job that are requested at a time."""
STALLED = timedelta(seconds=15)
"""A job without activity for so long has lost its messages."""

log = structlog.get_logger(__name__)

CHUNK: dict[Action, Callable[[Work, int], Job]] = {
    **dict.fromkeys(Action, recall),
    Action.MAKE: make,
    Action.REMOVE: remove,
}
END: dict[Action, Callable[[Work], None]] = {
    **dict.fromkeys(Action, recalled),
    Action.MAKE: complete,
    Action.REMOVE: removed,
}


ChunkNumber: TypeAlias = Annotated[int, Field(ge=1, le=CARDS_PER_ORDER_MAX)]


class Chunk(NamedTuple):
    """A part of a job: some of the cards of a batch, or the end of the job."""

    job: UUID
    account_id: AccountId
    batch_id: Name
    action: Action
    number: ChunkNumber


def first_chunks(engine: Engine, job_ids: Sequence[UUID]) -> list[Chunk]:
    """Return the chunks to request first, of jobs that have been started."""
    with begin(engine) as (connection, _):
        found = [jobs.find_job(connection, id) for id in job_ids]
        started = [job for job in found if job is not None and jobs.is_in_turn(connection, job)]
    return [chunk for job in started for chunk in _first_chunks(job)]


def _first_chunks(job: Job) -> list[Chunk]:
    return [_chunk(job, number) for number in range(1, min(AHEAD, job.chunks) + 1)]


def stalled_chunks(engine: Engine) -> list[Chunk]:
    """Return the chunks of stalled jobs to request again: the first of each sequence of chunks."""
    chunks: list[Chunk] = []
    with begin(engine) as (connection, now):
        for job in jobs.find_stalled(connection, now, STALLED):
            if not jobs.is_in_turn(connection, job):
                continue
            jobs.record_request(connection, job, now)
            firsts = dict[int, int]()
            for number in jobs.missing_chunks(connection, job):
                firsts.setdefault(number % AHEAD, number)
            chunks += [_chunk(job, number) for number in list(firsts.values()) or [job.end]]
    if chunks:
        log.info("chunks requested again", chunks=len(chunks))
    return chunks


def do(
    engine: Engine,
    issuer: SecretIssuer,
    chunk: Chunk,
    throttle: Callable[[float], None] | None = None,
    *,
    again: bool = False,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
) -> list[Chunk]:
    """Do a chunk, unless it is done or another worker does it; return the chunks to request next.

    The worker that has done a chunk has requested the next, unless it failed in between: `again`
    says that this message was started before. So a chunk may be requested any number of times.
    `throttle` is called between pieces of work. Raises errors that is_retryable or is_race accept
    if the chunk may be tried again.
    """
    try:
        with begin(engine, lock_timeout_ms=lock_timeout_ms) as (connection, now):
            work = _work(connection, chunk, now, issuer)
            if work is None:
                return []
            done = _do(work._replace(throttle=throttle), chunk.number)
    except Stopped:
        _end_if_cancelled(engine, issuer, chunk)
        return []
    except PepperMissing as why:
        note_error(engine, chunk, str(why))
        return []
    except Impossible as why:
        return _give_up(engine, issuer, chunk, why)
    except IntegrityError:
        # Another commit may have inserted cards with these ids.
        taken = _taken(engine, issuer, chunk)
        if taken is None:
            raise
        return _give_up(engine, issuer, chunk, taken)
    if done is None and not again:
        return []
    job = done or work.job
    if chunk.number == job.end:
        return _first_chunks_of_next(engine, chunk)
    if job.open_chunks == 0:
        return [_chunk(job, job.end)]
    following = chunk.number + AHEAD
    return [_chunk(job, following)] if following <= job.chunks else []


def _first_chunks_of_next(engine: Engine, chunk: Chunk) -> list[Chunk]:
    """Return the first chunks of the job that waited for the end of this one."""
    with begin(engine) as (connection, _):
        job = jobs.current_job(connection, chunk.account_id, chunk.batch_id)
    return [] if job is None else _first_chunks(job)


def note_error(engine: Engine, chunk: Chunk, why: str) -> None:
    """Store why a batch makes no progress; operators see it."""
    with begin(engine) as (connection, _):
        batch = find_batch(connection, chunk.account_id, chunk.batch_id, lock=True)
        if batch is not None and batch.busy:
            change_batch(connection, batch._replace(last_error=why))


def _work(
    connection: Connection, chunk: Chunk, now: datetime, issuer: SecretIssuer, *, lock: bool = False
) -> Work | None:
    """Return what the work on a chunk needs; None if its job has ended or is not the batch's."""
    batch = find_batch(connection, chunk.account_id, chunk.batch_id, lock=lock)
    job = jobs.find_job(connection, chunk.job)
    if job is None or job.ended_at is not None or batch is None:
        return None
    if (job.account_id, job.batch_id) != (batch.account_id, batch.batch_id):
        return None
    return Work(connection, job, batch, now, issuer)


def _do(work: Work, number: int) -> Job | None:
    """Do a chunk; return the job after it.

    None: the chunk is done, another worker does it, or an earlier job of the batch has not ended.
    """
    job = work.job
    if not jobs.lock_chunk(work.connection, job, number):
        return None
    if not jobs.is_in_turn(work.connection, job):
        return None
    if number != job.end:
        return CHUNK[job.action](work, number)
    if job.open_chunks == 0:
        END[job.action](work)
    return job


def _end_if_cancelled(engine: Engine, issuer: SecretIssuer, chunk: Chunk) -> None:
    """End a job whose order was cancelled before any card was made: there is nothing to remove."""
    with begin(engine) as (connection, now):
        work = _work(connection, chunk, now, issuer, lock=True)
        if work is not None and not work.batch.busy:
            jobs.end(connection, work.job, now)


def _chunk(job: Job, number: int) -> Chunk:
    return Chunk(job.id, job.account_id, job.batch_id, job.action, number)


def _taken(engine: Engine, issuer: SecretIssuer, chunk: Chunk) -> Impossible | None:
    """Return why a chunk cannot be made: cards with its ids exist. None if there are none."""
    with begin(engine) as (connection, now):
        work = _work(connection, chunk, now, issuer)
        if work is None or chunk.number >= work.job.end:
            return None
        names = work.batch.card_ids(*work.job.span(chunk.number))
        keys = [{"account_id": chunk.account_id, "card_id": name} for name in names]
        found = find(connection, cards, ("card_id",), keys)()
    message = Reason.CARD_EXISTS.text.rstrip(".")
    problems = [
        Problem(field="card_id_pattern", message=f"{name}: {message}")
        for name in sorted(name for (name,) in found)[:PROBLEMS_MAX]
    ]
    return Impossible(Reason.CARD_EXISTS, *problems) if problems else None


def _give_up(engine: Engine, issuer: SecretIssuer, chunk: Chunk, why: Impossible) -> list[Chunk]:
    with begin(engine) as (connection, now):
        work = _work(connection, chunk, now, issuer, lock=True)
        removal = None if work is None else give_up(work, why)
    return [] if removal is None else first_chunks(engine, [removal])
