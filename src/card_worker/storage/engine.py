"""Opening a database, and a commit in it: `begin` is the only way to a connection that writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, bindparam, func, select, true

from card_worker.contracts.fields import read_time
from card_worker.storage import sessions
from card_worker.storage.pipeline import finish, keep_order, send

LOCK_TIMEOUT_MS = 3_000
"""How long a commit waits for rows that another one holds, before it is tried again."""
LOCK_TIMEOUT_AGAIN_MS = 50
"""How long a commit waits of which some rows are known to be locked: nobody else waits for it."""
REPLY_MAX_S = 20.0
"""A PostgreSQL that doesn't reply for so long counts as gone. No statement of a commit takes as
long: one that waits for a lock is answered after LOCK_TIMEOUT_MS."""
IDLE_MAX_S = 15
"""How long a commit may do nothing before it is rolled back, so that a worker that is paused, or
cut off, keeps what it has locked no longer than its messages."""


def _by_keys() -> list[ColumnElement[str]]:
    """Return what lets rows be looked up by their keys, of which there is an index, and no table
    be read whole. The planner would do so with one that was small when it was last counted, and
    is being filled by an order: each look then takes longer than the one before."""
    ways = ("seqscan", "hashjoin", "mergejoin")
    return [func.set_config(f"enable_{way}", "off", true()) for way in ways]


_NOW = {
    # One statement for both, and no session state, so that a pooler in transaction mode works.
    "postgresql": select(
        func.date_trunc("milliseconds", func.clock_timestamp()),
        func.set_config("lock_timeout", bindparam("lock_timeout"), true()),
        func.set_config("idle_in_transaction_session_timeout", f"{IDLE_MAX_S}s", true()),
        # The first and the last hours there are have no name in some zones' years 1 to 9999.
        func.set_config("timezone", "UTC", true()),
        *_by_keys(),
    ),
    "sqlite": select(func.strftime("%Y-%m-%dT%H:%M:%fZ", "now")),
}

_WAIT_FOR_DISK = select(func.set_config("synchronous_commit", bindparam("is_so"), true()))


def open_engine(url: str, *, reply_max_s: float | None = REPLY_MAX_S) -> Engine:
    """Return an engine for a `postgresql://` or `sqlite:///` URL. Nothing is connected yet.

    On PostgreSQL, a reply that takes longer than `reply_max_s` ends its session; None waits for
    as long as the server keeps the connection, for statements that may take any time.
    """
    if url.startswith("sqlite"):
        return sessions.open_sqlite(url, lock_timeout_ms=LOCK_TIMEOUT_MS)
    engine = sessions.open_postgresql(url, reply_max_s=reply_max_s)
    keep_order(engine)
    return engine


@contextmanager
def begin(
    engine: Engine, *, writing: bool = True, lock_timeout_ms: int = LOCK_TIMEOUT_MS
) -> Iterator[tuple[Connection, datetime]]:
    """Open a commit; give its connection and its time, which is the database's clock, read once.

    One that isn't `writing` leaves SQLite's lock to others. `lock_timeout_ms` is PostgreSQL's.
    """
    with engine.connect() as plain:
        connection = plain.execution_options(card_worker_reading=not writing)
        with connection.begin():
            yield connection, clock(connection, lock_timeout_ms=lock_timeout_ms)
            finish(connection)


def wait_for_disk(connection: Connection, *, wait: bool) -> None:
    """Say whether the commit that is open waits until it is on the disk, as it does by itself.

    One that doesn't is lost whole if the server crashes in the next moment, and never in part. So
    it must be one of which nobody is told, and that is done again then.
    """
    if connection.dialect.name == "postgresql":
        send(connection, _WAIT_FOR_DISK, {"is_so": "on" if wait else "off"})


def clock(connection: Connection, *, lock_timeout_ms: int = LOCK_TIMEOUT_MS) -> datetime:
    """Return the database's time, and set the limits that a transaction has from now on."""
    dialect = connection.dialect.name
    values = {"lock_timeout": f"{lock_timeout_ms}ms"} if dialect == "postgresql" else {}
    ((now, *_),) = send(connection, _NOW[dialect], values)()
    return now.astimezone(UTC) if isinstance(now, datetime) else read_time(now)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a connection that waits for nobody and changes nothing.

    All that is read on it is of one moment.
    """
    options: dict[str, Any] = {"card_worker_reading": True}
    if engine.dialect.name == "postgresql":
        # SQLite reads all of a transaction from one snapshot by itself.
        options["isolation_level"] = "REPEATABLE READ"
    with engine.connect() as connection:
        yield connection.execution_options(**options)


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """Open a database as it is at one moment, however long it is read; nothing can be written."""
    with reading(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(postgresql_readonly=True)
        yield connection
