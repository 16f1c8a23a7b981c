"""Reading the tables: in slices, in streams and by key, whatever their columns contain."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias, TypeVar
from uuid import UUID

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Executable,
    Row,
    Select,
    Table,
    Text,
    TypeDecorator,
    func,
    literal,
    select,
    tuple_,
    type_coerce,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.elements import KeyedColumnElement
from sqlalchemy.types import TypeEngine

from card_worker.contracts.enums import EventType
from card_worker.domain.rows import Token
from card_worker.storage.json_rows import columns_named, json_table, matching, parameters
from card_worker.storage.reconcile.report import Differences
from card_worker.storage.tables import token_is_usable, tokens

ROWS = 1_000
"""The number of rows in memory at a time."""
BATCH_KEY = ("account_id", "batch_id")

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the name of a pass over the database, the rows read so far, and the rows in total."""
T = TypeVar("T", bound=NamedTuple)


class StoredEvent(NamedTuple):
    """A row of the outbox."""

    position: int
    id: UUID
    account_id: str
    type: EventType
    subject: str
    partition_key: str
    event: str
    created_at: datetime

    @property
    def key(self) -> tuple[str, str]:
        """Return the key of the card or batch that it is about."""
        return self.account_id, self.subject

    @property
    def name(self) -> str:
        """Return how it is reported."""
        return f"{self.subject}, event {self.id}"


class Unreadable(str):
    """The content of a column that is not of the column's type."""


class _AsStored(TypeDecorator[Any]):
    """Reads a column's value, or Unreadable if it is not of the column's type."""

    impl = Text
    cache_ok = True

    def __init__(self, kind: TypeEngine[Any]) -> None:
        super().__init__()
        self.kind = kind

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return self.kind.dialect_impl(dialect)

    def result_processor(self, dialect: Dialect, coltype: Any) -> Callable[[Any], Any] | None:
        read = self.kind.dialect_impl(dialect).result_processor(dialect, coltype)
        if read is None:
            return None

        def read_any(value: Any) -> Any:
            try:
                return None if value is None else read(value)
            except (ValueError, KeyError, TypeError):
                return Unreadable(value)

        return read_any


def as_stored(column: KeyedColumnElement[Any]) -> ColumnElement[Any]:
    """Return the column to be selected, whatever it contains."""
    return type_coerce(column, _AsStored(column.type)).label(column.name)


def select_rows(table: Table, kind: type[NamedTuple]) -> Select[Any]:
    """Select the columns that `kind` has, whatever they contain."""
    return select(*map(as_stored, columns_named(table, kind._fields)))


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the database as it was at one moment. Rows that can't be read are added to `found`."""

    connection: Connection
    progress: Progress
    found: Differences

    def slices(self, table: Table, kind: type[T]) -> Iterator[list[T]]:
        """Yield all rows of a table in the order of its primary key, ROWS at a time."""
        done, total, key = 0, self.count(table), tuple(table.primary_key)
        self.progress(table.name, done, total)
        statement = ordered = select_rows(table, kind).order_by(*key).limit(ROWS)
        while rows := self.connection.execute(statement).all():
            yield self.readable(table, kind, rows)
            done += len(rows)
            self.progress(table.name, done, total)
            last = (literal(rows[-1]._mapping[column.name], column.type) for column in key)
            statement = ordered.where(tuple_(*key) > tuple_(*last))

    def stream(self, statement: Executable) -> Iterator[Any]:
        """Yield the rows of a statement, ROWS in memory at a time."""
        yield from self.connection.execute(statement, execution_options={"yield_per": ROWS})

    def find(
        self,
        table: Table,
        kind: type[T],
        keys: Iterable[Any],
        *by: str,
        where: ColumnElement[bool] | None = None,
    ) -> list[T]:
        """Return the rows that have one of `keys` in the columns `by`, which have an index.

        A key is a tuple if there are several columns.
        """
        given = [dict(zip(by, key if len(by) > 1 else (key,), strict=True)) for key in set(keys)]
        if not given:
            return []
        dialect, columns = self.connection.dialect.name, columns_named(table, by)
        statement = _select(dialect, table, kind, columns, where)
        rows = self.connection.execute(statement, parameters(dialect, columns, given))
        return self.readable(table, kind, rows)

    def by_key(self, table: Table, kind: type[T], keys: Iterable[Any], *by: str) -> dict[Any, T]:
        """Return what `find` finds, by its key, which is unique: by default, `id`."""
        by = by or ("id",)
        rows = self.find(table, kind, keys, *by)
        return dict(zip(map(attrgetter(*by), rows), rows, strict=True))

    def usable_tokens(self, card_ids: Iterable[UUID]) -> dict[UUID, list[Token]]:
        """Return the tokens of cards that were neither spent nor revoked, by their card."""
        usable = defaultdict[UUID, list[Token]](list)
        for token in self.find(tokens, Token, card_ids, "card", where=token_is_usable):
            usable[token.card].append(token)
        return usable

    def count(self, table: Table) -> int:
        return int(self.connection.execute(select(func.count()).select_from(table)).scalar_one())

    def readable(self, table: Table, kind: type[T], rows: Iterable[Row[Any]]) -> list[T]:
        """Return the rows whose columns all have a value of their type; report the others."""
        readable = []
        for row in rows:
            if Unreadable not in map(type, row):
                readable.append(kind._make(row))
                continue
            values: Mapping[Any, Any] = row._mapping
            names = ("card_id", "key", "position", "name", "id")
            subject = next(values[name] for name in names if name in values)
            for name, value in values.items():
                if isinstance(value, Unreadable):
                    expected = f"a value of type {type(table.c[name].type).__name__}"
                    wrong = f"{table.name}.{name}", value, expected
                    account_id = values.get("account_id", "")
                    self.found.add("columns_hold_their_type", account_id, subject, wrong)
        return readable


@cache  # so that SQLAlchemy compiles each statement once
def _select(
    dialect: str,
    table: Table,
    kind: type[NamedTuple],
    by: tuple[Column[Any], ...],
    where: ColumnElement[bool] | None,
) -> Select[Any]:
    source = json_table(dialect, by)
    statement = select_rows(table, kind).join(source, matching(table, source))
    return statement if where is None else statement.where(where)
