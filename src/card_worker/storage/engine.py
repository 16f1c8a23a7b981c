"""Engines and commits. `begin` is the only way to a connection that writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from zlib import crc32

from sqlalchemy import Connection, Engine, bindparam, func, select, true

from card_worker.contracts.fields import read_time
from card_worker.storage import sessions
from card_worker.storage.pipeline import finish, keep_order, send
from card_worker.storage.tables import registry

LOCK_TIMEOUT_MS = 3_000
"""Milliseconds that a commit waits for a lock before it fails and is retried."""
SHORT_LOCK_TIMEOUT_MS = 50
"""The same for a commit some of whose rows are known to be locked: others must not wait for it."""
REPLY_MAX_S = 20.0
"""Seconds without a reply after which a PostgreSQL session counts as lost. No statement of a commit
takes as long: one that waits for a lock fails after LOCK_TIMEOUT_MS."""
IDLE_MAX_S = 15
"""Seconds without a statement after which the server rolls a commit back: a worker that is paused
or disconnected keeps its locks no longer than its messages."""

_NOW = {
    # One statement, for the transaction only, so that a pooler in transaction mode works.
    "postgresql": select(
        func.date_trunc("milliseconds", func.clock_timestamp()),
        func.set_config("lock_timeout", bindparam("lock_timeout"), true()),
        func.set_config("idle_in_transaction_session_timeout", f"{IDLE_MAX_S}s", true()),
        # In other zones, the first and the last hours of the years 1 to 9999 can't be represented.
        func.set_config("timezone", "UTC", true()),
        # Rows are found by keys that have an index. The planner would scan a table that was small
        # at the last ANALYZE and is being filled by an order, which takes longer each time.
        *(
            func.set_config(f"enable_{plan}", "off", true())
            for plan in ("seqscan", "hashjoin", "mergejoin")
        ),
    ),
    "sqlite": select(func.strftime("%Y-%m-%dT%H:%M:%fZ", "now")),
}

_NOW_AND_VERSION = {
    dialect: statement.add_columns(select(registry.c.version).scalar_subquery())
    for dialect, statement in _NOW.items()
}

_WAIT_FOR_DISK = select(func.set_config("synchronous_commit", bindparam("wait"), true()))


class RegistryChanged(Exception):
    """A producer's key or an account has changed since signatures were verified."""


def open_engine(
    url: str,
    *,
    reply_max_s: float | None = REPLY_MAX_S,
    connect_max_s: int = sessions.CONNECT_MAX_S,
) -> Engine:
    """Return an engine for a `postgresql://` or `sqlite:///` URL. It does not connect yet.

    On PostgreSQL, a reply that takes longer than `reply_max_s` ends the session; None: no limit.
    Connecting to a host takes at most `connect_max_s`.
    """
    if url.startswith("sqlite"):
        return sessions.open_sqlite(url, lock_timeout_ms=LOCK_TIMEOUT_MS)
    engine = sessions.open_postgresql(url, reply_max_s=reply_max_s, connect_max_s=connect_max_s)
    keep_order(engine)
    return engine


@contextmanager
def begin(
    engine: Engine,
    *,
    writing: bool = True,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    registry_version: int | None = None,
) -> Iterator[tuple[Connection, datetime]]:
    """Open a commit; yield its connection and its time: that of the database's clock, read once.

    Without `writing`, it does not take SQLite's lock. `lock_timeout_ms` applies to PostgreSQL.
    Raises RegistryChanged if `registry_version` is given and not the version of the registry.
    """
    with engine.connect() as plain:
        connection = plain.execution_options(card_worker_reading=not writing)
        with connection.begin():
            now, version = _clock(
                connection, lock_timeout_ms, with_version=registry_version is not None
            )
            if version != registry_version:
                raise RegistryChanged
            yield connection, now
            finish(connection)


def wait_for_disk(connection: Connection, *, wait: bool) -> None:
    """Set whether the open commit waits until it is on the disk; by default it does.

    A commit that doesn't may be lost as a whole if the server crashes within a moment. So nothing
    of it may have been published, and it must be done again then.
    """
    if connection.dialect.name == "postgresql":
        send(connection, _WAIT_FOR_DISK, {"wait": "on" if wait else "off"})


def clock(connection: Connection, *, lock_timeout_ms: int = LOCK_TIMEOUT_MS) -> datetime:
    """Return the database's time, and set the limits of the transaction."""
    return _clock(connection, lock_timeout_ms, with_version=False)[0]


def _clock(
    connection: Connection, lock_timeout_ms: int, *, with_version: bool
) -> tuple[datetime, int | None]:
    """Return the database's time, and the version of the registry; set the limits."""
    dialect = connection.dialect.name
    statements = _NOW_AND_VERSION if with_version else _NOW
    values = {"lock_timeout": f"{lock_timeout_ms}ms"} if dialect == "postgresql" else {}
    ((now, *rest),) = send(connection, statements[dialect], values)()
    now = now.astimezone(UTC) if isinstance(now, datetime) else read_time(now)
    return now, rest[-1] if with_version else None


def limit_statements(connection: Connection, seconds: float) -> None:
    """Let PostgreSQL cancel statements of this transaction that take longer."""
    if connection.dialect.name == "postgresql":
        value = f"{round(seconds * 1000)}ms"
        connection.execute(select(func.set_config("statement_timeout", value, true())))


def try_lock(connection: Connection, name: str) -> bool:
    """Take the lock `name` until the end of the commit; False if another commit holds it.

    SQLite has one writing commit at a time, so there the lock is always free.
    """
    if connection.dialect.name != "postgresql":
        return True
    taken = select(func.pg_try_advisory_xact_lock(crc32(name.encode())))
    return bool(connection.execute(taken).scalar_one())


def lock(connection: Connection, name: str) -> None:
    """Take the lock `name` until the end of the commit, and wait for it as long as it takes."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(crc32(name.encode()))))


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a connection that only reads, without waiting for locks. All of it is read as at one
    moment."""
    options: dict[str, Any] = {"card_worker_reading": True}
    if engine.dialect.name == "postgresql":
        # SQLite always reads a whole transaction from one snapshot.
        options["isolation_level"] = "REPEATABLE READ"
    with engine.connect() as connection:
        yield connection.execution_options(**options)


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """Open a connection that reads the database as at one moment, and cannot write."""
    with reading(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(postgresql_readonly=True)
        yield connection
