"""What a group of commands changes, written together, and on PostgreSQL not waited for.

There a slice of a group is one statement for the tables that nearly every command writes to, and
one for each other table. They are sent and left alone: the server executes them while the caller
decides the next slice. A statement depends on its tables and on few sets of columns, so that there
are few statements, and each is compiled and prepared once.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import (
    Connection,
    Insert,
    Integer,
    Select,
    Table,
    Update,
    bindparam,
    case,
    func,
    insert,
    literal_column,
    select,
    update,
)

from card_worker.storage.json_rows import Columns, Row, columns_of, json_table, parameters
from card_worker.storage.pipeline import send
from card_worker.storage.tables import cards, outbox, transactions

SLICE = 125
"""Small enough that the server is seldom idle, large enough that a statement costs little."""
TOGETHER = frozenset([cards, transactions, outbox])
"""The tables written to by one statement. Each table more would double the number of statements."""

One = TypeVar("One")


@dataclass(frozen=True, slots=True)
class New:
    """Rows to be inserted.

    `columns` names the columns that the statement sets: where a row has no value, to NULL. Without
    it, they are those of the first row.
    """

    table: Table
    rows: Sequence[Row]
    columns: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Changed:
    """Rows that are there, by their primary key, and whose other given columns are to be set."""

    table: Table
    rows: Sequence[Row]

    @property
    def columns(self) -> Collection[str]:
        return self.rows[0]


def slices(connection: Connection, group: Sequence[One]) -> Iterator[Sequence[One]]:
    """Yield `group` in the slices in which it is best worked on and written."""
    size = SLICE if connection.dialect.name == "postgresql" else max(1, len(group))
    for start in range(0, len(group), size):
        yield group[start : start + size]


def write(connection: Connection, changes: Iterable[New | Changed]) -> None:
    """Make `changes`, in their order. What goes wrong may be raised later, before the commit."""
    asked = [change for change in changes if change.rows]
    if connection.dialect.name != "postgresql":
        for change in asked:
            _write_one(connection, change)
    else:
        for part in _statements(asked):
            _send_all(connection, part)


def _statements(asked: Sequence[New | Changed]) -> Iterator[Sequence[New | Changed]]:
    """Yield the changes that one statement makes, in their order."""
    together = [change for change in asked if change.table in TOGETHER]
    for change in asked:
        if change.table not in TOGETHER:
            yield [change]
        elif change is together[0]:
            yield together


def _write_one(connection: Connection, change: New | Changed) -> None:
    shape = _shape(change)
    statement = _statement(connection.dialect.name, shape, "given")
    done = connection.execute(
        statement, parameters(connection.dialect.name, shape.columns, change.rows)
    )
    assert not shape.changed or done.rowcount == len(change.rows)


def _send_all(connection: Connection, asked: Sequence[New | Changed]) -> None:
    shapes = tuple(_shape(change) for change in asked)
    values: dict[str, Any] = {
        "changed": sum(len(change.rows) for change in asked if isinstance(change, Changed))
    }
    for (name, shape), change in zip(_named(shapes), asked, strict=True):
        values |= parameters("postgresql", shape.columns, change.rows, name)
    send(connection, _all_in_one(shapes), values)


class _Shape(NamedTuple):
    """A change without its rows: what its statement depends on."""

    table: Table
    columns: Columns
    changed: bool


def _shape(change: New | Changed) -> _Shape:
    columns = columns_of(change.table, change.columns or change.rows[0])
    return _Shape(change.table, columns, isinstance(change, Changed))


def _named(shapes: Sequence[_Shape]) -> Iterator[tuple[str, _Shape]]:
    """Yield each shape with what its rows are called in a statement that has several."""
    for number, shape in enumerate(shapes):
        yield f"given_{number}", shape


@cache
def _all_in_one(shapes: tuple[_Shape, ...]) -> Select[Any]:
    """Return the statement that makes all changes, or fails unless it finds all rows to change."""
    counts, inserts = [], []
    for name, shape in _named(shapes):
        change = _statement("postgresql", shape, name)
        if isinstance(change, Update):
            made = change.returning(*shape.table.primary_key).cte(f"made_{name}")
            counts.append(select(func.count()).select_from(made).scalar_subquery())
        else:
            inserts.append(change.cte(f"made_{name}"))
    found: Any = sum(counts, literal_column("0"))
    asked = bindparam("changed", type_=Integer())
    # The result is read only after COMMIT was sent, so the server itself must fail where rows are
    # missing.
    failure = func.card_worker_raise(func.concat(found, " of ", asked, " rows to change found"))
    return select(case((found == asked, 1), else_=failure)).add_cte(*inserts)


@cache
def _statement(dialect: str, shape: _Shape, name: str) -> Insert | Update:
    table, columns, changed = shape
    source = json_table(dialect, columns, name)
    if not changed:
        return insert(table).from_select([c.name for c in columns], select(source))
    keys = list(table.primary_key)
    return (
        update(table)
        .where(*(key == source.c[key.name] for key in keys))
        .values({c.name: source.c[c.name] for c in columns if c not in keys})
    )
