"""Many rows as one parameter: one statement, and one text of it, for 1 row and for 1,000.

The rows travel as one JSON text, which the database reads itself: with `json_to_recordset` on
PostgreSQL, with `json_each` on SQLite. They stand in the statement as a table called `given`.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Delete,
    FromClause,
    Table,
    Text,
    bindparam,
    cast,
    column,
    delete,
    func,
    select,
    true,
    tuple_,
    type_coerce,
)
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


def insert_absent(connection: Connection, table: Table, rows: Sequence[Row]) -> set[Any]:
    """Insert those of `rows` whose primary key isn't there; return the keys that were inserted.

    Waits for another commit that is inserting the same key. Give the rows in the order of their
    keys, so that two callers wait instead of deadlocking.
    """
    if not rows:
        return set()
    columns = columns_of(table, rows[0])
    statement = _insert_absent(connection.dialect.name, table, columns)
    inserted = connection.execute(statement, parameters(columns, rows))
    return {tuple(row) for row in inserted}


def insert_or_add(
    connection: Connection, table: Table, rows: Sequence[Row], *, adding: str
) -> list[tuple[Any, Any]]:
    """Insert `rows`; where the primary key is there, add to the column `adding` instead.

    Returns (key, sum) for each. Other columns take the new value.
    """
    columns = columns_of(table, rows[0])
    statement = _insert_or_add(connection.dialect.name, table, columns, adding)
    return [tuple(row) for row in connection.execute(statement, parameters(columns, rows))]


def delete_rows(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Delete the rows that have the values of one of `rows`."""
    if rows:
        columns = columns_of(table, rows[0])
        statement = _delete(connection.dialect.name, table, columns)
        connection.execute(statement, parameters(columns, rows))


def columns_of(table: Table, row: Row) -> Columns:
    return tuple(c for c in table.columns if c.name in row)


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
