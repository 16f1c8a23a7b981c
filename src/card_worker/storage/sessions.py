"""Sessions of a database: how they are opened, limited and ended.

On PostgreSQL every wait is limited on this side, since a server that hangs, or a host that is gone,
says nothing. An error that concerns the session, such as that it has become read-only after a
failover, ends it, and the pool's other sessions with it. Behind a pooler that gives each
transaction another session of the server, nothing is used that belongs to a session.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import structlog
from psycopg.errors import _WaitTimeout
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

CONNECT_MAX_S = 5
KEEPALIVES = {
    "keepalives_idle": 5,  # seconds without data until the other host is asked
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds that sent data may stay unconfirmed
}
POOLED = "card_worker.pooled"
"""Set in a connection's `info` when it is behind a pooler."""

# SQLSTATE, the class or all of it, of errors after which a session is of no use: it is lost, the
# server ends or has been replaced, it has been idle too long within a transaction, or the driver
# and the server disagree on its prepared statements. In a pipeline the driver takes a statement
# for prepared before the server has prepared it, and the server may refuse that.
_ENDING = ("08", "57P", "25006", "25P03", "26", "42P05", "0A000")

log = structlog.get_logger(__name__)


def open_postgresql(url: str, *, reply_max_s: float | None) -> Engine:
    """Return an engine whose sessions are limited as this module says."""
    engine = create_engine(
        url,
        # An error's text goes into logs; what customers are called does not.
        hide_parameters=True,
        pool_size=2,
        max_overflow=2,
        connect_args={
            "connect_timeout": CONNECT_MAX_S,
            "application_name": "card_worker",
            **KEEPALIVES,
        },
    )
    told = False

    @event.listens_for(engine, "connect")
    def on_connect(driver: Any, record: ConnectionPoolEntry) -> None:
        nonlocal told
        if reply_max_s is not None:
            _limit_replies(driver, reply_max_s)
        if _is_pooled(driver):
            record.info[POOLED] = True
            driver.prepare_threshold = None  # a prepared statement belongs to a session
            if not told:
                log.info("connected through a pooler, nothing of a session is used")
            told = True

    @event.listens_for(engine, "handle_error")
    def on_error(context: ExceptionContext) -> None:
        # SQLAlchemy then ends the session, and renews the pool's others before they are used.
        if ends_session(context.original_exception):
            context.is_disconnect = True

    return engine


def open_sqlite(url: str, *, lock_timeout_ms: int) -> Engine:
    """Return an engine on a file, whose commits wait for each other for so long."""
    engine = create_engine(url, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _: ConnectionPoolEntry) -> None:
        # We say BEGIN ourselves: the driver's own begins too late to lock before the first read.
        connection.isolation_level = None
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            f"busy_timeout = {lock_timeout_ms}",
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


def is_pooled(connection: Connection) -> bool:
    """Say whether a connection is behind a pooler."""
    return bool(connection.info.get(POOLED))


def ends_session(error: BaseException | None) -> bool:
    """Say whether an error of the driver concerns the session, and not what was done in it."""
    state = getattr(error, "sqlstate", None)
    return state is not None and state.startswith(_ENDING)


@contextmanager
def as_sqlalchemy(connection: Connection) -> Iterator[None]:
    """Raise what the driver raises as SQLAlchemy would, and end the session if it is of no use."""
    driver = connection.connection.driver_connection
    assert driver is not None
    try:
        yield
    except psycopg.Error as error:
        lost = driver.closed or ends_session(error)
        if lost:
            connection.invalidate(error)
            connection.engine.dispose()
        raise DBAPIError.instance(
            "pipeline",
            None,
            error,
            psycopg.Error,
            hide_parameters=True,
            connection_invalidated=lost,
            dialect=connection.dialect,
        ) from error


def _limit_replies(driver: Any, seconds: float) -> None:
    """Let a connection be closed when the server hasn't replied for so long."""
    wait_for_ever = driver.wait

    def wait(gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        if timeout is not None:
            return wait_for_ever(gen, interval, timeout)
        try:
            return wait_for_ever(gen, interval, seconds)
        except _WaitTimeout:
            driver.pgconn.finish()
            raise psycopg.OperationalError(f"no reply for {seconds:g} s") from None

    driver.wait = wait


def _is_pooled(driver: Any) -> bool:
    # What a pooler says when it accepts a connection is no process of the server's.
    driver.autocommit = True
    ((pid,),) = driver.execute("SELECT pg_backend_pid()").fetchall()
    driver.autocommit = False
    return bool(pid != driver.info.backend_pid)
