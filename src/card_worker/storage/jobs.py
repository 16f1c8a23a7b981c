"""Jobs and their chunks: which are to be done, by whom, and what came of them."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, bindparam, delete, or_, select, update

from card_worker.contracts.enums import Action
from card_worker.domain.rows import Job
from card_worker.storage.bulk_write import New
from card_worker.storage.json_rows import columns_named, find
from card_worker.storage.pipeline import Pending, Rows, send
from card_worker.storage.tables import chunks, jobs
from card_worker.storage.types import UtcTime, Uuid, WholeNumber

_COLUMNS = columns_named(jobs, Job._fields)
READ_TOGETHER = 4


class ChunkResult(NamedTuple):
    """What a chunk left for the end of its job."""

    number: int
    encrypted_secrets: str | None
    refused: list[list[str]] | None
    """Each a card_id and the reason."""


def new(begun: Iterable[Job]) -> Iterator[New]:
    """Yield what adds jobs, with a row for each chunk and one for the end."""
    for job in begun:
        yield New(jobs, [job._asdict()])
        rows = [{"job": job.id, "number": number} for number in range(1, job.end + 1)]
        yield New(chunks, rows)


def find_job(connection: Connection, id: UUID) -> Job | None:
    """Return a job as it is now."""
    found = find(connection, jobs, Job._fields, [{"id": id}])()
    return Job._make(found[0]) if found else None


def is_in_turn(connection: Connection, job: Job) -> bool:
    """Say whether all earlier jobs on the cards of the batch have ended.

    The job that makes the cards is not waited for: whatever begins before its end stops it.
    """
    if job.action is Action.MAKE:
        return True
    current = current_job(connection, job.account_id, job.batch_id)
    return current is not None and current.id == job.id


def current_job(connection: Connection, account_id: str, batch_id: str) -> Job | None:
    """Return the first job on the cards of a batch that has not ended."""
    named = {"account_id": account_id, "batch_id": batch_id}
    row = connection.execute(_CURRENT, named).first()
    return None if row is None else Job._make(row)


_CURRENT = (
    select(*_COLUMNS)
    .where(jobs.c.account_id == bindparam("account_id"))
    .where(jobs.c.batch_id == bindparam("batch_id"))
    .where(jobs.c.ended_at.is_(None), jobs.c.action != Action.MAKE)
    .order_by(jobs.c.sequence)
    .limit(1)
)
# A chunk is small; what is said of it is made into SQL once.
_IS_OPEN = (
    select(chunks.c.number)
    .where(chunks.c.job == bindparam("job", type_=Uuid()), chunks.c.number == bindparam("number"))
    .where(chunks.c.done_at.is_(None))
    .with_for_update(skip_locked=True)
)
_DONE = (
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
_MOVED = (
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


def is_open(connection: Connection, job: Job, number: int) -> bool:
    """Say whether a chunk is to be done and nobody is at it; from now on we are.

    False for one that is done, too, and for one that another commit is at.
    """
    return bool(send(connection, _IS_OPEN, {"job": job.id, "number": number})())


def chunk_done(
    connection: Connection,
    job: Job,
    number: int,
    now: datetime,
    *,
    encrypted_secrets: str | None = None,
    refused: list[list[str]] | None = None,
) -> None:
    """Note that a chunk is done, and what it leaves for the end."""
    values = {
        "its_job": job.id,
        "its_number": number,
        "done_at": now,
        "encrypted_secrets": encrypted_secrets,
    }
    send(connection, _DONE, values)
    if refused is not None:
        statement = update(chunks).where(chunks.c.job == job.id, chunks.c.number == number)
        connection.execute(statement.values(refused=refused))


def moved(
    connection: Connection,
    job: Job,
    now: datetime,
    *,
    done: int = 0,
    already: int = 0,
    refused: int = 0,
) -> Job:
    """Count one chunk as done; return the job after that, locked until the commit."""
    counts = {"more_done": done, "more_already": already, "more_refused": refused}
    (row,) = send(connection, _MOVED, {"its_id": job.id, "now": now, **counts})()
    return Job._make(row)


def told(connection: Connection, job: Job, now: datetime) -> None:
    """Note that the world was told how far it is."""
    connection.execute(update(jobs).where(jobs.c.id == job.id).values(last_progress_at=now))


def asked_again(connection: Connection, job: Job, now: datetime) -> None:
    """Note that what is missing was asked for again."""
    connection.execute(update(jobs).where(jobs.c.id == job.id).values(last_activity_at=now))


def ended(connection: Connection, job: Job, now: datetime) -> None:
    """Note that all is done; nothing of it is kept but its numbers."""
    connection.execute(update(jobs).where(jobs.c.id == job.id).values(ended_at=now))
    connection.execute(delete(chunks).where(chunks.c.job == job.id))


def end_others(connection: Connection, job: Job, now: datetime) -> None:
    """End whatever else was being done to the cards of its batch."""
    others = select(*_COLUMNS).where(
        jobs.c.account_id == job.account_id,
        jobs.c.batch_id == job.batch_id,
        jobs.c.ended_at.is_(None),
        jobs.c.id != job.id,
    )
    for row in connection.execute(others).all():
        ended(connection, Job._make(row), now)


def resting(connection: Connection, now: datetime, after: timedelta) -> list[Job]:
    """Return the jobs of which nothing was done for so long, locked until the commit.

    One that seems to have been moved in the future rests as well: the clock was set back.
    """
    rests = or_(jobs.c.last_activity_at < now - after, jobs.c.last_activity_at > now + after)
    statement = select(*_COLUMNS).where(jobs.c.ended_at.is_(None), rests)
    statement = statement.order_by(jobs.c.last_activity_at, jobs.c.id).with_for_update(
        skip_locked=True
    )
    return [Job._make(row) for row in connection.execute(statement)]


def missing(connection: Connection, job: Job) -> list[int]:
    """Return the numbers of the chunks that are to be done, without that of the end."""
    statement = select(chunks.c.number).where(
        chunks.c.job == job.id, chunks.c.done_at.is_(None), chunks.c.number < job.end
    )
    return list(connection.execute(statement.order_by(chunks.c.number)).scalars())


_LEFT = (
    select(*columns_named(chunks, ChunkResult._fields))
    .where(chunks.c.job == bindparam("job", type_=Uuid()))
    .where(chunks.c.number.between(bindparam("first"), bindparam("last")))
    .order_by(chunks.c.number)
)


def left_behind(connection: Connection, job: Job) -> Iterator[ChunkResult]:
    """Yield what the chunks left for the end, in their order, a few in memory at a time."""

    def ask(first: int) -> Pending[Rows]:
        last = min(first + READ_TOGETHER - 1, job.chunks)
        return send(connection, _LEFT, {"job": job.id, "first": first, "last": last})

    following = ask(1)
    for first in range(1 + READ_TOGETHER, job.end, READ_TOGETHER):
        # The next are on their way while the caller is at these.
        rows, following = following(), ask(first)
        yield from map(ChunkResult._make, rows)
    yield from map(ChunkResult._make, following())
