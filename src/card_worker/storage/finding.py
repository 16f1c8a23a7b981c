"""Rows by their columns' values: many of them with one statement."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, Select, Table, and_, select

from card_worker.storage.json_rows import Columns, given, parameters
from card_worker.storage.pipeline import Rows, send


def columns_named(table: Table, names: tuple[str, ...]) -> Columns:
    """Return columns in the order of their names."""
    return tuple(table.c[name] for name in names)


def find(
    connection: Connection,
    table: Table,
    names: tuple[str, ...],
    wanted: Sequence[dict[str, Any]],
    *,
    lock: bool = False,
) -> Callable[[], Rows]:
    """Ask for the columns `names` of the rows that have the values of one of `wanted`."""
    if not wanted:
        return list
    dialect, by = connection.dialect.name, tuple(wanted[0])
    statement = _select(dialect, table, names, by, lock)
    return send(connection, statement, parameters(dialect, columns_named(table, by), wanted))


@cache
def _select(
    dialect: str, table: Table, names: tuple[str, ...], by: tuple[str, ...], lock: bool
) -> Select[Any]:
    source = given(dialect, columns_named(table, by))
    statement = select(*columns_named(table, names))
    statement = statement.join(source, matching(table, source))
    if lock:
        statement = statement.order_by(*table.primary_key).with_for_update(of=table)
    return statement


def matching(table: Table, source: FromClause) -> ColumnElement[bool]:
    """Return the condition that a row has the values of one of `source`."""
    return and_(*(table.c[c.name] == c for c in source.c))
