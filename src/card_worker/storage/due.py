"""Cards and holds that are due to expire, locked until the commit; locked rows are skipped."""

from datetime import datetime
from functools import cache
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from sqlalchemy import Connection, Integer, Select, Table, bindparam, select, tuple_

from card_worker.domain.rows import Hold, State
from card_worker.storage.json_rows import columns_named
from card_worker.storage.pipeline import Rows, send
from card_worker.storage.tables import cards, hold_is_open, holds
from card_worker.storage.types import UtcTime, Uuid

After: TypeAlias = tuple[datetime, UUID]
"""The expires_at and the id of the last row of the slice before."""


class DueCard(NamedTuple):
    """The columns of a card from which the command for its expiry is made."""

    id: UUID
    account_id: str
    card_id: str
    version: int
    expires_at: datetime

    @property
    def card(self) -> UUID:
        return self.id


def due_cards(
    connection: Connection, now: datetime, cards_max: int, after: After | None = None
) -> list[DueCard]:
    """Return up to `cards_max` active cards that are due, the earliest first, and lock them.

    `after` is where the slice before ended. Cards that another commit has locked are skipped.
    """
    return [DueCard._make(row) for row in _due(connection, cards, now, cards_max, after)]


def due_holds(
    connection: Connection, now: datetime, holds_max: int, after: After | None = None
) -> list[Hold]:
    """Return up to `holds_max` open holds that are due, the earliest first, and lock their cards.

    `after` is where the slice before ended. Holds whose cards another commit has locked are
    skipped.
    """
    return [Hold._make(row) for row in _due(connection, holds, now, holds_max, after)]


def _due(
    connection: Connection, table: Table, now: datetime, rows_max: int, after: After | None
) -> Rows:
    values: dict[str, Any] = {"now": now, "rows_max": rows_max}
    if after is not None:
        values |= dict(zip(("last_expires_at", "last_id"), after, strict=True))
    return send(connection, _select_due(table, is_first=after is None), values)()


@cache
def _select_due(table: Table, *, is_first: bool) -> Select[Any]:
    if table is cards:
        statement = select(*columns_named(cards, DueCard._fields))
        statement = statement.where(cards.c.state == State.ACTIVE)
    else:
        statement = select(*columns_named(holds, Hold._fields))
        statement = statement.join(cards, cards.c.id == holds.c.card).where(hold_is_open)
    statement = statement.where(table.c.expires_at <= bindparam("now", type_=UtcTime()))
    if not is_first:
        last = bindparam("last_expires_at", type_=UtcTime()), bindparam("last_id", type_=Uuid())
        statement = statement.where(tuple_(table.c.expires_at, table.c.id) > tuple_(*last))
    statement = statement.order_by(table.c.expires_at, table.c.id)
    statement = statement.limit(bindparam("rows_max", type_=Integer()))
    return statement.with_for_update(skip_locked=True, of=cards)
