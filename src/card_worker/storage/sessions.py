"""Sessions of a database: how they are opened, limited and ended.

On PostgreSQL the client limits every wait, because a server that hangs, or a host that is lost,
sends nothing. An error of the session, such as that it is read-only after a failover, ends it, and
the pool's other sessions as well. Behind a pooler that gives each transaction another session of
the server, no feature of sessions is used.
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
POOLED = "card_worker.pooled"
"""Set in the `info` of a connection that is behind a pooler."""

# Classes and codes of errors (SQLSTATE) after which a session can't be used: it is lost, the server
# stops or was replaced, it was idle too long within a transaction, or the driver and the server
# disagree on its prepared statements. In a pipeline the driver counts a statement as prepared
# before the server has prepared it, and the server may refuse that.
_ENDING_STATES = ("08", "57P", "25006", "25P03", "26", "42P05", "0A000")

log = structlog.get_logger(__name__)


def open_postgresql(url: str, *, reply_max_s: float | None, connect_max_s: int) -> Engine:
    """Return an engine whose sessions are limited as described above."""
    engine = create_engine(
        url,
        # Texts of errors are logged; names of customers must not be.
        hide_parameters=True,
        pool_size=2,
        max_overflow=2,
        connect_args={
            "connect_timeout": connect_max_s,
            "application_name": "card_worker",
            "keepalives_idle": 5,  # seconds without data before the other host is probed
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,  # milliseconds until sent data must be acknowledged
        },
    )
    is_logged = False

    @event.listens_for(engine, "connect")
    def on_connect(driver: Any, record: ConnectionPoolEntry) -> None:
        nonlocal is_logged
        if reply_max_s is not None:
            _limit_replies(driver, reply_max_s)
        if _is_pooled(driver):
            record.info[POOLED] = True
            driver.prepare_threshold = None  # a prepared statement belongs to a session
            if not is_logged:
                log.info("connected through a pooler, session features are not used")
            is_logged = True

    @event.listens_for(engine, "handle_error")
    def on_error(context: ExceptionContext) -> None:
        # SQLAlchemy then ends the session, and renews the pool's others before they are used.
        if ends_session(context.original_exception):
            context.is_disconnect = True

    return engine


def open_sqlite(url: str, *, lock_timeout_ms: int) -> Engine:
    """Return an engine for a file; its commits wait for each other's lock for at most that time."""
    engine = create_engine(url, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _: ConnectionPoolEntry) -> None:
        # `on_begin` sends BEGIN: the driver would send it too late to lock before the first read.
        connection.isolation_level = None
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            f"busy_timeout = {lock_timeout_ms}",
            "foreign_keys = ON",
            # So that triggers also refuse the deletion by a REPLACE: history is append-only.
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
    """Say whether an error of the driver concerns the session, and not a statement."""
    state = getattr(error, "sqlstate", None)
    return state is not None and state.startswith(_ENDING_STATES)


@contextmanager
def translated_errors(connection: Connection) -> Iterator[None]:
    """Raise errors of the driver as SQLAlchemy does, and end a session that can't be used."""
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
    """Close the connection when the server has not replied for so long."""
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
    # The process id that a pooler reports is not one of the server's.
    driver.autocommit = True
    ((pid,),) = driver.execute("SELECT pg_backend_pid()").fetchall()
    driver.autocommit = False
    return bool(pid != driver.info.backend_pid)
