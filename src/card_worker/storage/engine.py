"""Opening a database, and a commit in it: `begin` is the only way to a connection that writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    bindparam,
    create_engine,
    event,
    func,
    literal,
    select,
    true,
)
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from card_worker.contracts.fields import read_time
from card_worker.storage.pipeline import finish, keep_order, send

LOCK_TIMEOUT_MS = 3_000
"""How long a commit waits for rows that another one holds, before it is tried again."""
IDLE_MAX_S = 15
"""How long a commit may do nothing before it is rolled back, so that a worker that is paused, or
cut off, keeps what it has locked no longer than its messages."""


def _by_keys(*, within_commit: bool) -> list[ColumnElement[str]]:
    """Return what lets rows be looked up by their keys, of which there is an index, and no table
    be read whole. The planner would do so with one that was small when it was last counted, and
    is being filled by an order: each look then takes longer than the one before."""
    ways = ("seqscan", "hashjoin", "mergejoin")
    return [func.set_config(f"enable_{way}", "off", literal(within_commit)) for way in ways]


_NOW = {
    # One statement for both, and no session state, so that a pooler in transaction mode works.
    "postgresql": select(
        func.date_trunc("milliseconds", func.clock_timestamp()),
        func.set_config("lock_timeout", f"{LOCK_TIMEOUT_MS}ms", true()),
        func.set_config("idle_in_transaction_session_timeout", f"{IDLE_MAX_S}s", true()),
        # The first and the last hours there are have no name in some zones' years 1 to 9999.
        func.set_config("timezone", "UTC", true()),
        *_by_keys(within_commit=True),
    ),
    "sqlite": select(func.strftime("%Y-%m-%dT%H:%M:%fZ", "now")),
}

_WAIT_FOR_DISK = select(func.set_config("synchronous_commit", bindparam("is_so"), true()))

# What another commit got in before us does: the next try sees its row and answers accordingly.
_RACES = (
    *("uq_cards_", "pk_cards", "pk_batches", "uq_tokens_digest"),
    *("cards.account_id", "batches.account_id", "tokens.digest"),
)
# Of SQLSTATE, the class or all of it. 08 connection, 40 deadlock and serialization, 53 no disk,
# memory or connection left, 57 shutdown and cancelled, 58 the machine, 55P03 lock timeout, 25P03
# idle too long, 25006 a primary that has become a replica.
_TRANSIENT_STATES = ("08", "40", "53", "57", "58", "55P03", "25P03", "25006")
# The same of SQLite, which has but a text.
_TRANSIENT_TEXTS = ("locked", "busy", "disk is full", "disk I/O error")


def open_engine(url: str) -> Engine:
    """Return an engine for a `postgresql://` or `sqlite:///` URL. Nothing is connected yet."""
    if url.startswith("sqlite"):
        return _open_sqlite(url)
    engine = create_engine(
        url,
        # An error's text goes into logs; what customers are called does not.
        hide_parameters=True,
        pool_size=2,
        max_overflow=2,
        connect_args={"connect_timeout": 5, "application_name": "card_worker"},
    )
    keep_order(engine)
    return engine


def _open_sqlite(url: str) -> Engine:
    engine = create_engine(url, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _: ConnectionPoolEntry) -> None:
        # We say BEGIN ourselves: the driver's own begins too late to lock before the first read.
        connection.isolation_level = None
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            f"busy_timeout = {LOCK_TIMEOUT_MS}",
            "foreign_keys = ON",
            # REPLACE deletes, too, and history is append-only.
            "recursive_triggers = ON",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get("isolation_level") != "AUTOCOMMIT":
            reading = options.get("card_worker_reading", False)
            connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


@contextmanager
def begin(engine: Engine) -> Iterator[tuple[Connection, datetime]]:
    """Open a commit; give its connection and its time, which is the database's clock, read once."""
    with engine.begin() as connection:
        yield connection, clock(connection)
        finish(connection)


def wait_for_disk(connection: Connection, *, wait: bool) -> None:
    """Say whether the commit that is open waits until it is on the disk, as it does by itself.

    One that doesn't is lost whole if the server crashes in the next moment, and never in part. So
    it must be one of which nobody is told, and that is done again then.
    """
    if connection.dialect.name == "postgresql":
        send(connection, _WAIT_FOR_DISK, {"is_so": "on" if wait else "off"})


def look_up_by_keys(connection: Connection) -> None:
    """Let a connection that isn't given back look as commits do."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(*_by_keys(within_commit=False)))


def clock(connection: Connection) -> datetime:
    """Return the database's time, and set the limits that a transaction has from now on."""
    ((now, *_),) = send(connection, _NOW[connection.dialect.name], {})()
    return now.astimezone(UTC) if isinstance(now, datetime) else read_time(now)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a look at the database that waits for nobody and changes nothing."""
    with engine.connect() as connection:
        yield connection.execution_options(card_worker_reading=True)


def is_transient(error: BaseException) -> bool:
    """Say whether the same work may succeed when it is tried again.

    True for lost connections, deadlocks, lock timeouts, a full disk, and for a row that another
    commit made first. Everything else is a defect.
    """
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    if isinstance(error, IntegrityError):
        return any(name in str(error.orig) for name in _RACES)
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return bool(state.startswith(_TRANSIENT_STATES))
    # Without a state: PostgreSQL can't be reached, or it is SQLite.
    return isinstance(error, OperationalError) and (
        any(words in str(error.orig) for words in _TRANSIENT_TEXTS) or _is_connecting(error)
    )


def _is_connecting(error: OperationalError) -> bool:
    return type(error.orig).__module__.startswith("psycopg")
