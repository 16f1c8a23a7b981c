"""The state that the database holds for all processes: outbox, relay, dead letters, work due, jobs.

Read for metrics and for operators.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    ScalarSelect,
    Table,
    func,
    literal,
    select,
)

from card_worker.contracts.dead_letters import DeadLetterReason
from card_worker.domain.rows import State
from card_worker.storage import leases
from card_worker.storage.engine import begin, limit_statements
from card_worker.storage.leases import Lease
from card_worker.storage.outbox import oldest_unpublished
from card_worker.storage.tables import (
    batches,
    cards,
    dead_letters,
    file_is_unwritten,
    files,
    hold_is_open,
    holds,
    jobs,
    unpublished,
)

COUNTED_MAX = 100_000
"""Rows that are unpublished or due are counted up to this number."""


class DatabaseState(NamedTuple):
    """What several statements, one after the other, have found."""

    at: datetime
    """The time of the database's clock."""
    unpublished: int
    """Number of events that are not published, at most COUNTED_MAX."""
    oldest_unpublished: datetime | None
    """When the first of them was stored."""
    relay: Lease | None
    """The relay's lease, abandoned or not."""
    dead_letters: Mapping[DeadLetterReason, int]
    """Number of dead letters that are not resolved, by reason."""
    cards_due: int
    """Number of cards whose time has passed and that are not expired yet, at most COUNTED_MAX."""
    holds_due: int
    """The same of holds."""
    jobs_running: int
    """Number of orders, cancellations and recalls that have not ended."""
    jobs_in_trouble: int
    """How many of them have an error since their last progress."""
    files_unwritten: int
    """Number of files of batches that are not in their store yet."""


def read_database(engine: Engine, *, statement_s_max: float) -> DatabaseState:
    """Return the state of the database.

    Raises SQLAlchemy's errors, also for a statement that takes longer than `statement_s_max`.
    """
    with begin(engine, writing=False) as (connection, now):
        limit_statements(connection, statement_s_max)
        return _read(connection, now)


def _read(connection: Connection, now: datetime) -> DatabaseState:
    relay = leases.find(connection, leases.RELAY)
    # Below it, index entries of deleted rows may have to be passed; see Watermark.
    above = (relay and relay.position) or 0
    card_is_due = (cards.c.state == State.ACTIVE) & (cards.c.expires_at <= now)
    hold_is_due = hold_is_open & (holds.c.expires_at <= now)
    letters = (
        select(dead_letters.c.reason, func.count())
        .where(dead_letters.c.resolved_at.is_(None))
        .group_by(dead_letters.c.reason)
    )
    running = jobs.c.ended_at.is_(None)
    batch_of_job = (batches.c.account_id == jobs.c.account_id) & (
        batches.c.batch_id == jobs.c.batch_id
    )
    in_trouble = (
        select(func.count())
        .select_from(jobs.join(batches, batch_of_job))
        .where(running, batches.c.last_error.is_not(None))
    )
    counts = select(
        _count_some(unpublished, unpublished.c.position > above),
        _count_some(cards, card_is_due),
        _count_some(holds, hold_is_due),
        select(func.count()).select_from(jobs).where(running).scalar_subquery(),
        in_trouble.scalar_subquery(),
        select(func.count()).select_from(files).where(file_is_unwritten).scalar_subquery(),
    )
    ((events, cards_due, holds_due, jobs_running, jobs_in_trouble, files_unwritten),) = (
        connection.execute(counts)
    )
    return DatabaseState(
        at=now,
        unpublished=events,
        oldest_unpublished=oldest_unpublished(connection, above=above),
        relay=relay,
        dead_letters=_counter(connection.execute(letters)),
        cards_due=cards_due,
        holds_due=holds_due,
        jobs_running=jobs_running,
        jobs_in_trouble=jobs_in_trouble,
        files_unwritten=files_unwritten,
    )


def _count_some(table: Table, condition: ColumnElement[bool]) -> ScalarSelect[int]:
    some = select(literal(1)).select_from(table).where(condition).limit(COUNTED_MAX).subquery()
    return select(func.count()).select_from(some).scalar_subquery()


def _counter(rows: Iterable[Any]) -> Counter[DeadLetterReason]:
    """Return the sum of the counts of each reason; several codes may be unknown."""
    counted = Counter[DeadLetterReason]()
    for reason, count in rows:
        counted[reason] += count
    return counted
