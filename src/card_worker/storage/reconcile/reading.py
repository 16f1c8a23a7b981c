"""How the tables are read: in slices by key, in streams, and whatever a column holds."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import (
    Column,
    ColumnElement,
    CompoundSelect,
    Connection,
    Row,
    Select,
    Table,
    Text,
    TypeDecorator,
    bindparam,
    func,
    select,
    tuple_,
    type_coerce,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.elements import KeyedColumnElement
from sqlalchemy.types import TypeEngine

from card_worker.domain.rows import Token
from card_worker.storage.json_rows import Columns, columns_named, json_table, matching, parameters
from card_worker.storage.reconcile.report import Difference, Progress, Wrong, difference
from card_worker.storage.tables import token_is_usable, tokens

ROWS = 1_000
"""So many rows are in memory at a time."""


T = TypeVar("T", bound=NamedTuple)


class Unreadable(str):
    """What a column holds that isn't of its type."""


class _AsStored(TypeDecorator[Any]):
    """A column's value, or an Unreadable where it has none of its type."""

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
            if value is None:
                return None
            with suppress(ValueError, KeyError, TypeError):
                return read(value)
            return Unreadable(value)

        return read_any


def as_stored(column: KeyedColumnElement[Any]) -> ColumnElement[Any]:
    """Return the column to be selected, whatever it holds."""
    return type_coerce(column, _AsStored(column.type)).label(column.name)


class Books(NamedTuple):
    """The database as it is at one moment, and what is called with the progress."""

    connection: Connection
    progress: Progress
    published_within: timedelta | None
    """How long an event may wait to be published; None: as long as it likes."""

    def slices(
        self, table: Table, kind: type[T], *subject: str
    ) -> Iterator[tuple[list[T], list[Difference]]]:
        """Yield the rows of a table in the order of its primary key, ROWS at a time, and what is
        wrong with those that can't be read. `subject` names the columns that identify a row."""
        names = kind._fields
        done, total = 0, self.count(table)
        self.progress(table.name, done, total)
        last: tuple[Any, ...] = ()
        while rows := self.connection.execute(
            slice_of(table, names, is_first=not last),
            {f"last_{place}": value for place, value in enumerate(last)},
        ).all():
            wrong: list[Difference] = []
            readable = sound(table, rows, wrong, *subject)
            # The key follows the columns once more.
            yield [kind._make(row[: len(names)]) for row in readable], wrong
            done += len(rows)
            self.progress(table.name, done, total)
            last = tuple(rows[-1][len(names) :])

    def stream(self, statement: Select[Any] | CompoundSelect[Any]) -> Iterator[Any]:
        """Yield rows as the database gives them, ROWS in memory at a time."""
        yield from self.connection.execute(statement, execution_options={"yield_per": ROWS})

    def rows(
        self,
        table: Table,
        names: tuple[str, ...],
        wanted: Sequence[dict[str, Any]],
        condition: ColumnElement[bool] | None = None,
    ) -> Sequence[Row[Any]]:
        """Return the rows that have the values of one of `wanted`, of which there is an index."""
        if not wanted:
            return []
        dialect = self.connection.dialect.name
        by = columns_named(table, tuple(wanted[0]))
        statement = _select(dialect, table, names, by, condition)
        return self.connection.execute(statement, parameters(dialect, by, wanted)).all()

    def find(
        self,
        table: Table,
        kind: type[T],
        wanted: Sequence[dict[str, Any]],
        wrong: list[Difference],
        *subject: str,
        condition: ColumnElement[bool] | None = None,
    ) -> list[T]:
        """Return those `rows` that can be read; add what is wrong with the others to `wrong`."""
        rows = self.rows(table, kind._fields, wanted, condition)
        return [kind._make(row) for row in sound(table, rows, wrong, *subject or ("id",))]

    def serving(self, card_ids: Iterable[UUID], wrong: list[Difference]) -> dict[UUID, list[Token]]:
        """Return the tokens of cards that were neither spent nor revoked, by their card."""
        serving: dict[UUID, list[Token]] = {}
        wanted = [{"card": id} for id in card_ids]
        for token in self.find(tokens, Token, wanted, wrong, condition=token_is_usable):
            serving.setdefault(token.card, []).append(token)
        return serving

    def count(self, table: Table) -> int:
        return int(self.connection.execute(select(func.count()).select_from(table)).scalar_one())

    def bytewise(self, column: Column[Any]) -> ColumnElement[Any]:
        """Return what sorts texts as Python does."""
        return column.collate("C") if self.connection.dialect.name == "postgresql" else column


@cache
def slice_of(table: Table, names: tuple[str, ...], *, is_first: bool) -> Select[Any]:
    key = tuple(table.primary_key)
    columns = [as_stored(table.c[name]) for name in names]
    keys = [as_stored(c).label(f"key_{place}") for place, c in enumerate(key)]
    statement = select(*columns, *keys).order_by(*key).limit(ROWS)
    if is_first:
        return statement
    last = (bindparam(f"last_{place}", type_=c.type) for place, c in enumerate(key))
    return statement.where(tuple_(*key) > tuple_(*last))


@cache
def _select(
    dialect: str,
    table: Table,
    names: tuple[str, ...],
    by: Columns,
    condition: ColumnElement[bool] | None,
) -> Select[Any]:
    source = json_table(dialect, by)
    statement = select(*(as_stored(table.c[name]) for name in names))
    statement = statement.join(source, matching(table, source))
    return statement if condition is None else statement.where(condition)


def sound(
    table: Table, rows: Iterable[Row[Any]], wrong: list[Difference], *subject: str
) -> list[Row[Any]]:
    """Return the rows all of whose columns hold a value of their type; add the others to `wrong`.

    `subject` names the columns that say which row it is.
    """
    found = []
    for row in rows:
        if any(isinstance(value, Unreadable) for value in row):
            wrong += _unreadable(table, row, subject)
        else:
            found.append(row)
    return found


def _unreadable(table: Table, row: Row[Any], subject: tuple[str, ...]) -> Iterator[Difference]:
    account = row._mapping.get("account_id", "")
    where = "/".join(str(row._mapping[name]) for name in subject)
    for name, value in row._mapping.items():
        if isinstance(value, Unreadable) and name in table.c:
            kind = type(table.c[name].type).__name__
            wrong = Wrong(f"{table.name}.{name}", value, f"a value of type {kind}")
            yield difference("columns_hold_their_type", account, where, wrong)
