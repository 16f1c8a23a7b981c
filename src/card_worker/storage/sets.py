"""Many rows as one parameter: one statement, and one text of it, for 1 row and for 1,000.

The rows travel as one JSON text, which the database reads itself: with `json_to_recordset` on
PostgreSQL, with `json_each` on SQLite. They stand in the statement as a table called `given`.
"""

from collections import ChainMap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    Column,
    Connection,
    Delete,
    FromClause,
    Select,
    Table,
    Text,
    bindparam,
    cast,
    column,
    delete,
    func,
    insert,
    literal,
    select,
    true,
    tuple_,
    type_coerce,
    update,
)
from sqlalchemy import Insert as Insert_
from sqlalchemy import Update as Update_
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from card_worker.contracts.fields import write_json
from card_worker.storage.types import JsonText

Row = dict[str, Any]
Columns = tuple[Column[Any], ...]


def given(dialect: str, columns: Columns, name: str = "given") -> FromClause:
    """Return the table `given` with these columns, to be filled by `parameters`."""
    rows = bindparam(name, type_=Text())
    if dialect == "postgresql":
        named = [column(c.name, c.type) for c in columns]
        read = func.json_to_recordset(cast(rows, JSON)).table_valued(*named)
        return read.render_derived(name, with_types=True)
    each = func.json_each(rows).table_valued("value")
    values = [
        type_coerce(func.json_extract(each.c.value, f"$.{c.name}"), c.type).label(c.name)
        for c in columns
    ]
    return select(*values).subquery(name)


def parameters(columns: Columns, rows: Sequence[Row], name: str = "given") -> dict[str, str]:
    """Return the parameter that puts `rows` into `given`, in their order."""
    for text in (c.name for c in columns if isinstance(c.type, JsonText)):
        rows = [
            row | {text: write_json(row[text])} if row[text] is not None else row for row in rows
        ]
    return {name: write_json(rows)}


@dataclass(frozen=True, slots=True)
class Insert:
    """Rows to be inserted, each with the same columns."""

    table: Table
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Update:
    """Rows whose column `by` is there already, and whose other columns are to be set."""

    table: Table
    rows: Sequence[Row]
    by: str


def write(connection: Connection, changes: Iterable[Insert | Update]) -> int:
    """Make `changes`, on PostgreSQL in one statement; return how many rows were updated."""
    asked = [change for change in changes if change.rows]
    if connection.dialect.name != "postgresql":
        return sum(_write_one(connection, change) for change in asked)
    if not asked:
        return 0
    shapes = tuple(_shape(change) for change in asked)
    values = [
        parameters(shape.columns, change.rows, name)
        for (name, shape), change in zip(_named(shapes), asked, strict=True)
    ]
    return int(connection.execute(_write_all(shapes), dict(ChainMap(*values))).scalar_one())


def _write_one(connection: Connection, change: Insert | Update) -> int:
    shape = _shape(change)
    statement = _change(connection.dialect.name, shape, "given")
    done = connection.execute(statement, parameters(shape.columns, change.rows))
    return done.rowcount if isinstance(change, Update) else 0


def insert_absent(connection: Connection, table: Table, rows: Sequence[Row]) -> set[Any]:
    """Insert those of `rows` whose primary key isn't there; return the keys that were inserted.

    Waits for another commit that is inserting the same key. Give the rows in the order of their
    keys, so that two callers wait instead of deadlocking.
    """
    if not rows:
        return set()
    columns = _columns(table, rows[0])
    statement = _insert_absent(connection.dialect.name, table, columns)
    inserted = connection.execute(statement, parameters(columns, rows))
    return {tuple(row) for row in inserted}


def insert_or_add(
    connection: Connection, table: Table, rows: Sequence[Row], *, adding: str
) -> list[tuple[Any, Any]]:
    """Insert `rows`; where the primary key is there, add to the column `adding` instead.

    Returns (key, sum) for each. Other columns take the new value.
    """
    columns = _columns(table, rows[0])
    statement = _insert_or_add(connection.dialect.name, table, columns, adding)
    return [tuple(row) for row in connection.execute(statement, parameters(columns, rows))]


def delete_rows(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Delete the rows that have the values of one of `rows`."""
    if rows:
        columns = _columns(table, rows[0])
        statement = _delete(connection.dialect.name, table, columns)
        connection.execute(statement, parameters(columns, rows))


def _columns(table: Table, row: Row) -> Columns:
    return tuple(c for c in table.columns if c.name in row)


# The statements are built once per dialect and table; SQLAlchemy then finds their text compiled.


class _Shape(NamedTuple):
    """A change without its rows: what its statement depends on."""

    table: Table
    columns: Columns
    by: str | None


def _shape(change: Insert | Update) -> _Shape:
    by = change.by if isinstance(change, Update) else None
    return _Shape(change.table, _columns(change.table, change.rows[0]), by)


def _named(shapes: Sequence[_Shape]) -> Iterator[tuple[str, _Shape]]:
    """Yield each shape with what its rows are called in a statement that has several."""
    for number, shape in enumerate(shapes):
        yield f"given_{number}", shape


@cache
def _write_all(shapes: tuple[_Shape, ...]) -> Select[Any]:
    updated, others = [], []
    for name, shape in _named(shapes):
        change = _change("postgresql", shape, name)
        if isinstance(change, Update_):
            made = change.returning(*shape.table.primary_key).cte(f"made_{name}")
            updated.append(select(func.count()).select_from(made).scalar_subquery())
        else:
            others.append(change.cte(f"made_{name}"))
    return select(sum(updated, literal(0))).add_cte(*others)


@cache
def _change(dialect: str, shape: _Shape, name: str) -> Insert_ | Update_:
    table, columns, by = shape
    source = given(dialect, columns, name)
    if by is None:
        return insert(table).from_select([c.name for c in columns], select(source))
    return (
        update(table)
        .where(table.c[by] == source.c[by])
        .values({c.name: source.c[c.name] for c in columns if c.name != by})
    )


@cache
def _delete(dialect: str, table: Table, columns: Columns) -> Delete:
    source = select(given(dialect, columns))
    return delete(table).where(tuple_(*columns).in_(source))


@cache
def _insert_absent(dialect: str, table: Table, columns: Columns) -> Any:
    upsert = postgresql_insert if dialect == "postgresql" else sqlite_insert
    # SQLite needs WHERE, or it takes ON CONFLICT for the condition of a join.
    source = select(given(dialect, columns)).where(true())
    return (
        upsert(table)
        .from_select([c.name for c in columns], source)
        .on_conflict_do_nothing(index_elements=list(table.primary_key))
        .returning(*table.primary_key)
    )


@cache
def _insert_or_add(dialect: str, table: Table, columns: Columns, adding: str) -> Any:
    upsert = postgresql_insert if dialect == "postgresql" else sqlite_insert
    source = select(given(dialect, columns)).where(true())
    row = upsert(table).from_select([c.name for c in columns], source)
    key = list(table.primary_key)
    changed: dict[str, Any] = {c.name: row.excluded[c.name] for c in columns if c not in key}
    changed[adding] = table.c[adding] + row.excluded[adding]
    return row.on_conflict_do_update(index_elements=key, set_=changed).returning(
        *key, table.c[adding]
    )
