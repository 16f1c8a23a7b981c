"""Inserts of many rows that differ in few columns: with COPY on PostgreSQL.

The values that all rows share are encoded once. COPY's binary format: a row is the number of its
fields, and each field is its length and its bytes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, repeat
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from psycopg import pq, sql
from psycopg.adapt import PyFormat, Transformer
from sqlalchemy import Connection, Table, insert
from sqlalchemy.dialects import postgresql

from card_worker.storage.pipeline import raw_connection

ColumnValues: TypeAlias = Sequence[bytes] | Sequence[str]
"""The 16 bytes of UUIDs, or texts."""

_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]


def insert_similar(
    connection: Connection,
    table: Table,
    template: NamedTuple,
    columns: Mapping[str, ColumnValues],
    order: Sequence[int],
) -> None:
    """Insert a row for each place in `order`: the values at that place of `columns`, and those of
    `template` in all other columns."""
    if not order:
        return
    ordered = {name: [values[place] for place in order] for name, values in columns.items()}
    shared = {name: value for name, value in template._asdict().items() if name not in columns}
    if connection.dialect.name == "postgresql":
        _copy(connection, table, shared, ordered)
        return
    values = [map(_to_python, column) for column in ordered.values()]
    rows = [{**shared, **dict(zip(columns, row, strict=True))} for row in zip(*values, strict=True)]
    connection.execute(insert(table), rows)


def _to_python(value: bytes | str) -> UUID | str:
    return UUID(bytes=value) if isinstance(value, bytes) else value


def _copy(
    connection: Connection,
    table: Table,
    shared: dict[str, Any],
    columns: Mapping[str, Sequence[bytes | str]],
) -> None:
    with raw_connection(connection) as driver:
        head = (len(shared) + len(columns)).to_bytes(2, "big") + _encoded(driver, table, shared)
        count = len(next(iter(columns.values())))
        fields = chain.from_iterable(map(_fields, columns.values()))
        rows = chain.from_iterable(zip(repeat(head, count), *fields, strict=True))
        statement = _statement(table, (*shared, *columns))
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(b"".join([_HEADER, *rows, _TRAILER]))


def _fields(column: Sequence[bytes | str]) -> Iterator[Iterable[bytes]]:
    """Yield the encoded lengths of values, then the values."""
    values = [value if isinstance(value, bytes) else value.encode() for value in column]
    sizes = list(map(len, values))
    # Mostly all values have the same length.
    lengths = {size: size.to_bytes(4, "big") for size in set(sizes)}
    yield map(lengths.__getitem__, sizes)
    yield values


def _encoded(driver: Any, table: Table, values: dict[str, Any]) -> bytes:
    """Return the fields of a row in the binary format, as the driver encodes parameters."""
    types = _types(table, tuple(values))
    converted = [
        value if convert is None else convert(value)
        for (_, convert), value in zip(types, values.values(), strict=True)
    ]
    transformer = Transformer(driver)
    oids = [driver.adapters.types[name].oid for name, _ in types]
    transformer.set_dumper_types(oids, pq.Format.BINARY)
    dumped = transformer.dump_sequence(converted, [PyFormat.BINARY] * len(converted))
    return b"".join(
        _NULL if field is None else len(field).to_bytes(4, "big") + bytes(field) for field in dumped
    )


@cache
def _types(
    table: Table, names: tuple[str, ...]
) -> Sequence[tuple[str, Callable[[Any], Any] | None]]:
    """Return PostgreSQL's names of the columns' types, and SQLAlchemy's conversions of values."""
    types = []
    for name in names:
        type_ = table.c[name].type.dialect_impl(_POSTGRESQL)
        type_name, *_collation = type_.compile(_POSTGRESQL).lower().split(" collate ")
        types.append((type_name, type_.bind_processor(_POSTGRESQL)))
    return types


@cache
def _statement(table: Table, names: tuple[str, ...]) -> bytes:
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    copy = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)")
    return copy.format(sql.Identifier(table.name), columns).as_bytes()
