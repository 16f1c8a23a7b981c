"""The outbox: every event, frozen in the commit that made it, and whether it has been published."""

import math
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from time import monotonic, sleep
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
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
from card_worker.storage.bulk_write import New
from card_worker.storage.json_rows import delete_rows
from card_worker.storage.pipeline import send
from card_worker.storage.sessions import is_pooled
from card_worker.storage.tables import outbox, unpublished

CHANNEL = "card_worker_outbox"
SQLITE_POLL_S = 0.02
POOLED_POLL_S = 0.1
WATERMARK_STEP_S = 1.0
ASK_S = 20.0
"""How often a session that waits for notifications is asked whether it is still there."""

_DATA_VERSION = text("PRAGMA data_version")


class Unpublished(NamedTuple):
    """An event that waits to be published."""

    position: int
    id: UUID
    account_id: str
    type: EventType
    subject: str
    event: str


# Positions first: a join may be done by reading on in the outbox from its very beginning.
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


def new(answers: Sequence[Answer]) -> New:
    """Return what adds `answers`, to be published in their order; the commit wakes the relay."""
    names = ("id", "account_id", "type", "subject", "partition_key", "event", "created_at")
    # By their places, which are the same: an answer knows its reason beyond that.
    return New(outbox, [dict(zip(names, answer, strict=False)) for answer in answers])


def first_unpublished(
    connection: Connection, events_max: int, *, above: int = 0
) -> list[Unpublished]:
    """Return the first events above a position that aren't published, in their order.

    Positions become visible out of order between cards; see Watermark for a safe position.
    """
    rows = send(connection, _FIRST_UNPUBLISHED, {"events_max": events_max, "above": above})()
    return [Unpublished._make(row) for row in rows]


def mark_published(connection: Connection, events: Sequence[Unpublished]) -> None:
    """Note that `events` are published; an error may be raised later, at the latest at the end."""
    delete_rows(connection, unpublished, [{"position": event.position} for event in events])


def newest(connection: Connection) -> int:
    """Return the position of the event that was made last, of those that are seen already."""
    return int(connection.execute(select(func.max(outbox.c.position))).scalar() or 0)


def is_told(connection: Connection, after: int, but: Collection[EventType]) -> bool:
    """Say whether an event of any other type than these stands after a position."""
    wanted = outbox.c.position > after, outbox.c.type.not_in(but)
    return bool(connection.execute(select(exists().where(*wanted))).scalar())


class Running(NamedTuple):
    """The transactions that run on the server, by their numbers, which it gives in order."""

    oldest: int
    """All lower ones have ended."""
    following: int
    """The number of the next one to begin."""


_NUMBERS: list[ColumnElement[Any]] = [
    cast(cast(end(func.pg_current_snapshot()), Text), BigInteger)
    for end in (func.pg_snapshot_xmin, func.pg_snapshot_xmax)
]
_RUNNING = select(*_NUMBERS)


def running(connection: Connection) -> Running:
    """Return which transactions run now. On SQLite no other one does that writes."""
    if connection.dialect.name != "postgresql":
        return Running(0, 0)
    ((oldest, following),) = send(connection, _RUNNING, {})()
    return Running(oldest, following)


class Watermark:
    """The position up to which all events are published.

    PostgreSQL keeps the index entries of deleted rows while a snapshot is open (pg_dump, a report,
    a replica). A query that begins at the lowest position reads all of them again and again; one
    that begins at the watermark doesn't.

    Positions are drawn in order, and become visible in the order of the commits. Who draws one has
    written before, so its transaction has a number. When a position is visible, and all
    transactions have ended that ran then, all lower positions are visible too. Only then, and when
    none of them is unpublished, the watermark moves up to it.
    """

    def __init__(self) -> None:
        self.position = 0
        self._newest = 0
        self._seen_at = -math.inf
        self._visible: deque[tuple[int, int]] = deque()

    def advance(self, events: Sequence[Unpublished], running: Running, *, at: float) -> None:
        """Take in the first unpublished events, as they were at a time of the monotonic clock.

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
    """Return the time of the first event above a position that isn't published; None if all are."""
    waiting = unpublished.c.position > above
    first = select(func.min(unpublished.c.position)).where(waiting).scalar_subquery()
    oldest: datetime | None = connection.execute(
        select(outbox.c.created_at).where(outbox.c.position == first)
    ).scalar()
    return oldest


class Watch(Protocol):
    """Notices that a commit may have added events."""

    def wait(self, timeout_s: float) -> None:
        """Return when a commit may have added events, or after so many seconds."""


@contextmanager
def watching(engine: Engine) -> Iterator[Watch]:
    """Give a watch that begins with the next commit.

    PostgreSQL's notifications and SQLite's data version both belong to a session. Behind a pooler
    there is none of one's own, and the watch just waits.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if engine.dialect.name != "postgresql":
            yield _DataVersion(connection)
        elif is_pooled(connection):
            connection.close()
            yield _Waiting()
        else:
            yield _Notifications(connection)


class _Notifications:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._asked_at = monotonic()
        connection.execute(text(f"LISTEN {CHANNEL}"))

    def wait(self, timeout_s: float) -> None:
        if monotonic() - self._asked_at > ASK_S:
            # A session that has gone silent would notify of nothing; this ends it.
            self._connection.execute(select(1))
            self._asked_at = monotonic()
        driver = self._connection.connection.driver_connection
        assert driver is not None
        # What came in while the connection was busy is there at once.
        for _ in driver.notifies(timeout=timeout_s, stop_after=1):
            pass


class _DataVersion:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._seen = self._version()

    def wait(self, timeout_s: float) -> None:
        until = monotonic() + timeout_s
        while (version := self._version()) == self._seen and monotonic() < until:
            sleep(SQLITE_POLL_S)
        self._seen = version

    def _version(self) -> int:
        return int(self._connection.execute(_DATA_VERSION).scalar_one())


class _Waiting:
    def wait(self, timeout_s: float) -> None:
        sleep(min(timeout_s, POOLED_POLL_S))
