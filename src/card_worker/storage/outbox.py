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
    Select,
    Text,
    bindparam,
    case,
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
_AGAIN = select(func.min(unpublished.c.position)).where(unpublished.c.again).scalar_subquery()
# So that no newer event of a card is published before those that are published again.
_ABOVE = case((bindparam("above") >= _AGAIN, _AGAIN - 1), else_=bindparam("above"))
_FIRST_UNPUBLISHED = (
    select(*(outbox.c[name] for name in Unpublished._fields))
    .where(
        outbox.c.position.in_(
            select(unpublished.c.position)
            .where(unpublished.c.position > _ABOVE)
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

    If events below it are to be published again, these and all above them come first.
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


_OLDEST_RUNNING = select(
    cast(cast(func.pg_snapshot_xmin(func.pg_current_snapshot()), Text), BigInteger)
)
_OWN_NUMBER = select(cast(cast(func.pg_current_xact_id(), Text), BigInteger))


def oldest_running(connection: Connection) -> int:
    """Return the lowest number of a running transaction; 0 on SQLite, where no other one writes."""
    return _number(connection, _OLDEST_RUNNING)


def _number(connection: Connection, query: Select[Any]) -> int:
    if connection.dialect.name != "postgresql":
        return 0
    ((number,),) = send(connection, query, {})()
    return int(number)


class Watermark:
    """The position up to which all events are published.

    PostgreSQL keeps the index entries of deleted rows while a snapshot is open (pg_dump, a report,
    a replica). A query that begins at the lowest position reads all of them each time; one that
    begins at the watermark doesn't.

    Positions are assigned in order, to transactions that have a number already, and become visible
    when these commit. The transaction that marks a visible position as published gets a higher
    number than all transactions with lower positions. When all transactions below this number have
    ended, all lower positions are visible too. If none of them is unpublished either, the watermark
    moves up to the position.

    The bounds of a snapshot can't replace this number: its `xmax` follows the newest transaction
    that has ended, and running transactions may have higher numbers.
    """

    def __init__(self) -> None:
        self.position = 0
        self._noted_position = 0
        self._noted_at = -math.inf
        self._noted: deque[tuple[int, int]] = deque()

    def note(self, connection: Connection, position: int, *, at: float) -> None:
        """Note that `connection` marks the event at a position as published.

        An earlier transaction must have read the event. `at` is a time of the monotonic clock.
        """
        if position > self._noted_position and at - self._noted_at >= WATERMARK_STEP_S:
            self._noted.append((_number(connection, _OWN_NUMBER), position))
            self._noted_position, self._noted_at = position, at

    def advance(self, events: Sequence[Unpublished], *, oldest: int) -> None:
        """Move the watermark, from the first unpublished `events`.

        `oldest` is the lowest number of a transaction that ran before the events were read.
        """
        lowest = events[0].position if events else math.inf
        while self._noted:
            number, position = self._noted[0]
            if oldest < number or position >= lowest:
                break
            self.position = position
            self._noted.popleft()


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
