"""Column types with the same meaning in PostgreSQL and in SQLite's STRICT tables."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar
from uuid import UUID

from sqlalchemy import BigInteger, Boolean, Integer, Text, TypeDecorator
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from card_worker.contracts.fields import read_time
from card_worker.contracts.json_text import write_json, write_time

WholeNumber = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits."""

Sortable = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
"""Text that is sorted by code points, as in Python, and not by the rules of a language."""


class _OneOrZero(TypeDecorator[bool]):
    impl = Integer
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> bool | None:
        return None if value is None else bool(value)


Flag = Boolean().with_variant(_OneOrZero(), "sqlite")
"""True or false; stored as 1 or 0 in SQLite, whose strict tables have no type for it."""


class UtcTime(TypeDecorator[datetime]):
    """A time with milliseconds. SQLite stores it as text that sorts in the order of time."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.TIMESTAMP(timezone=True))
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return write_time(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        if dialect.name == "postgresql":
            return lambda value: None if value is None else value.astimezone(UTC)
        return lambda value: None if value is None else read_time(value)


class Uuid(TypeDecorator[UUID]):
    """A UUID; text in SQLite."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.UUID(as_uuid=True))
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: UUID | None, dialect: Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else str(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        # PostgreSQL's driver returns UUIDs; a check of each of a million values takes long.
        if dialect.name == "postgresql":
            return None
        return super().result_processor(dialect, coltype)

    def process_result_value(self, value: Any, dialect: Dialect) -> UUID | None:
        return UUID(value) if isinstance(value, str) else value


class JsonText(TypeDecorator[Any]):
    """JSON, stored as text and unchanged."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else write_json(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


class JsonLine(TypeDecorator[str]):
    """JSON as text. It has no control characters, so that these can separate texts."""

    impl = Text
    cache_ok = True


E = TypeVar("E", bound=StrEnum)


class EnumText(TypeDecorator[E], Generic[E]):
    """A value of an enum."""

    impl = Text
    cache_ok = True

    def __init__(self, enum: type[E]) -> None:
        super().__init__()
        self.enum = enum
        self._by_value: dict[str | None, E | None] = {each.value: each for each in enum}
        self._by_value[None] = None

    def process_bind_param(self, value: E | None, dialect: Dialect) -> str | None:
        return None if value is None else value.value

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        return self._by_value.__getitem__
