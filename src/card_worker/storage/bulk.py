"""Many new rows that are alike: with COPY on PostgreSQL, elsewhere with ordinary inserts.

What is the same in all rows is turned into bytes once. COPY's binary format: a row is the number
of its fields, and each field is its length and its bytes.
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
from sqlalchemy.types import TypeEngine

from card_worker.storage.pipeline import direct

Column: TypeAlias = Sequence[bytes] | Sequence[str]
"""UUIDs, each its 16 bytes, or texts."""

_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]


def insert_alike(
    connection: Connection,
    table: Table,
    like: NamedTuple,
    columns: Mapping[str, Column],
    order: Sequence[int],
) -> None:
    """Insert rows that are all like `like`, but for the columns given: a value for each row.

    The rows go in by their places in `order`.
    """
    if not order:
        return
    ordered = {name: [column[place] for place in order] for name, column in columns.items()}
    same = {name: value for name, value in like._asdict().items() if name not in columns}
    if connection.dialect.name == "postgresql":
        _copy(connection, table, same, ordered)
        return
    values = [map(_plain, column) for column in ordered.values()]
    rows = [{**same, **dict(zip(columns, row, strict=True))} for row in zip(*values, strict=True)]
    connection.execute(insert(table), rows)


def _plain(value: bytes | str) -> UUID | str:
    return UUID(bytes=value) if isinstance(value, bytes) else value


def _copy(
    connection: Connection,
    table: Table,
    same: dict[str, Any],
    columns: Mapping[str, Sequence[bytes | str]],
) -> None:
    with direct(connection) as driver:
        head = (len(same) + len(columns)).to_bytes(2, "big") + _encoded(driver, table, same)
        count = len(next(iter(columns.values())))
        fields = chain.from_iterable(map(_fields, columns.values()))
        rows = chain.from_iterable(zip(repeat(head, count), *fields, strict=True))
        statement = _statement(table, (*same, *columns))
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(b"".join([_HEADER, *rows, _TRAILER]))


def _fields(column: Sequence[bytes | str]) -> Iterator[Iterable[bytes]]:
    """Yield the lengths of values, and the values."""
    values = [value if isinstance(value, bytes) else value.encode() for value in column]
    sizes = list(map(len, values))
    # Most often there is one.
    lengths = {size: size.to_bytes(4, "big") for size in set(sizes)}
    yield map(lengths.__getitem__, sizes)
    yield values


def _encoded(driver: Any, table: Table, values: dict[str, Any]) -> bytes:
    """Return the fields of one row as the driver would send them."""
    kinds = _kinds(table, tuple(values))
    bound = [
        value if kind.convert is None else kind.convert(value)
        for kind, value in zip(kinds, values.values(), strict=True)
    ]
    transformer = Transformer(driver)
    oids = [driver.adapters.types[kind.name].oid for kind in kinds]
    transformer.set_dumper_types(oids, pq.Format.BINARY)
    dumped = transformer.dump_sequence(bound, [PyFormat.BINARY] * len(bound))
    return b"".join(
        _NULL if one is None else len(one).to_bytes(4, "big") + bytes(one) for one in dumped
    )


class _Kind(NamedTuple):
    """What PostgreSQL calls the type of a column, and what makes its values the driver's."""

    name: str
    convert: Callable[[Any], Any] | None


# Asked for each chunk of an order, and always the same.


@cache
def _kinds(table: Table, names: tuple[str, ...]) -> list[_Kind]:
    kinds = (table.c[name].type.dialect_impl(_POSTGRESQL) for name in names)
    return [_Kind(_named(kind), kind.bind_processor(_POSTGRESQL)) for kind in kinds]


def _named(kind: TypeEngine[Any]) -> str:
    name, *_sorted_as = kind.compile(_POSTGRESQL).lower().split(" collate ")
    return name


@cache
def _statement(table: Table, names: tuple[str, ...]) -> bytes:
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    copy = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)")
    return copy.format(sql.Identifier(table.name), columns).as_bytes()
