"""The outbox: every event, frozen in the commit that made it, and whether it has been published."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from time import monotonic, sleep

from sqlalchemy import Connection, Engine, select, text

from card_worker.contracts.kinds import EventType
from card_worker.domain.answers import Answer
from card_worker.storage.sets import insert_rows, update_rows
from card_worker.storage.tables import outbox as table

CHANNEL = "card_worker_outbox"
SQLITE_LOOK_S = 0.02

_NOTIFY = text(f"SELECT pg_notify('{CHANNEL}', '')")
_DATA_VERSION = text("PRAGMA data_version")

Wait = Callable[[float], None]
"""Returns when a commit may have added events, or after so many seconds."""


@dataclass(frozen=True, slots=True)
class Unpublished:
    """An event that waits to be published."""

    position: int
    id: str
    account_id: str
    type: EventType
    subject: str
    event: str


def add(connection: Connection, answers: Sequence[Answer]) -> None:
    """Write down `answers` to be published, in their order, and wake the relay at the commit."""
    if not answers:
        return
    insert_rows(
        connection,
        table,
        [
            {
                "id": answer.id,
                "account_id": answer.account_id,
                "type": answer.type,
                "subject": answer.subject,
                "partition_key": answer.partition_key,
                "event": answer.event,
                "created_at": answer.created_at,
            }
            for answer in answers
        ],
    )
    if connection.dialect.name == "postgresql":
        connection.execute(_NOTIFY)


def unpublished(connection: Connection, events_max: int) -> list[Unpublished]:
    """Return the first events that aren't published, in their order.

    Positions become visible out of order between cards, so what is missing is asked for each
    time; nobody remembers how far he was.
    """
    statement = (
        select(
            table.c.position,
            table.c.id,
            table.c.account_id,
            table.c.type,
            table.c.subject,
            table.c.event,
        )
        .where(table.c.published_at.is_(None))
        .order_by(table.c.position)
        .limit(events_max)
    )
    return [
        Unpublished(row.position, str(row.id), row.account_id, row.type, row.subject, row.event)
        for row in connection.execute(statement)
    ]


def mark_published(connection: Connection, events: Sequence[Unpublished], now: datetime) -> None:
    """Note that `events` are out in the world."""
    rows = [{"position": event.position, "published_at": now} for event in events]
    update_rows(connection, table, rows, by="position")


def oldest_unpublished(connection: Connection) -> datetime | None:
    """Return when the event that has waited longest was made; None when none waits."""
    waiting = select(table.c.created_at).where(table.c.published_at.is_(None))
    oldest: datetime | None = connection.execute(
        waiting.order_by(table.c.position).limit(1)
    ).scalar()
    return oldest


@contextmanager
def watching(engine: Engine) -> Iterator[Wait]:
    """Give a function that waits for the next commit that may have added events.

    It holds a connection of its own: PostgreSQL's notifications and SQLite's data version both
    belong to a connection.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if engine.dialect.name == "postgresql":
            yield _listen(connection)
        else:
            yield _look(connection)


def _listen(connection: Connection) -> Wait:
    connection.execute(text(f"LISTEN {CHANNEL}"))
    driver = connection.connection.driver_connection
    assert driver is not None

    def wait(timeout_s: float) -> None:
        for _ in driver.notifies(timeout=timeout_s, stop_after=1):
            pass

    return wait


def _look(connection: Connection) -> Wait:
    seen = connection.execute(_DATA_VERSION).scalar_one()

    def wait(timeout_s: float) -> None:
        nonlocal seen
        until = monotonic() + timeout_s
        while monotonic() < until:
            version = connection.execute(_DATA_VERSION).scalar_one()
            if version != seen:
                seen = version
                return
            sleep(SQLITE_LOOK_S)

    return wait
