"""Many rows as one parameter: one statement, and one text of it, for 1 row and for 1,000.

The rows travel as one JSON text, which the database reads itself: with `json_to_recordset` on
PostgreSQL, with `json_each` on SQLite. They stand in the statement as a table called `given`.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import orjson
from sqlalchemy import (
    Column,
    Connection,
    Delete,
    FromClause,
    Table,
    Text,
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

from card_worker.contracts.fields import write_json
from card_worker.storage.pipeline import send
from card_worker.storage.types import JsonLine, JsonText

BETWEEN_LINES = "\x1e"
"""ASCII's own separator of records."""
_POSTGRESQL: Any = PGDialect()  # type: ignore[no-untyped-call]

Row = dict[str, Any]
Columns = tuple[Column[Any], ...]


def given(dialect: str, columns: Columns, name: str = "given") -> FromClause:
    """Return the table `given` with these columns, to be filled by `parameters`."""
    if dialect == "postgresql":
        return _given_postgresql(columns, name)
    each = func.json_each(bindparam(name, type_=Text())).table_valued("value")
    values = [
        type_coerce(func.json_extract(each.c.value, f"$.{c.name}"), c.type).label(c.name)
        for c in columns
    ]
    return select(*values).subquery(name)


def _given_postgresql(columns: Columns, name: str) -> FromClause:
    """Return `given` from JSON; but lines of JSON, which as text within JSON are slow to read, from
    one text, cut where a separator stands."""
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
    """Return the parameters that put `rows` into `given`, in their order.

    A column that a row lacks is NULL.
    """
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
        # It reads times in whatever spelling, also in that which takes the library no question.
        with suppress(orjson.JSONEncodeError):
            return orjson.dumps(rows).decode()
    return write_json(rows)


def insert_absent(
    connection: Connection, table: Table, rows: Sequence[Row]
) -> Callable[[], set[Any]]:
    """Insert those of `rows` whose primary key isn't there; return what waits for their keys.

    Waits for another commit that is inserting the same key. Give the rows in the order of their
    keys, so that two callers wait instead of deadlocking.
    """
    if not rows:
        return set
    columns = columns_of(table, rows[0])
    statement = _insert_absent(connection.dialect.name, table, columns)
    sent = send(connection, statement, parameters(connection.dialect.name, columns, rows))
    return lambda: set(sent())


def delete_rows(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Delete the rows that have the values of one of `rows`; an error may be raised later."""
    if rows:
        columns = columns_of(table, rows[0])
        statement = _delete(connection.dialect.name, table, columns)
        send(connection, statement, parameters(connection.dialect.name, columns, rows))


def columns_of(table: Table, names: Collection[str]) -> Columns:
    return tuple(c for c in table.columns if c.name in names)


# The statements are built once per dialect and table; SQLAlchemy then finds their text compiled.


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
