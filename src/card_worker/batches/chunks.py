"""The chunks of a run: which are asked for, and what happens to one that comes.

A chunk is one commit, and is done once, however often it is asked for and whoever dies at it. The
broker only carries the asking: what is missing stands in the database. Who has done a chunk asks
for the one that comes some numbers later, so that a few are always on their way and never all.
Runs of one batch are done one after the other: the end of one asks for the next.
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
from card_worker.domain.rows import Run
from card_worker.secret_issuer import Mint
from card_worker.secrets.keeping import NotKept
from card_worker.storage import jobs
from card_worker.storage.batches import change_batch, find_batch
from card_worker.storage.engine import LOCK_TIMEOUT_MS, begin
from card_worker.storage.finding import find
from card_worker.storage.tables import cards

AHEAD = 64
"""So many chunks of a run are on their way at a time."""
RESTING = timedelta(seconds=15)
"""A run of which nothing was done for so long has lost its messages."""

log = structlog.get_logger(__name__)

CHUNK: dict[Action, Callable[[Work, int], Run]] = {
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
    """Some of the cards of a batch, or the end of what is done to them."""

    run: UUID
    account_id: AccountId
    batch_id: Name
    action: Action
    number: ChunkNumber


def first_chunks(engine: Engine, run_ids: Sequence[UUID]) -> list[Chunk]:
    """Return what to ask for so that runs which have begun get on."""
    with begin(engine) as (connection, _):
        found = [jobs.find_run(connection, id) for id in run_ids]
        begun = [run for run in found if run is not None and jobs.is_in_turn(connection, run)]
    return [chunk for run in begun for chunk in _first_chunks(run)]


def _first_chunks(run: Run) -> list[Chunk]:
    return [_chunk(run, number) for number in range(1, min(AHEAD, run.chunks) + 1)]


def resting_chunks(engine: Engine) -> list[Chunk]:
    """Return what to ask for again, its messages being lost: the first of each row of chunks."""
    asked: list[Chunk] = []
    with begin(engine) as (connection, now):
        for run in jobs.resting(connection, now, RESTING):
            if not jobs.is_in_turn(connection, run):
                continue
            jobs.asked_again(connection, run, now)
            firsts = dict[int, int]()
            for number in jobs.missing(connection, run):
                firsts.setdefault(number % AHEAD, number)
            asked += [_chunk(run, number) for number in list(firsts.values()) or [run.end]]
    if asked:
        log.info("chunks asked for again", chunks=len(asked))
    return asked


def do(
    engine: Engine,
    mint: Mint,
    chunk: Chunk,
    company: Callable[[float], None] | None = None,
    *,
    again: bool = False,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
) -> list[Chunk]:
    """Do a chunk, unless it is done or somebody is at it; return what to ask for next.

    Whoever did a chunk that is done has asked for the next as well. Not if that was ourselves, and
    we failed or died before: hence `again`. So it does no harm to ask for a chunk many times.
    `company` is called after so many seconds of work when others wait for answers. Raises what
    is_retryable or is_race knows when it may be tried again.
    """
    try:
        with begin(engine, lock_timeout_ms=lock_timeout_ms) as (connection, now):
            work = _work(connection, chunk, now, mint)
            if work is None:
                return []
            done = _do(work._replace(company=company), chunk.number)
    except Stopped:
        _end_if_let_go(engine, mint, chunk)
        return []
    except NotKept as why:
        note_trouble(engine, chunk, str(why))
        return []
    except Impossible as why:
        return _give_up(engine, mint, chunk, why)
    except IntegrityError:
        # Another commit may have made cards with these names before us.
        taken = _taken(engine, mint, chunk)
        if taken is None:
            raise
        return _give_up(engine, mint, chunk, taken)
    if done is None and not again:
        return []
    run = done or work.run
    if chunk.number == run.end:
        return _first_chunks_of_next(engine, chunk)
    if run.open_chunks == 0:
        return [_chunk(run, run.end)]
    following = chunk.number + AHEAD
    return [_chunk(run, following)] if following <= run.chunks else []


def _first_chunks_of_next(engine: Engine, chunk: Chunk) -> list[Chunk]:
    """Return the first chunks of the run that waited for the end of another one."""
    with begin(engine) as (connection, _):
        run = jobs.current_run(connection, chunk.account_id, chunk.batch_id)
    return [] if run is None else _first_chunks(run)


def note_trouble(engine: Engine, chunk: Chunk, why: str) -> None:
    """Note why a batch doesn't get on, for whoever looks at it."""
    with begin(engine) as (connection, _):
        batch = find_batch(connection, chunk.account_id, chunk.batch_id, lock=True)
        if batch is not None and batch.busy:
            change_batch(connection, batch._replace(trouble=why))


def _work(
    connection: Connection, chunk: Chunk, now: datetime, mint: Mint, *, lock: bool = False
) -> Work | None:
    """Return what a chunk is done with; None when its run has ended, or never was the batch's."""
    batch = find_batch(connection, chunk.account_id, chunk.batch_id, lock=lock)
    run = jobs.find_run(connection, chunk.run)
    if run is None or run.ended_at is not None or batch is None:
        return None
    if (run.account_id, run.batch_id) != (batch.account_id, batch.batch_id):
        return None
    return Work(connection, run, batch, now, mint)


def _do(work: Work, number: int) -> Run | None:
    """Do a chunk; return the run after that.

    None: the chunk is done, another worker has it, or an earlier run of the batch has not ended.
    """
    run = work.run
    if not jobs.is_open(work.connection, run, number):
        return None
    if not jobs.is_in_turn(work.connection, run):
        return None
    if number != run.end:
        return CHUNK[run.action](work, number)
    if run.open_chunks == 0:
        END[run.action](work)
    return run


def _end_if_let_go(engine: Engine, mint: Mint, chunk: Chunk) -> None:
    """End a run whose order was cancelled before a card was made, so that nothing removes any."""
    with begin(engine) as (connection, now):
        work = _work(connection, chunk, now, mint, lock=True)
        if work is not None and not work.batch.busy:
            jobs.ended(connection, work.run, now)


def _chunk(run: Run, number: int) -> Chunk:
    return Chunk(run.id, run.account_id, run.batch_id, run.action, number)


def _taken(engine: Engine, mint: Mint, chunk: Chunk) -> Impossible | None:
    """Return why a chunk can't be made whose names others have taken, if that is so."""
    with begin(engine) as (connection, now):
        work = _work(connection, chunk, now, mint)
        if work is None or chunk.number >= work.run.end:
            return None
        names = work.batch.card_ids(*work.run.span(chunk.number))
        keys = [{"account_id": chunk.account_id, "card_id": name} for name in names]
        found = find(connection, cards, ("card_id",), keys)()
    message = Reason.CARD_EXISTS.text.rstrip(".")
    problems = [
        Problem(field="card_id_pattern", message=f"{name}: {message}")
        for name in sorted(name for (name,) in found)[:PROBLEMS_MAX]
    ]
    return Impossible(Reason.CARD_EXISTS, *problems) if problems else None


def _give_up(engine: Engine, mint: Mint, chunk: Chunk, why: Impossible) -> list[Chunk]:
    with begin(engine) as (connection, now):
        work = _work(connection, chunk, now, mint, lock=True)
        removal = None if work is None else give_up(work, why)
    return [] if removal is None else first_chunks(engine, [removal])
