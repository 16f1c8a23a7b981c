"""Many rows as one JSON parameter: the same statement text for 1 row and for 1,000.

The database reads the JSON itself, with `json_to_recordset` on PostgreSQL and `json_each` on
SQLite. In the statement the rows are a table called `given`.
"""

from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

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
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from card_worker.contracts.json_text import write_json
from card_worker.storage.pipeline import Pending, Rows, send
from card_worker.storage.types import JsonLine, JsonText

BETWEEN_LINES = "\x1e"
"""ASCII record separator."""
_POSTGRESQL: Any = PGDialect()  # type: ignore[no-untyped-call]

Row = dict[str, Any]
Columns = tuple[Column[Any], ...]


def json_table(dialect: str, columns: Columns, name: str = "given") -> FromClause:
    """Return a table with these columns; `parameters` provides its rows."""
    if dialect == "postgresql":
        return _given_postgresql(columns, name)
    each = func.json_each(bindparam(name, type_=Text())).table_valued("value")
    values = [
        type_coerce(func.json_extract(each.c.value, f"$.{c.name}"), c.type).label(c.name)
        for c in columns
    ]
    return select(*values).subquery(name)


def _given_postgresql(columns: Columns, name: str) -> FromClause:
    """Read the rows from JSON, but JsonLine columns from one text with separators: JSON within
    JSON is slow to read."""
    inside = [c for c in columns if not isinstance(c.type, JsonLine)]
    lines = [c for c in columns if isinstance(c.type, JsonLine)]
    named = ", ".join(f"{c.name} {c.type.compile(_POSTGRESQL)}" for c in inside)
    read = [f"json_to_recordset(CAST(:{name} AS JSON)) AS ({named})"]
    read += [f"string_to_table(:{name}_{c.name}, '{BETWEEN_LINES}')" for c in lines]
    read_as = ", ".join(c.name for c in (*inside, *lines))
    asked = ", ".join(c.name for c in columns)
    source = f"ROWS FROM ({', '.join(read)}) AS {name} ({read_as})"
    rows = text(f"SELECT {asked} FROM {source}")  # noqa: S608  # names of columns
    return rows.columns(*(column(c.name, c.type) for c in columns)).subquery(name)


def parameters(
    dialect: str, columns: Columns, rows: Sequence[Row], name: str = "given"
) -> dict[str, str]:
    """Return the parameters of `json_table` for `rows`. A column that a row lacks is NULL."""
    apart: dict[str, str] = {}
    for c in columns:
        if isinstance(c.type, JsonText):
            rows = [
                row if row.get(c.name) is None else row | {c.name: write_json(row[c.name])}
                for row in rows
            ]
        elif isinstance(c.type, JsonLine) and dialect == "postgresql":
            apart[f"{name}_{c.name}"] = BETWEEN_LINES.join(row[c.name] for row in rows)
            rows = [{n: value for n, value in row.items() if n != c.name} for row in rows]
    return {name: _text(dialect, rows), **apart}


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


def find(
    connection: Connection,
    table: Table,
    names: tuple[str, ...],
    wanted: Sequence[dict[str, Any]],
    *,
    lock: bool = False,
) -> Pending[Rows]:
    """Select the columns `names` of the rows that equal one of `wanted` in its columns.

    `lock` locks them FOR UPDATE in the order of their primary keys.
    """
    if not wanted:
        return list
    dialect, by = connection.dialect.name, tuple(wanted[0])
    statement = _select(dialect, table, names, by, lock)
    return send(connection, statement, parameters(dialect, columns_named(table, by), wanted))


def insert_absent(connection: Connection, table: Table, rows: Sequence[Row]) -> Pending[set[Any]]:
    """Insert those of `rows` whose primary key doesn't exist; return their keys.

    Waits for another commit that is inserting the same key. Rows must be in the order of their
    keys, so that two callers can't deadlock.
    """
    if not rows:
        return set
    columns = columns_of(table, rows[0])
    statement = _insert_absent(connection.dialect.name, table, columns)
    sent = send(connection, statement, parameters(connection.dialect.name, columns, rows))
    return lambda: set(sent())


def delete_rows(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Delete the rows that equal one of `rows` in its columns; an error may be raised later."""
    if rows:
        columns = columns_of(table, rows[0])
        statement = _delete(connection.dialect.name, table, columns)
        send(connection, statement, parameters(connection.dialect.name, columns, rows))


def columns_of(table: Table, names: Collection[str]) -> Columns:
    """Return the columns in the order of the table."""
    return tuple(c for c in table.columns if c.name in names)


# Each statement is built once per dialect and table, so that SQLAlchemy compiles its text once.


@cache
def _select(
    dialect: str, table: Table, names: tuple[str, ...], by: tuple[str, ...], lock: bool
) -> Select[Any]:
    source = json_table(dialect, columns_named(table, by))
    statement = select(*columns_named(table, names))
    statement = statement.join(source, matching(table, source))
    if lock:
        statement = statement.order_by(*table.primary_key).with_for_update(of=table)
    return statement


@cache
def _delete(dialect: str, table: Table, columns: Columns) -> Delete:
    source = select(json_table(dialect, columns))
    return delete(table).where(tuple_(*columns).in_(source))


@cache
def _insert_absent(dialect: str, table: Table, columns: Columns) -> Any:
    upsert = postgresql_insert if dialect == "postgresql" else sqlite_insert
    # SQLite needs WHERE, or it takes ON CONFLICT for the condition of a join.
    source = select(json_table(dialect, columns)).where(true())
    return (
        upsert(table)
        .from_select([c.name for c in columns], source)
        .on_conflict_do_nothing(index_elements=list(table.primary_key))
        .returning(*table.primary_key)
    )
