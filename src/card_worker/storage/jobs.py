"""Runs and their chunks: which are to be done, by whom, and what came of them."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, bindparam, delete, or_, select, update

from card_worker.contracts.enums import Action
from card_worker.domain.rows import Run
from card_worker.storage.bulk_write import New
from card_worker.storage.finding import columns_named, find
from card_worker.storage.pipeline import Rows, send
from card_worker.storage.tables import chunks, runs
from card_worker.storage.types import UtcTime, Uuid, WholeNumber

_COLUMNS = columns_named(runs, Run._fields)
READ_TOGETHER = 4


class Kept(NamedTuple):
    """What a chunk left for the end of its run."""

    number: int
    kept: str | None
    refused: list[list[str]] | None
    """Each a card_id and the reason."""


def new(begun: Iterable[Run]) -> Iterator[New]:
    """Yield what adds runs, with a row for each chunk and one for the end."""
    for run in begun:
        yield New(runs, [run._asdict()])
        rows = [{"run": run.id, "number": number} for number in range(1, run.end + 1)]
        yield New(chunks, rows)


def find_run(connection: Connection, id: UUID) -> Run | None:
    """Return a run as it is now."""
    found = find(connection, runs, Run._fields, [{"id": id}])()
    return Run._make(found[0]) if found else None


def is_in_turn(connection: Connection, run: Run) -> bool:
    """Say whether all earlier runs on the cards of the batch have ended.

    The run that makes the cards is not waited for: whatever begins before its end stops it.
    """
    if run.action is Action.MAKE:
        return True
    current = current_run(connection, run.account_id, run.batch_id)
    return current is not None and current.id == run.id


def current_run(connection: Connection, account_id: str, batch_id: str) -> Run | None:
    """Return the first run on the cards of a batch that has not ended."""
    named = {"account_id": account_id, "batch_id": batch_id}
    row = connection.execute(_CURRENT, named).first()
    return None if row is None else Run._make(row)


_CURRENT = (
    select(*_COLUMNS)
    .where(runs.c.account_id == bindparam("account_id"))
    .where(runs.c.batch_id == bindparam("batch_id"))
    .where(runs.c.ended_at.is_(None), runs.c.action != Action.MAKE)
    .order_by(runs.c.sequence)
    .limit(1)
)
# A chunk is small; what is said of it is made into SQL once.
_IS_OPEN = (
    select(chunks.c.number)
    .where(chunks.c.run == bindparam("run", type_=Uuid()), chunks.c.number == bindparam("number"))
    .where(chunks.c.done_at.is_(None))
    .with_for_update(skip_locked=True)
)
_DONE = (
    update(chunks)
    .where(chunks.c.run == bindparam("its_run", type_=Uuid()))
    .where(chunks.c.number == bindparam("its_number"))
    .values({name: bindparam(name, type_=chunks.c[name].type) for name in ("done_at", "kept")})
)
_MOVED = (
    update(runs)
    .where(runs.c.id == bindparam("its_id", type_=Uuid()))
    .values(
        open_chunks=runs.c.open_chunks - 1,
        done=runs.c.done + bindparam("more_done", type_=WholeNumber),
        already=runs.c.already + bindparam("more_already", type_=WholeNumber),
        refused=runs.c.refused + bindparam("more_refused", type_=WholeNumber),
        moved_at=bindparam("now", type_=UtcTime()),
    )
    .returning(*_COLUMNS)
)


def is_open(connection: Connection, run: Run, number: int) -> bool:
    """Say whether a chunk is to be done and nobody is at it; from now on we are.

    False for one that is done, too, and for one that another commit is at.
    """
    return bool(send(connection, _IS_OPEN, {"run": run.id, "number": number})())


def chunk_done(
    connection: Connection,
    run: Run,
    number: int,
    now: datetime,
    *,
    kept: str | None = None,
    refused: list[list[str]] | None = None,
) -> None:
    """Note that a chunk is done, and what it leaves for the end."""
    values = {"its_run": run.id, "its_number": number, "done_at": now, "kept": kept}
    send(connection, _DONE, values)
    if refused is not None:
        statement = update(chunks).where(chunks.c.run == run.id, chunks.c.number == number)
        connection.execute(statement.values(refused=refused))


def moved(
    connection: Connection,
    run: Run,
    now: datetime,
    *,
    done: int = 0,
    already: int = 0,
    refused: int = 0,
) -> Run:
    """Count one chunk as done; return the run after that, locked until the commit."""
    counts = {"more_done": done, "more_already": already, "more_refused": refused}
    (row,) = send(connection, _MOVED, {"its_id": run.id, "now": now, **counts})()
    return Run._make(row)


def told(connection: Connection, run: Run, now: datetime) -> None:
    """Note that the world was told how far it is."""
    connection.execute(update(runs).where(runs.c.id == run.id).values(told_at=now))


def asked_again(connection: Connection, run: Run, now: datetime) -> None:
    """Note that what is missing was asked for again."""
    connection.execute(update(runs).where(runs.c.id == run.id).values(moved_at=now))


def ended(connection: Connection, run: Run, now: datetime) -> None:
    """Note that all is done; nothing of it is kept but its numbers."""
    connection.execute(update(runs).where(runs.c.id == run.id).values(ended_at=now))
    connection.execute(delete(chunks).where(chunks.c.run == run.id))


def end_others(connection: Connection, run: Run, now: datetime) -> None:
    """End whatever else was being done to the cards of its batch."""
    others = select(*_COLUMNS).where(
        runs.c.account_id == run.account_id,
        runs.c.batch_id == run.batch_id,
        runs.c.ended_at.is_(None),
        runs.c.id != run.id,
    )
    for row in connection.execute(others).all():
        ended(connection, Run._make(row), now)


def resting(connection: Connection, now: datetime, after: timedelta) -> list[Run]:
    """Return the runs of which nothing was done for so long, locked until the commit.

    One that seems to have been moved in the future rests as well: the clock was set back.
    """
    rests = or_(runs.c.moved_at < now - after, runs.c.moved_at > now + after)
    statement = select(*_COLUMNS).where(runs.c.ended_at.is_(None), rests)
    statement = statement.order_by(runs.c.moved_at, runs.c.id).with_for_update(skip_locked=True)
    return [Run._make(row) for row in connection.execute(statement)]


def missing(connection: Connection, run: Run) -> list[int]:
    """Return the numbers of the chunks that are to be done, without that of the end."""
    statement = select(chunks.c.number).where(
        chunks.c.run == run.id, chunks.c.done_at.is_(None), chunks.c.number < run.end
    )
    return list(connection.execute(statement.order_by(chunks.c.number)).scalars())


_LEFT = (
    select(*columns_named(chunks, Kept._fields))
    .where(chunks.c.run == bindparam("run", type_=Uuid()))
    .where(chunks.c.number.between(bindparam("first"), bindparam("last")))
    .order_by(chunks.c.number)
)


def left_behind(connection: Connection, run: Run) -> Iterator[Kept]:
    """Yield what the chunks left for the end, in their order, a few in memory at a time."""

    def ask(first: int) -> Callable[[], Rows]:
        last = min(first + READ_TOGETHER - 1, run.chunks)
        return send(connection, _LEFT, {"run": run.id, "first": first, "last": last})

    following = ask(1)
    for first in range(1 + READ_TOGETHER, run.end, READ_TOGETHER):
        # The next are on their way while the caller is at these.
        rows, following = following(), ask(first)
        yield from map(Kept._make, rows)
    yield from map(Kept._make, following())
