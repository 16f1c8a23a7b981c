"""What a group of commands changes, written together, and on PostgreSQL not waited for.

There a slice of a group is one statement for all its tables. It is sent and left alone: the server
is at it while the caller is at the next slice.
"""

from collections import ChainMap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol, TypeVar

import psycopg
from sqlalchemy import (
    Connection,
    Insert,
    Select,
    Table,
    Update,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError

from card_worker.storage.sets import Columns, Row, columns_of, given, parameters

SLICE = 125
"""Small enough that the server is seldom idle, large enough that a statement costs little."""

One = TypeVar("One")


@dataclass(frozen=True, slots=True)
class New:
    """Rows to be inserted, each with the same columns."""

    table: Table
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Changed:
    """Rows that are there, by their primary key, and whose other given columns are to be set."""

    table: Table
    rows: Sequence[Row]


class Writer(Protocol):
    """Makes changes in the order in which it is given them."""

    def slices(self, group: Sequence[One]) -> Iterator[Sequence[One]]:
        """Yield `group` in the slices in which it is best worked on and written."""

    def write(self, changes: Iterable[New | Changed]) -> None:
        """Make `changes`. What goes wrong may be raised later, at the latest where writing ends."""


@contextmanager
def writing(connection: Connection) -> Iterator[Writer]:
    """Give a writer whose changes are all made when the block ends."""
    if connection.dialect.name != "postgresql":
        yield _Waiting(connection)
        return
    driver: Any = connection.connection.driver_connection
    try:
        with driver.pipeline():
            writer = _Ahead(driver, connection.dialect)
            yield writer
        writer.check()
    except psycopg.Error as error:
        if driver.closed:
            connection.invalidate(error)
        raise DBAPIError.instance(
            "writing",
            None,
            error,
            psycopg.Error,
            hide_parameters=True,
            connection_invalidated=driver.closed,
            dialect=connection.dialect,
        ) from error


class _Waiting:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def slices(self, group: Sequence[One]) -> Iterator[Sequence[One]]:
        yield group

    def write(self, changes: Iterable[New | Changed]) -> None:
        for change in changes:
            if change.rows:
                shape = _shape(change)
                statement = _statement(self._connection.dialect.name, shape, "given")
                values = parameters(shape.columns, change.rows)
                done = self._connection.execute(statement, values)
                assert not shape.changed or done.rowcount == len(change.rows)


class _Ahead:
    def __init__(self, driver: Any, dialect: Dialect) -> None:
        self._driver, self._dialect = driver, dialect
        self._written: list[tuple[psycopg.Cursor[tuple[int]], int]] = []

    def slices(self, group: Sequence[One]) -> Iterator[Sequence[One]]:
        for start in range(0, len(group), SLICE):
            yield group[start : start + SLICE]

    def write(self, changes: Iterable[New | Changed]) -> None:
        asked = [change for change in changes if change.rows]
        if not asked:
            return
        shapes = tuple(_shape(change) for change in asked)
        values = [
            parameters(shape.columns, change.rows, name)
            for (name, shape), change in zip(_named(shapes), asked, strict=True)
        ]
        cursor = self._driver.execute(_text(self._dialect, shapes), dict(ChainMap(*values)))
        changed = sum(len(change.rows) for change in asked if isinstance(change, Changed))
        self._written.append((cursor, changed))

    def check(self) -> None:
        """Look whether all rows were there that were to be changed."""
        for cursor, changed in self._written:
            assert cursor.fetchone() == (changed,)


class _Shape(NamedTuple):
    """A change without its rows: what its statement depends on."""

    table: Table
    columns: Columns
    changed: bool


def _shape(change: New | Changed) -> _Shape:
    columns = columns_of(change.table, change.rows[0])
    return _Shape(change.table, columns, isinstance(change, Changed))


def _named(shapes: Sequence[_Shape]) -> Iterator[tuple[str, _Shape]]:
    """Yield each shape with what its rows are called in a statement that has several."""
    for number, shape in enumerate(shapes):
        yield f"given_{number}", shape


@cache
def _text(dialect: Dialect, shapes: tuple[_Shape, ...]) -> str:
    return str(_all_in_one(shapes).compile(dialect=dialect))


def _all_in_one(shapes: Sequence[_Shape]) -> Select[Any]:
    """Return the statement that makes all changes, and says how many rows were changed."""
    counts, inserts = [], []
    for name, shape in _named(shapes):
        change = _statement("postgresql", shape, name)
        if isinstance(change, Update):
            made = change.returning(*shape.table.primary_key).cte(f"made_{name}")
            counts.append(select(func.count()).select_from(made).scalar_subquery())
        else:
            inserts.append(change.cte(f"made_{name}"))
    return select(sum(counts, literal_column("0"))).add_cte(*inserts)


@cache
def _statement(dialect: str, shape: _Shape, name: str) -> Insert | Update:
    table, columns, changed = shape
    source = given(dialect, columns, name)
    if not changed:
        return insert(table).from_select([c.name for c in columns], select(source))
    keys = list(table.primary_key)
    return (
        update(table)
        .where(*(key == source.c[key.name] for key in keys))
        .values({c.name: source.c[c.name] for c in columns if c not in keys})
    )
