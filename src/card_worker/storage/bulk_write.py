"""The changes of a group of commands, written together.

On PostgreSQL the rows of a slice of the group are written by one statement for the tables that
nearly every command writes to, and by one for each other table. Nothing waits for their results:
the server executes them while the next slice is decided. A statement depends on its tables and on
few sets of columns, so there are few statements, and each is compiled and prepared once.
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
"""The tables written to by one statement. Each further table doubles the number of statements."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NewRows:
    """Rows to insert.

    `columns` names the columns that the statement sets: to NULL where a row has no value. If it is
    empty, they are those of the first row.
    """

    table: Table
    rows: Sequence[Row]
    columns: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class ChangedRows:
    """Existing rows, by their primary keys, with the columns to update."""

    table: Table
    rows: Sequence[Row]

    @property
    def columns(self) -> Collection[str]:
        return self.rows[0]


def slices(connection: Connection, group: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield `group` in the slices in which it is best handled and written."""
    size = SLICE if connection.dialect.name == "postgresql" else max(1, len(group))
    for start in range(0, len(group), size):
        yield group[start : start + size]


def write(connection: Connection, changes: Iterable[NewRows | ChangedRows]) -> None:
    """Write `changes` in their order. Errors may be raised later, before the commit."""
    changes = [change for change in changes if change.rows]
    if connection.dialect.name != "postgresql":
        for change in changes:
            _execute(connection, change)
        return
    together = [change for change in changes if change.table in TOGETHER]
    for change in changes:
        if change.table not in TOGETHER:
            _send_together(connection, [change])
        elif change is together[0]:
            _send_together(connection, together)


def _execute(connection: Connection, change: NewRows | ChangedRows) -> None:
    dialect, shape = connection.dialect.name, _shape(change)
    statement = _statement(dialect, shape, "given")
    done = connection.execute(statement, parameters(dialect, shape.columns, change.rows))
    assert not shape.is_update or done.rowcount == len(change.rows)


def _send_together(connection: Connection, changes: Sequence[NewRows | ChangedRows]) -> None:
    shapes = tuple(_shape(change) for change in changes)
    values: dict[str, Any] = {
        "changed": sum(len(change.rows) for change in changes if isinstance(change, ChangedRows))
    }
    for (name, shape), change in zip(_named(shapes), changes, strict=True):
        values |= parameters("postgresql", shape.columns, change.rows, name)
    send(connection, _all_in_one(shapes), values)


class _Shape(NamedTuple):
    """A change without its rows: its statement depends on this alone."""

    table: Table
    columns: Columns
    is_update: bool


def _shape(change: NewRows | ChangedRows) -> _Shape:
    columns = columns_of(change.table, change.columns or change.rows[0])
    return _Shape(change.table, columns, isinstance(change, ChangedRows))


def _named(shapes: Sequence[_Shape]) -> Iterator[tuple[str, _Shape]]:
    """Yield the shapes of one statement, each with the name of the source of its rows."""
    for number, shape in enumerate(shapes):
        yield f"given_{number}", shape


@cache
def _all_in_one(shapes: tuple[_Shape, ...]) -> Select[Any]:
    """Return the statement that makes all changes; it fails unless all rows to update exist."""
    counts, inserts = [], []
    for name, shape in _named(shapes):
        change = _statement("postgresql", shape, name)
        if isinstance(change, Update):
            made = change.returning(*shape.table.primary_key).cte(f"made_{name}")
            counts.append(select(func.count()).select_from(made).scalar_subquery())
        else:
            inserts.append(change.cte(f"made_{name}"))
    found: Any = sum(counts, literal_column("0"))
    expected = bindparam("changed", type_=Integer())
    # The result is read only after COMMIT was sent, so the server itself must fail where rows are
    # missing.
    failure = func.card_worker_raise(func.concat(found, " of ", expected, " rows to change found"))
    return select(case((found == expected, 1), else_=failure)).add_cte(*inserts)


@cache
def _statement(dialect: str, shape: _Shape, name: str) -> Insert | Update:
    table, columns, is_update = shape
    source = json_table(dialect, columns, name)
    if not is_update:
        return insert(table).from_select([c.name for c in columns], select(source))
    keys = list(table.primary_key)
    return (
        update(table)
        .where(*(key == source.c[key.name] for key in keys))
        .values({c.name: source.c[c.name] for c in columns if c not in keys})
    )
