"""Many rows as one JSON parameter: the same statement text for 1 row and for 1,000.

The database reads the JSON itself, with `json_to_recordset` on PostgreSQL and `json_each` on
SQLite. In the statement the rows are a table called `given`.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple, TypeVar

import orjson
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Delete,
    FromClause,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    column,
    delete,
    func,
    select,
    text,
    true,
    tuple_,
    type_coerce,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql.base import PGDialect

from card_worker.contracts.json_text import write_json
from card_worker.storage.pipeline import Pending, Rows, Statement, send
from card_worker.storage.types import JsonLine, JsonText

SEPARATOR = "\x1e"
"""Stands between the texts of a JsonLine column: ASCII's record separator."""
_POSTGRESQL: Any = PGDialect()  # type: ignore[no-untyped-call]

Row = dict[str, Any]
Columns = tuple[Column[Any], ...]
R = TypeVar("R", bound=NamedTuple)


def json_table(dialect: str, columns: Columns, name: str = "given") -> FromClause:
    """Return a table with these columns; `parameters` provides its rows."""
    if dialect == "postgresql":
        return _recordset(columns, name)
    each = func.json_each(bindparam(name, type_=Text())).table_valued("value")
    values = [
        type_coerce(func.json_extract(each.c.value, f"$.{c.name}"), c.type).label(c.name)
        for c in columns
    ]
    return select(*values).subquery(name)


def _recordset(columns: Columns, name: str) -> FromClause:
    """Read JsonLine columns from texts of their own: JSON within JSON is slow to read."""
    inside = [c for c in columns if not isinstance(c.type, JsonLine)]
    lines = [c for c in columns if isinstance(c.type, JsonLine)]
    typed = ", ".join(f"{c.name} {c.type.compile(_POSTGRESQL)}" for c in inside)
    sources = [f"json_to_recordset(CAST(:{name} AS JSON)) AS ({typed})"]
    sources += [f"string_to_table(:{name}_{c.name}, '{SEPARATOR}')" for c in lines]
    source_names = ", ".join(c.name for c in (*inside, *lines))
    names = ", ".join(c.name for c in columns)
    source = f"ROWS FROM ({', '.join(sources)}) AS {name} ({source_names})"
    rows = text(f"SELECT {names} FROM {source}")  # noqa: S608  # names of columns
    return rows.columns(*(column(c.name, c.type) for c in columns)).subquery(name)


def parameters(
    dialect: str, columns: Columns, rows: Sequence[Row], name: str = "given"
) -> dict[str, str]:
    """Return the parameters of `json_table` for `rows`. A column that a row lacks is NULL."""
    lines: dict[str, str] = {}
    for c in columns:
        if isinstance(c.type, JsonText):
            rows = [
                row if row.get(c.name) is None else row | {c.name: write_json(row[c.name])}
                for row in rows
            ]
        elif isinstance(c.type, JsonLine) and dialect == "postgresql":
            lines[f"{name}_{c.name}"] = SEPARATOR.join(row[c.name] for row in rows)
            rows = [{n: value for n, value in row.items() if n != c.name} for row in rows]
    return {name: _text(dialect, rows), **lines}


def _text(dialect: str, rows: Sequence[Row]) -> str:
    if dialect == "postgresql":
        # PostgreSQL reads the times as orjson writes them; other values need `write_json`.
        with suppress(orjson.JSONEncodeError):
            return orjson.dumps(rows).decode()
    return write_json(rows)


def columns_named(table: Table, names: tuple[str, ...]) -> Columns:
    """Return the columns in the order of `names`."""
    return tuple(table.c[name] for name in names)


def matching(table: Table, source: FromClause) -> ColumnElement[bool]:
    """Return the condition that a row of `table` equals one of `source` in its columns."""
    return and_(*(table.c[c.name] == c for c in source.c))


def upsert(dialect: str, table: Table) -> Any:
    """Return an INSERT that can have an ON CONFLICT clause."""
    return (postgresql if dialect == "postgresql" else sqlite).insert(table)


def upsert_rows(dialect: str, table: Table, columns: Columns) -> Any:
    """Return an INSERT of rows with these columns that can have an ON CONFLICT clause."""
    # SQLite needs WHERE, or it takes ON CONFLICT for the condition of a join.
    source = select(json_table(dialect, columns)).where(true())
    return upsert(dialect, table).from_select([c.name for c in columns], source)


# Each statement is built once per dialect and table, so that SQLAlchemy compiles its text once.


def send_with_rows(
    connection: Connection,
    build: Callable[[FromClause], Statement],
    table: Table,
    rows: Sequence[Row],
    **values: Any,
) -> Pending[Rows]:
    """Send the statement that `build` returns for a source with `rows`; nothing without rows.

    The source has the columns of `table` that the first row has. `build` must be a module-level
    function: the statement is built once for it.
    """
    if not rows:
        return list
    dialect, columns = connection.dialect.name, columns_named(table, tuple(rows[0]))
    statement = _built(build, dialect, columns)
    return send(connection, statement, {**parameters(dialect, columns, rows), **values})


@cache
def _built(build: Callable[[FromClause], Statement], dialect: str, columns: Columns) -> Statement:
    return build(json_table(dialect, columns))


def find(
    connection: Connection,
    table: Table,
    names: tuple[str, ...],
    keys: Sequence[Row],
    *,
    where: ColumnElement[bool] | None = None,
    lock: bool = False,
) -> Pending[Rows]:
    """Select the columns `names` of the rows that equal one of `keys` in its columns.

    `where` is a further condition; it must be a constant, because the statement is built once for
    it. `lock` locks the rows FOR UPDATE in the order of their primary keys.
    """
    if not keys:
        return list
    dialect, by = connection.dialect.name, columns_named(table, tuple(keys[0]))
    statement = _select(dialect, table, names, by, where=where, lock=lock)
    return send(connection, statement, parameters(dialect, by, keys))


def find_rows(
    connection: Connection,
    table: Table,
    kind: type[R],
    keys: Sequence[Row],
    *,
    where: ColumnElement[bool] | None = None,
    lock: bool = False,
) -> Pending[list[R]]:
    """Select rows, as `find` does, as values of their row class."""
    found = find(connection, table, kind._fields, keys, where=where, lock=lock)
    return lambda: list(map(kind._make, found()))


@cache
def _select(
    dialect: str,
    table: Table,
    names: tuple[str, ...],
    by: Columns,
    *,
    where: ColumnElement[bool] | None,
    lock: bool,
) -> Select[Any]:
    source = json_table(dialect, by)
    statement = select(*columns_named(table, names)).join(source, matching(table, source))
    if where is not None:
        statement = statement.where(where)
    if lock:
        statement = statement.order_by(*table.primary_key).with_for_update(of=table)
    return statement


def delete_rows(connection: Connection, table: Table, keys: Sequence[Row]) -> None:
    """Delete the rows that equal one of `keys` in its columns; an error may be raised later."""
    if keys:
        dialect, columns = connection.dialect.name, columns_named(table, tuple(keys[0]))
        send(connection, _delete(dialect, table, columns), parameters(dialect, columns, keys))


@cache
def _delete(dialect: str, table: Table, columns: Columns) -> Delete:
    return delete(table).where(tuple_(*columns).in_(select(json_table(dialect, columns))))


def insert_absent(connection: Connection, table: Table, rows: Sequence[Row]) -> Pending[set[Any]]:
    """Insert those of `rows` whose primary key doesn't exist; return their keys.

    Waits for another commit that is inserting the same key. Rows must be in the order of their
    keys, so that two callers can't deadlock.
    """
    if not rows:
        return set
    dialect, columns = connection.dialect.name, columns_named(table, tuple(rows[0]))
    statement = _insert_absent(dialect, table, columns)
    sent = send(connection, statement, parameters(dialect, columns, rows))
    return lambda: set(sent())


@cache
def _insert_absent(dialect: str, table: Table, columns: Columns) -> Any:
    inserted = upsert_rows(dialect, table, columns)
    keys = list(table.primary_key)
    return inserted.on_conflict_do_nothing(index_elements=keys).returning(*keys)
