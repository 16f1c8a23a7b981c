"""The outbox: all events, inserted by the commits that emit them, and which are unpublished."""

import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from time import monotonic, sleep
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Connection,
    Engine,
    Text,
    bindparam,
    cast,
    exists,
    func,
    select,
    text,
)

from card_worker.contracts.enums import EventType
from card_worker.domain.answers import Answer
from card_worker.storage.bulk_write import NewRows
from card_worker.storage.json_rows import delete_rows
from card_worker.storage.pipeline import send
from card_worker.storage.sessions import is_pooled
from card_worker.storage.tables import outbox, unpublished

CHANNEL = "card_worker_outbox"
SQLITE_POLL_S = 0.02
POOLED_POLL_S = 0.1
WATERMARK_STEP_S = 1.0
CHECK_S = 20.0
"""Interval at which a session that waits for notifications is checked."""

ANSWER_COLUMNS = Answer._fields[:-1]
"""The columns of an answer: its reason is not stored."""


class Unpublished(NamedTuple):
    """An event that is not published."""

    position: int
    id: UUID
    account_id: str
    type: EventType
    subject: str
    event: str


# The positions are selected first: a join may be executed by a scan of the outbox from its start.
_FIRST_UNPUBLISHED = (
    select(*(outbox.c[name] for name in Unpublished._fields))
    .where(
        outbox.c.position.in_(
            select(unpublished.c.position)
            .where(unpublished.c.position > bindparam("above"))
            .order_by(unpublished.c.position)
            .limit(bindparam("events_max"))
        )
    )
    .order_by(outbox.c.position)
)


def new_rows(answers: Sequence[Answer]) -> NewRows:
    """Return the rows of `answers`, to be published in this order; the commit wakes the relay."""
    return NewRows(outbox, [dict(zip(ANSWER_COLUMNS, answer, strict=False)) for answer in answers])


def first_unpublished(
    connection: Connection, events_max: int, *, above: int = 0
) -> list[Unpublished]:
    """Return the first unpublished events above a position, in their order.

    Positions become visible out of order between cards; see Watermark for a safe position.
    """
    rows = send(connection, _FIRST_UNPUBLISHED, {"events_max": events_max, "above": above})()
    return [Unpublished._make(row) for row in rows]


def mark_published(connection: Connection, events: Sequence[Unpublished]) -> None:
    """Mark events as published. An error may be raised later, at the latest by the commit."""
    delete_rows(connection, unpublished, [{"position": event.position} for event in events])


def newest_position(connection: Connection) -> int:
    """Return the highest visible position; 0 if there are no events."""
    return int(connection.execute(select(func.max(outbox.c.position))).scalar() or 0)


def has_events(connection: Connection, after: int, *, except_types: Collection[EventType]) -> bool:
    """Say whether there is an event after a position, of a type other than these."""
    conditions = outbox.c.position > after, outbox.c.type.not_in(except_types)
    return bool(connection.execute(select(exists().where(*conditions))).scalar())


class Running(NamedTuple):
    """The running transactions of the server. It numbers transactions in order."""

    oldest: int
    """The lowest number of a running transaction."""
    following: int
    """The number of the next transaction."""


_BOUNDS: list[Any] = [
    cast(cast(bound(func.pg_current_snapshot()), Text), BigInteger)
    for bound in (func.pg_snapshot_xmin, func.pg_snapshot_xmax)
]
_RUNNING = select(*_BOUNDS)


def running(connection: Connection) -> Running:
    """Return the running transactions. On SQLite no other transaction writes."""
    if connection.dialect.name != "postgresql":
        return Running(0, 0)
    ((oldest, following),) = send(connection, _RUNNING, {})()
    return Running(oldest, following)


class Watermark:
    """The position up to which all events are published.

    PostgreSQL keeps the index entries of deleted rows while a snapshot is open (pg_dump, a report,
    a replica). A query that begins at the lowest position reads all of them each time; one that
    begins at the watermark doesn't.

    Positions are assigned in order, to transactions that have a number already, and become visible
    when these commit. When a position is visible, and all transactions that ran at that time have
    ended, all lower positions are visible too. If none of them is unpublished either, the watermark
    moves up to the position.
    """

    def __init__(self) -> None:
        self.position = 0
        self._newest = 0
        self._seen_at = -math.inf
        self._visible: deque[tuple[int, int]] = deque()

    def advance(self, events: Sequence[Unpublished], running: Running, *, at: float) -> None:
        """Move the watermark, from the first unpublished `events` at a time of the monotonic clock.

        `running` are the transactions that ran before the events were read.
        """
        if self._newest > (self._visible[-1][1] if self._visible else self.position):
            # It was visible before these numbers were read.
            self._visible.append((running.following, self._newest))
        lowest = events[0].position if events else math.inf
        while self._visible:
            following, position = self._visible[0]
            if running.oldest < following or position >= lowest:
                break
            self.position = position
            self._visible.popleft()
        if events and at - self._seen_at >= WATERMARK_STEP_S:
            self._newest, self._seen_at = max(self._newest, events[-1].position), at


def oldest_unpublished(connection: Connection, *, above: int = 0) -> datetime | None:
    """Return the time of the first unpublished event above a position; None if there is none."""
    waiting = unpublished.c.position > above
    first = select(func.min(unpublished.c.position)).where(waiting).scalar_subquery()
    oldest: datetime | None = connection.execute(
        select(outbox.c.created_at).where(outbox.c.position == first)
    ).scalar()
    return oldest


Wait: TypeAlias = Callable[[float], None]
"""Returns when a commit may have inserted events, or after so many seconds."""


@contextmanager
def watching(engine: Engine) -> Iterator[Wait]:
    """Yield a function that waits for commits from now on.

    PostgreSQL's notifications and SQLite's data version belong to a session. Behind a pooler no
    session can be used for that, so it waits for a fixed time.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if engine.dialect.name != "postgresql":
            yield _version_change(connection)
        elif is_pooled(connection):
            connection.close()
            yield lambda timeout_s: sleep(min(timeout_s, POOLED_POLL_S))
        else:
            yield _notification(connection)


def _notification(connection: Connection) -> Wait:
    connection.execute(text(f"LISTEN {CHANNEL}"))
    checked_at = monotonic()

    def wait(timeout_s: float) -> None:
        nonlocal checked_at
        if monotonic() - checked_at > CHECK_S:
            # Detects a lost session, which would receive no notifications.
            connection.execute(select(1))
            checked_at = monotonic()
        driver = connection.connection.driver_connection
        assert driver is not None
        # Notifications that arrived while the connection was busy are returned at once.
        for _ in driver.notifies(timeout=timeout_s, stop_after=1):
            pass

    return wait


def _version_change(connection: Connection) -> Wait:
    def version() -> int:
        return int(connection.execute(text("PRAGMA data_version")).scalar_one())

    seen = version()

    def wait(timeout_s: float) -> None:
        nonlocal seen
        until = monotonic() + timeout_s
        while (found := version()) == seen and monotonic() < until:
            sleep(SQLITE_POLL_S)
        seen = found

    return wait
