"""Statements that don't wait for each other: sent to PostgreSQL in one pipeline, answered later.

The server is at one while the caller prepares the next, and a round trip carries as many as there
are. Whatever else is done on the connection waits for them first. On SQLite, which is nowhere else,
each is simply executed.

A server holds a session for busy until it is told to look up (PostgreSQL's Sync). It is told so
after each statement, for only to who is idle does a limit on idling apply, and a worker that is
paused would keep for ever what it has locked.
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

from card_worker.storage.sessions import as_sqlalchemy

Statement: TypeAlias = Select[Any] | UpdateBase
Rows: TypeAlias = Sequence[tuple[Any, ...]]
Result = TypeVar("Result")
Pending: TypeAlias = Callable[[], Result]
"""A result whose statement was sent: a call waits for it and returns it."""

COMPILED_MAX = 256
_OPEN = "card_worker.pipeline"


def send(connection: Connection, statement: Statement, values: Mapping[str, Any]) -> Pending[Rows]:
    """Send `statement`; return what waits for its rows.

    What goes wrong is raised there, or at the latest by `finish`. A statement's text is kept by its
    identity: make it once and use it again.
    """
    if connection.dialect.name != "postgresql":
        done = connection.execute(statement, values)
        rows = [tuple(row) for row in done] if done.returns_rows else []
        return lambda: rows
    known = _compiled(connection.dialect, statement)
    with as_sqlalchemy(connection):
        cursor = _sent(connection, known.text, {**known.constants, **values})

    def wait() -> Rows:
        with as_sqlalchemy(connection):
            if cursor.pgresult is None:
                connection.info[_OPEN].wait_for(cursor)
            return _converted(cursor.fetchall(), known.converters)

    return wait


def finish(connection: Connection) -> None:
    """Commit. The order to do so travels with what was sent last."""
    if _OPEN in connection.info:
        with as_sqlalchemy(connection):
            _driver(connection).commit()


@contextmanager
def direct(connection: Connection) -> Iterator[Any]:
    """Give the driver's own connection, all that was sent being answered; PostgreSQL's only."""
    with as_sqlalchemy(connection):
        pipeline = connection.info.pop(_OPEN, None)
        if pipeline is not None:
            pipeline.close()
        yield _driver(connection)


def keep_order(engine: Engine) -> None:
    """Let whatever else is done on a connection of `engine` wait for what was sent on it."""

    def close(connection: Connection, *_: object) -> None:
        if (pipeline := connection.info.pop(_OPEN, None)) is not None:
            with as_sqlalchemy(connection):
                pipeline.close()

    def abandon(connection: Connection) -> None:
        if not connection.invalidated:
            _abandon(connection)

    def give_back(_driver: object, record: ConnectionPoolEntry, _state: object) -> None:
        pipeline = record.info.pop(_OPEN, None)
        if pipeline is not None:
            with suppress(psycopg.Error):
                pipeline.close()

    event.listen(engine, "reset", give_back)
    event.listen(engine, "before_cursor_execute", close)
    event.listen(engine, "commit", close)
    event.listen(engine, "rollback", abandon)


def _sent(connection: Connection, statement: str, values: Mapping[str, Any]) -> Any:
    driver = _driver(connection)
    if _OPEN not in connection.info:
        connection.info[_OPEN] = _Open(driver)
    cursor = driver.execute(statement, values)
    connection.info[_OPEN].sync()
    return cursor


class _Open(ExitStack):
    """A pipeline that is open on a connection of the driver."""

    def __init__(self, driver: Any) -> None:
        super().__init__()
        self._driver = driver
        self._pipeline = self.enter_context(driver.pipeline())

    def sync(self) -> None:
        """Send a Sync. The driver has this only together with a wait for the answer."""
        self._pipeline._enqueue_sync()
        self._driver.wait(self._pipeline._communicate_gen())

    def wait_for(self, cursor: Any) -> None:
        """Return when a statement is answered, and with it all that was sent before.

        What was sent after it isn't waited for. The driver's fetch would send a Flush, and that
        lets PostgreSQL forget how long a session has been idle.
        """
        self._driver.wait(self._answers_until(cursor))

    def _answers_until(self, cursor: Any) -> Iterator[Any]:
        pipeline = self._pipeline
        while cursor.pgresult is None:
            answer = yield from fetch_many(pipeline.pgconn)
            pipeline._process_results(pipeline.result_queue.popleft(), answer)


def _abandon(connection: Connection) -> None:
    pipeline = connection.info.pop(_OPEN, None)
    if pipeline is not None:
        with suppress(psycopg.Error):
            pipeline.close()


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection


class _Compiled(NamedTuple):
    text: str
    constants: Mapping[str, Any]
    converters: Sequence[tuple[int, Callable[[Any], Any]]]
    """By the place of their column."""


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
