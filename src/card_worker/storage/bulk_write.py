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

from card_worker.storage.json_rows import Columns, Row, json_table, parameters
from card_worker.storage.pipeline import send
from card_worker.storage.tables import cards, outbox, transactions

SLICE = 125
"""Small enough that the server is seldom idle, large enough that a statement costs little."""
TOGETHER = frozenset([cards, transactions, outbox])
"""The tables written to by one statement. Each further table doubles the number of statements."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Change:
    """Rows to write into a table."""

    table: Table
    rows: Sequence[Row]
    columns: Collection[str] = ()
    """The columns that the statement sets, to NULL where a row has no value; if there are none,
    those of the first row."""


class NewRows(Change):
    """Rows to insert."""


class ChangedRows(Change):
    """Existing rows, by their primary keys, with the columns to update."""


def slices(connection: Connection, group: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield `group` in the slices in which it is best handled and written."""
    size = SLICE if connection.dialect.name == "postgresql" else max(1, len(group))
    for start in range(0, len(group), size):
        yield group[start : start + size]


def write(connection: Connection, changes: Iterable[Change]) -> None:
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


def _execute(connection: Connection, change: Change) -> None:
    dialect, shape = connection.dialect.name, _shape(change)
    values = parameters(dialect, shape.columns, change.rows)
    done = connection.execute(_statement(dialect, shape), values)
    assert not shape.is_update or done.rowcount == len(change.rows)


def _send_together(connection: Connection, changes: Sequence[Change]) -> None:
    shapes = tuple(_shape(change, f"given_{n}") for n, change in enumerate(changes))
    values: dict[str, Any] = {
        "changed": sum(len(change.rows) for change in changes if isinstance(change, ChangedRows))
    }
    for shape, change in zip(shapes, changes, strict=True):
        values |= parameters("postgresql", shape.columns, change.rows, shape.name)
    send(connection, _all_in_one(shapes), values)


class _Shape(NamedTuple):
    """A change without its rows: its statement depends on this alone."""

    table: Table
    columns: Columns
    is_update: bool
    name: str
    """Of the source of its rows in the statement."""


def _shape(change: Change, name: str = "given") -> _Shape:
    names = change.columns or change.rows[0]
    columns = tuple(c for c in change.table.columns if c.name in names)
    return _Shape(change.table, columns, isinstance(change, ChangedRows), name)


@cache
def _all_in_one(shapes: tuple[_Shape, ...]) -> Select[Any]:
    """Return the statement that makes all changes; it fails unless all rows to update exist."""
    counts, inserts = [], []
    for shape in shapes:
        change, name = _statement("postgresql", shape), f"made_{shape.name}"
        if isinstance(change, Update):
            made = change.returning(*shape.table.primary_key).cte(name)
            counts.append(select(func.count()).select_from(made).scalar_subquery())
        else:
            inserts.append(change.cte(name))
    found: Any = sum(counts, literal_column("0"))
    expected = bindparam("changed", type_=Integer())
    # The server itself must fail if rows are missing: the result is read after COMMIT was sent.
    message = func.concat("found ", found, " of ", expected, " rows to update")
    failure = func.card_worker_raise(message)
    return select(case((found == expected, 1), else_=failure)).add_cte(*inserts)


@cache
def _statement(dialect: str, shape: _Shape) -> Insert | Update:
    table, columns, is_update, name = shape
    source = json_table(dialect, columns, name)
    if not is_update:
        return insert(table).from_select([c.name for c in columns], select(source))
    keys = list(table.primary_key)
    return (
        update(table)
        .where(*(key == source.c[key.name] for key in keys))
        .values({c.name: source.c[c.name] for c in columns if c not in keys})
    )
