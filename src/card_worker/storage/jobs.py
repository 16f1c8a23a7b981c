"""Jobs and their chunks."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, bindparam, delete, or_, select, update

from card_worker.contracts.enums import Action
from card_worker.domain.rows import Job
from card_worker.storage.bulk_write import NewRows
from card_worker.storage.json_rows import columns_named, find_rows
from card_worker.storage.pipeline import Pending, Rows, send
from card_worker.storage.tables import chunks, jobs
from card_worker.storage.types import UtcTime, Uuid, WholeNumber

CHUNKS_PER_READ = 4
_COLUMNS = columns_named(jobs, Job._fields)

# Executed for each chunk, and so built once.
_CURRENT = (
    select(*_COLUMNS)
    .where(jobs.c.account_id == bindparam("account_id"))
    .where(jobs.c.batch_id == bindparam("batch_id"))
    .where(jobs.c.ended_at.is_(None), jobs.c.action != Action.MAKE)
    .order_by(jobs.c.sequence)
    .limit(1)
)
_LOCK_CHUNK = (
    select(chunks.c.number)
    .where(chunks.c.job == bindparam("job", type_=Uuid()), chunks.c.number == bindparam("number"))
    .where(chunks.c.done_at.is_(None))
    .with_for_update(skip_locked=True)
)
_FINISH_CHUNK = (
    update(chunks)
    .where(chunks.c.job == bindparam("its_job", type_=Uuid()))
    .where(chunks.c.number == bindparam("its_number"))
    .values(
        {
            name: bindparam(name, type_=chunks.c[name].type)
            for name in ("done_at", "encrypted_secrets")
        }
    )
)
_COUNT_CHUNK = (
    update(jobs)
    .where(jobs.c.id == bindparam("its_id", type_=Uuid()))
    .values(
        open_chunks=jobs.c.open_chunks - 1,
        done=jobs.c.done + bindparam("more_done", type_=WholeNumber),
        already=jobs.c.already + bindparam("more_already", type_=WholeNumber),
        refused=jobs.c.refused + bindparam("more_refused", type_=WholeNumber),
        last_activity_at=bindparam("now", type_=UtcTime()),
    )
    .returning(*_COLUMNS)
)


class ChunkResult(NamedTuple):
    """What a chunk stores for the end of its job."""

    number: int
    encrypted_secrets: str | None
    refused: list[list[str]] | None
    """Each a card_id and the reason."""


_CHUNK_RESULTS = (
    select(*columns_named(chunks, ChunkResult._fields))
    .where(chunks.c.job == bindparam("job", type_=Uuid()))
    .where(chunks.c.number.between(bindparam("first"), bindparam("last")))
    .order_by(chunks.c.number)
)


def new_rows(started: Iterable[Job]) -> Iterator[NewRows]:
    """Yield the rows of new jobs, and a row for each of their chunks and for the end."""
    for job in started:
        yield NewRows(jobs, [job._asdict()])
        rows = [{"job": job.id, "number": number} for number in range(1, job.end + 1)]
        yield NewRows(chunks, rows)


def find_job(connection: Connection, id: UUID) -> Job | None:
    """Return a job, ended or not."""
    return next(iter(find_rows(connection, jobs, Job, [{"id": id}])()), None)


def is_in_turn(connection: Connection, job: Job) -> bool:
    """Say whether all earlier jobs on the cards of the batch have ended.

    The job that makes the cards doesn't count: a job that starts before its end stops it.
    """
    if job.action is Action.MAKE:
        return True
    current = current_job(connection, job.account_id, job.batch_id)
    return current is not None and current.id == job.id


def current_job(connection: Connection, account_id: str, batch_id: str) -> Job | None:
    """Return the first job on the existing cards of a batch that has not ended."""
    key = {"account_id": account_id, "batch_id": batch_id}
    row = connection.execute(_CURRENT, key).first()
    return None if row is None else Job._make(row)


def lock_chunk(connection: Connection, job: Job, number: int) -> bool:
    """Lock a chunk until the commit. False if it is done, or another commit has locked it."""
    return bool(send(connection, _LOCK_CHUNK, {"job": job.id, "number": number})())


def finish_chunk(
    connection: Connection,
    job: Job,
    number: int,
    now: datetime,
    *,
    encrypted_secrets: str | None = None,
    refused: list[list[str]] | None = None,
) -> None:
    """Store that a chunk is done, with its result."""
    key = {"its_job": job.id, "its_number": number}
    values = {"done_at": now, "encrypted_secrets": encrypted_secrets}
    send(connection, _FINISH_CHUNK, key | values)
    if refused is not None:
        statement = update(chunks).where(chunks.c.job == job.id, chunks.c.number == number)
        connection.execute(statement.values(refused=refused))


def count_chunk(
    connection: Connection,
    job: Job,
    now: datetime,
    *,
    done: int = 0,
    already: int = 0,
    refused: int = 0,
) -> Job:
    """Count a chunk as done, with the numbers of its cards; return the job after that, locked."""
    counts = {"more_done": done, "more_already": already, "more_refused": refused}
    (row,) = send(connection, _COUNT_CHUNK, {"its_id": job.id, "now": now, **counts})()
    return Job._make(row)


def record_progress(connection: Connection, job: Job, now: datetime) -> None:
    """Store that the progress of a job was published."""
    connection.execute(update(jobs).where(jobs.c.id == job.id).values(last_progress_at=now))


def record_request(connection: Connection, job: Job, now: datetime) -> None:
    """Store that the missing chunks of a job were requested again."""
    connection.execute(update(jobs).where(jobs.c.id == job.id).values(last_activity_at=now))


def end(connection: Connection, job: Job, now: datetime) -> None:
    """End a job and delete its chunks."""
    connection.execute(update(jobs).where(jobs.c.id == job.id).values(ended_at=now))
    connection.execute(delete(chunks).where(chunks.c.job == job.id))


def end_others(connection: Connection, job: Job, now: datetime) -> None:
    """End all other jobs of the batch."""
    others = select(*_COLUMNS).where(
        jobs.c.account_id == job.account_id,
        jobs.c.batch_id == job.batch_id,
        jobs.c.ended_at.is_(None),
        jobs.c.id != job.id,
    )
    for row in connection.execute(others).all():
        end(connection, Job._make(row), now)


def find_stalled(connection: Connection, now: datetime, after: timedelta) -> list[Job]:
    """Return the jobs without activity for so long, and lock them; locked ones are skipped.

    A job whose last activity is in the future counts as well: the clock was set back.
    """
    is_stalled = or_(jobs.c.last_activity_at < now - after, jobs.c.last_activity_at > now + after)
    statement = select(*_COLUMNS).where(jobs.c.ended_at.is_(None), is_stalled)
    statement = statement.order_by(jobs.c.last_activity_at, jobs.c.id)
    rows = connection.execute(statement.with_for_update(skip_locked=True))
    return [Job._make(row) for row in rows]


def missing_chunks(connection: Connection, job: Job) -> list[int]:
    """Return the numbers of the chunks that are not done, without that of the end."""
    statement = select(chunks.c.number).where(
        chunks.c.job == job.id, chunks.c.done_at.is_(None), chunks.c.number < job.end
    )
    return list(connection.execute(statement.order_by(chunks.c.number)).scalars())


def chunk_results(connection: Connection, job: Job) -> Iterator[ChunkResult]:
    """Yield the results of the chunks in their order; few are in memory at a time."""

    def read(first: int) -> Pending[Rows]:
        last = min(first + CHUNKS_PER_READ - 1, job.chunks)
        return send(connection, _CHUNK_RESULTS, {"job": job.id, "first": first, "last": last})

    following = read(1)
    for first in range(1 + CHUNKS_PER_READ, job.end, CHUNKS_PER_READ):
        # The server sends the next ones while the caller works on these.
        rows, following = following(), read(first)
        yield from map(ChunkResult._make, rows)
    yield from map(ChunkResult._make, following())
