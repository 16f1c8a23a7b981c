"""Many new rows that are alike: with COPY on PostgreSQL, elsewhere with ordinary inserts.

What is the same in all rows is turned into bytes once. COPY's binary format: a row is the number
of its fields, and each field is its length and its bytes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from psycopg import pq, sql
from psycopg.adapt import PyFormat, Transformer
from sqlalchemy import Connection, Table, insert
from sqlalchemy.dialects import postgresql

from card_worker.storage.pipeline import direct
from card_worker.storage.sets import columns_of

Column: TypeAlias = Sequence[UUID] | Sequence[str]

_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_LENGTH_OF_UUID = (16).to_bytes(4, "big")
_POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]


def insert_alike(
    connection: Connection, table: Table, like: NamedTuple, columns: Mapping[str, Column]
) -> None:
    """Insert rows that are all like `like`, but for the columns given: a value for each row."""
    if not next(iter(columns.values()), ()):
        return
    same = {name: value for name, value in like._asdict().items() if name not in columns}
    if connection.dialect.name == "postgresql":
        _copy(connection, table, same, columns)
        return
    names = tuple(columns)
    rows = [
        {**same, **dict(zip(names, values, strict=True))}
        for values in zip(*columns.values(), strict=True)
    ]
    connection.execute(insert(table), rows)


def _copy(
    connection: Connection, table: Table, same: dict[str, Any], columns: Mapping[str, Column]
) -> None:
    names = [*same, *columns]
    fields = [_fields(values) for values in columns.values()]
    with direct(connection) as driver:
        head = len(names).to_bytes(2, "big") + _encoded(driver, table, same)
        each = (head + b"".join(row) for row in zip(*fields, strict=True))
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
            sql.Identifier(table.name), sql.SQL(", ").join(map(sql.Identifier, names))
        )
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(_HEADER + b"".join(each) + _TRAILER)


def _fields(values: Column) -> list[bytes]:
    if isinstance(values[0], UUID):
        return [_LENGTH_OF_UUID + value.bytes for value in values if isinstance(value, UUID)]
    encoded = (value.encode() for value in values if isinstance(value, str))
    return [len(value).to_bytes(4, "big") + value for value in encoded]


def _encoded(driver: Any, table: Table, values: dict[str, Any]) -> bytes:
    """Return the fields of one row as the driver would send them."""
    columns = {column.name: column for column in columns_of(table, values)}
    bound, oids = [], []
    for name, value in values.items():
        kind = columns[name].type.dialect_impl(_POSTGRESQL)
        convert = kind.bind_processor(_POSTGRESQL)
        bound.append(value if convert is None else convert(value))
        known = driver.adapters.types[kind.compile(_POSTGRESQL).lower()]
        oids.append(known.oid)
    transformer = Transformer(driver)
    transformer.set_dumper_types(oids, pq.Format.BINARY)
    dumped = transformer.dump_sequence(bound, [PyFormat.BINARY] * len(bound))
    return b"".join(
        _NULL if one is None else len(one).to_bytes(4, "big") + bytes(one) for one in dumped
    )
