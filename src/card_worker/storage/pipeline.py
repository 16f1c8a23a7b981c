"""Statements that don't wait for each other's results: PostgreSQL's pipeline mode.

The server executes a statement while the caller prepares the next, and a round trip carries several
of them. Anything else that is done on the connection waits for them first. On SQLite, which needs
no round trips, a statement is executed when it is sent.

A Sync follows each statement: the server's limit for idle transactions applies only after a Sync,
and without that limit a worker that is paused would keep its locks for ever.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias, TypeVar

import psycopg
from psycopg.generators import fetch_many
from sqlalchemy import Connection, Engine, Select, UpdateBase, event
from sqlalchemy.engine import Dialect
from sqlalchemy.pool import ConnectionPoolEntry

from card_worker.health import note_progress
from card_worker.storage.sessions import translated_errors

Statement: TypeAlias = Select[Any] | UpdateBase
Rows: TypeAlias = Sequence[tuple[Any, ...]]
T = TypeVar("T")
Pending: TypeAlias = Callable[[], T]
"""The result of statements that were sent: a call waits for it and returns it."""

COMPILED_MAX = 256
_OPEN = "card_worker.pipeline"


def send(connection: Connection, statement: Statement, values: Mapping[str, Any]) -> Pending[Rows]:
    """Send `statement`; return its pending rows.

    Errors are raised when these are read, or at the latest by `finish`. The text of a statement is
    kept by its identity: build it once.
    """
    note_progress()  # a long commit is at work as long as it sends statements
    if connection.dialect.name != "postgresql":
        result = connection.execute(statement, values)
        rows = [tuple(row) for row in result] if result.returns_rows else []
        return lambda: rows
    known = _compiled(connection.dialect, statement)
    with translated_errors(connection):
        cursor = _sent(connection, known.text, {**known.constants, **values})

    def wait() -> Rows:
        with translated_errors(connection):
            if cursor.pgresult is None:
                connection.info[_OPEN].wait_for(cursor)
            return _converted(cursor.fetchall(), known.converters)

    return wait


def finish(connection: Connection) -> None:
    """Commit, in the same round trip as the statements that were sent last."""
    if _OPEN in connection.info:
        with translated_errors(connection):
            _driver(connection).commit()


@contextmanager
def raw_connection(connection: Connection) -> Iterator[Any]:
    """Yield the driver's connection, after all results were received. For PostgreSQL only."""
    _close(connection)
    with translated_errors(connection):
        yield _driver(connection)


def keep_order(engine: Engine) -> None:
    """Make anything else that is done on a connection of `engine` wait for the sent statements."""

    def abandon(connection: Connection) -> None:
        if not connection.invalidated:
            _abandon(connection.info)

    def reset(_driver: object, record: ConnectionPoolEntry, _state: object) -> None:
        _abandon(record.info)

    event.listen(engine, "reset", reset)
    event.listen(engine, "before_cursor_execute", _close)
    event.listen(engine, "commit", _close)
    event.listen(engine, "rollback", abandon)


def _close(connection: Connection, *_: object) -> None:
    if (pipeline := connection.info.pop(_OPEN, None)) is not None:
        with translated_errors(connection):
            pipeline.close()


def _abandon(info: dict[Any, Any]) -> None:
    """Close the pipeline of a connection whose results nobody needs."""
    pipeline = info.pop(_OPEN, None)
    if pipeline is not None:
        with suppress(psycopg.Error):
            pipeline.close()


def _sent(connection: Connection, statement: str, values: Mapping[str, Any]) -> Any:
    driver = _driver(connection)
    if _OPEN not in connection.info:
        connection.info[_OPEN] = _Pipeline(driver)
    cursor = driver.execute(statement, values)
    connection.info[_OPEN].sync()
    return cursor


class _Pipeline(ExitStack):
    """An open pipeline of a connection of the driver."""

    def __init__(self, driver: Any) -> None:
        super().__init__()
        self._driver = driver
        self._pipeline = self.enter_context(driver.pipeline())

    def sync(self) -> None:
        """Send a Sync. The driver's own method also waits for the reply."""
        self._pipeline._enqueue_sync()
        self._driver.wait(self._pipeline._communicate_gen())

    def wait_for(self, cursor: Any) -> None:
        """Wait for the result of a statement, and of those before it, but not of those after it.

        The driver's fetch would send a Flush, which resets the time that a session has been idle.
        """
        self._driver.wait(self._results_until(cursor))

    def _results_until(self, cursor: Any) -> Iterator[Any]:
        pipeline = self._pipeline
        while cursor.pgresult is None:
            results = yield from fetch_many(pipeline.pgconn)
            pipeline._process_results(pipeline.result_queue.popleft(), results)


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection


class _Compiled(NamedTuple):
    text: str
    constants: Mapping[str, Any]
    converters: Sequence[tuple[int, Callable[[Any], Any]]]
    """Each with the place of its column."""


@lru_cache(maxsize=COMPILED_MAX)
def _compiled(dialect: Dialect, statement: Statement) -> _Compiled:
    compiled = statement.compile(dialect=dialect)
    given = compiled.params
    converters = (c.type.result_processor(dialect, None) for c in statement.exported_columns)
    return _Compiled(
        str(compiled),
        {name: value for name, value in given.items() if value is not None},
        [(place, convert) for place, convert in enumerate(converters) if convert is not None],
    )


def _converted(rows: Rows, converters: Sequence[tuple[int, Callable[[Any], Any]]]) -> Rows:
    if not rows or not converters:
        return rows
    columns: list[Any] = list(zip(*rows, strict=True))
    for place, convert in converters:
        columns[place] = map(convert, columns[place])
    return list(zip(*columns, strict=True))
