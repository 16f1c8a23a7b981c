"""Deleting what is old: the content of events, PIN attempts, dead letters, finished jobs.

Idempotency keys stay, and of an event everything but its content. On PostgreSQL a function of the
owner's deletes, with a minimum of age: workers themselves can't.
"""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    String,
    Table,
    case,
    delete,
    exists,
    func,
    literal,
    select,
    update,
)

from card_worker.domain.rows import Outcome
from card_worker.storage.engine import try_lock
from card_worker.storage.tables import (
    batches,
    dead_letters,
    jobs,
    outbox,
    pin_attempts,
    repeats,
    retention,
    unpublished,
)

LOCK = "retention"


class Kind(StrEnum):
    """What is deleted."""

    EVENTS = "events"
    """The content of events that are published."""
    PIN_ATTEMPTS = "pin_attempts"
    """Those that no longer count."""
    DEAD_LETTERS = "dead_letters"
    """Those that an operator has dealt with."""
    JOBS = "jobs"
    """Those that have ended."""


PRUNED_TO = (
    select(retention.c.position).where(retention.c.name == Kind.EVENTS.value).scalar_subquery()
)
"""The position up to which events have no content."""


def prune(connection: Connection, kind: Kind, before: datetime, rows_max: int) -> int:
    """Delete the oldest rows of a kind that are from `before` a time; return their number.

    The commit does nothing else. 0 if another commit is deleting.
    """
    if not try_lock(connection, LOCK):
        return 0
    if connection.dialect.name == "postgresql":
        return int(connection.scalar(select(func.prune(kind, before, rows_max))) or 0)
    match kind:
        case Kind.EVENTS:
            return _prune_events(connection, before, rows_max)
        case Kind.PIN_ATTEMPTS:
            old = pin_attempts.c.created_at < before, pin_attempts.c.outcome == Outcome.CLEARED
            return _delete(connection, pin_attempts, *old, rows_max=rows_max)
        case Kind.DEAD_LETTERS:
            old_letters = dead_letters.c.resolved_at < before
            return _delete(connection, dead_letters, old_letters, rows_max=rows_max)
        case Kind.JOBS:
            return _prune_jobs(connection, before, rows_max)


def _delete(
    connection: Connection, table: Table, *conditions: ColumnElement[bool], rows_max: int
) -> int:
    old = select(table.c.id).where(*conditions).limit(rows_max)
    return connection.execute(delete(table).where(table.c.id.in_(old))).rowcount


def _prune_events(connection: Connection, before: datetime, rows_max: int) -> int:
    position = outbox.c.position
    is_waiting = exists().where(unpublished.c.position == position)
    is_repeated = exists().where(repeats.c.event_id == outbox.c.id)
    is_old = (outbox.c.created_at < before) & ~is_waiting & ~is_repeated
    following: Select[tuple[int, bool]] = select(position, is_old.label("is_old"))
    following = following.where(position > PRUNED_TO).order_by(position).limit(rows_max)
    rows = connection.execute(following).all()
    last = next((row.position - 1 for row in rows if not row.is_old), None)
    last = rows[-1].position if rows and last is None else last
    if last is None:
        return 0
    tail = func.substr(outbox.c.event, func.length(outbox.c.event) - 33, 34, type_=String)
    command, dry_run = (
        func.json_extract(outbox.c.event, f"$.data.{name}", type_=String)
        for name in ("command", "dry_run")
    )
    content = (
        literal('{"command":', String)
        + func.json_quote(command, type_=String)
        + case((dry_run.is_(None), ""), else_=',"dry_run":true')
        + case((tail.like('"sequence":"%'), literal(",", String) + tail), else_="}")
    )
    changed = update(outbox).where(position > PRUNED_TO, position <= last).values(event=content)
    count = connection.execute(changed).rowcount
    its = retention.c.name == Kind.EVENTS.value, retention.c.position < last
    connection.execute(update(retention).where(*its).values(position=last))
    return count


def _prune_jobs(connection: Connection, before: datetime, rows_max: int) -> int:
    old = select(jobs.c.id).where(jobs.c.ended_at < before).limit(rows_max)
    gone = delete(jobs).where(jobs.c.id.in_(old)).returning(jobs.c.account_id, jobs.c.batch_id)
    rows = connection.execute(gone).all()
    for account_id, batch_id in rows:
        its = batches.c.account_id == account_id, batches.c.batch_id == batch_id
        more = update(batches).where(*its).values(pruned_jobs=batches.c.pruned_jobs + 1)
        connection.execute(more)
    return len(rows)
