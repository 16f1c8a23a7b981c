"""The chunks of a job: requests them, and does one.

A chunk is one commit. It is done once, however often it is requested and whatever fails. The
database stores which chunks are missing; messages only request them. A worker that has done a chunk
requests the one AHEAD numbers later, so that a few are requested at a time and never all. Jobs of
one batch are done one after the other: the end of one requests the next.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated, NamedTuple, TypeAlias
from uuid import UUID

import structlog
from pydantic import Field
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from card_worker.batches.making import complete_order, make_chunk
from card_worker.batches.recalling import end_recall, recall_chunk
from card_worker.batches.removing import cancel_order, end_removal, remove_chunk
from card_worker.batches.work import Impossible, Stopped, Work, card_ids
from card_worker.contracts.batches import CARDS_PER_ORDER_MAX
from card_worker.contracts.enums import Action, Reason
from card_worker.contracts.fields import AccountId, Name
from card_worker.contracts.views import PROBLEMS_MAX, Problem
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
"""A job without activity for so long counts as having lost its messages."""

log = structlog.get_logger(__name__)

STEPS: dict[Action, tuple[Callable[[Work, int], Job], Callable[[Work], None]]] = {
    **dict.fromkeys(Action, (recall_chunk, end_recall)),
    Action.MAKE: (make_chunk, complete_order),
    Action.REMOVE: (remove_chunk, end_removal),
}
"""The functions that do a chunk and end a job."""

ChunkNumber: TypeAlias = Annotated[int, Field(ge=1, le=CARDS_PER_ORDER_MAX)]


class Chunk(NamedTuple):
    """A part of a job: some of the cards of a batch, or the end of the job."""

    job: UUID
    account_id: AccountId
    batch_id: Name
    action: Action
    number: ChunkNumber


def first_chunks(engine: Engine, job_ids: Sequence[UUID]) -> list[Chunk]:
    """Return the chunks to request first, of jobs that are not waiting for others."""
    with begin(engine) as (connection, _):
        found = [jobs.find_job(connection, id) for id in job_ids]
        started = [job for job in found if job is not None and jobs.is_in_turn(connection, job)]
    return [chunk for job in started for chunk in _first_chunks(job)]


def _first_chunks(job: Job) -> list[Chunk]:
    return [_chunk(job, number) for number in range(1, min(AHEAD, job.chunks) + 1)]


def stalled_chunks(engine: Engine) -> list[Chunk]:
    """Return the chunks of stalled jobs to request again: the first one of each of AHEAD series."""
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

    The worker that has done a chunk requests the next ones, unless it fails in between. So with
    `again`, for a message that was started before, they are returned in any case; a chunk may be
    requested any number of times. `throttle` is called between pieces of work. Raises errors that
    is_retryable or is_race accept if the chunk may be tried again.
    """
    try:
        with _opened(engine, issuer, chunk, lock_timeout_ms=lock_timeout_ms) as work:
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
        return _cancel_order(engine, issuer, chunk, why)
    except IntegrityError:
        # Another commit may have inserted cards with these ids.
        taken = _taken(engine, issuer, chunk)
        if taken is None:
            raise
        return _cancel_order(engine, issuer, chunk, taken)
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
    """Store why a batch makes no progress, for operators."""
    with begin(engine) as (connection, _):
        batch = find_batch(connection, chunk.account_id, chunk.batch_id, lock=True)
        if batch is not None and batch.busy:
            change_batch(connection, batch._replace(last_error=why))


@contextmanager
def _opened(
    engine: Engine,
    issuer: SecretIssuer,
    chunk: Chunk,
    *,
    lock: bool = False,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
) -> Iterator[Work | None]:
    """Begin a commit for a chunk. Yield None if its job has ended or is not one of the batch.

    `lock` locks the batch.
    """
    with begin(engine, lock_timeout_ms=lock_timeout_ms) as (connection, now):
        key = chunk.account_id, chunk.batch_id
        batch = find_batch(connection, *key, lock=lock)
        job = jobs.find_job(connection, chunk.job)
        if not batch or not job or job.ended_at or (job.account_id, job.batch_id) != key:
            yield None
        else:
            yield Work(connection, job, batch, now, issuer)


def _do(work: Work, number: int) -> Job | None:
    """Do a chunk; return the job after it.

    None: the chunk is done, another worker does it, or an earlier job of the batch has not ended.
    """
    connection, job = work.connection, work.job
    if not jobs.lock_chunk(connection, job, number) or not jobs.is_in_turn(connection, job):
        return None
    do_chunk, end_job = STEPS[job.action]
    if number != job.end:
        return do_chunk(work, number)
    if job.open_chunks == 0:
        end_job(work)
    return job


def _end_if_cancelled(engine: Engine, issuer: SecretIssuer, chunk: Chunk) -> None:
    """End a job whose order was cancelled before any card was made: there is nothing to remove."""
    with _opened(engine, issuer, chunk, lock=True) as work:
        if work is not None and not work.batch.busy:
            jobs.end(work.connection, work.job, work.now)


def _chunk(job: Job, number: int) -> Chunk:
    return Chunk(job.id, job.account_id, job.batch_id, job.action, number)


def _taken(engine: Engine, issuer: SecretIssuer, chunk: Chunk) -> Impossible | None:
    """Return why a chunk cannot be made: cards with its ids exist. None if there are none."""
    with _opened(engine, issuer, chunk) as work:
        if work is None or chunk.number >= work.job.end:
            return None
        _, ids = card_ids(work, chunk.number)
        keys = [{"account_id": chunk.account_id, "card_id": id} for id in ids]
        found = find(work.connection, cards, ("card_id",), keys)()
    message = Reason.CARD_EXISTS.text.rstrip(".")
    problems = [
        Problem(field="card_id_pattern", message=f"{id}: {message}")
        for id in sorted(id for (id,) in found)[:PROBLEMS_MAX]
    ]
    return Impossible(Reason.CARD_EXISTS, *problems) if problems else None


def _cancel_order(
    engine: Engine, issuer: SecretIssuer, chunk: Chunk, why: Impossible
) -> list[Chunk]:
    with _opened(engine, issuer, chunk, lock=True) as work:
        removal = None if work is None else cancel_order(work, why)
    return [] if removal is None else first_chunks(engine, [removal])
