"""Cards and holds that have expired, locked until the commit; rows locked elsewhere are skipped."""

from datetime import datetime
from functools import cache
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from sqlalchemy import Connection, Integer, Select, bindparam, literal, select, tuple_

from card_worker.domain.rows import Hold, State
from card_worker.storage.json_rows import columns_named
from card_worker.storage.pipeline import send
from card_worker.storage.tables import cards, holds, is_open
from card_worker.storage.types import UtcTime, Uuid

After: TypeAlias = tuple[datetime, UUID]
"""The expires_at and the id of a row behind which a slice begins."""


class DueCard(NamedTuple):
    """What has to be known of a card to ask for its expiry."""

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
    """Return up to `cards_max` active cards whose time has passed, the longest past first.

    `after` is where the last slice ended. The cards are locked; those that another commit holds
    are left for the next look.
    """
    values = {"now": now, "cards_max": cards_max}
    if after is not None:
        values |= dict(zip(("last_expires_at", "last_id"), after, strict=True))
    statement = _select_due_cards(is_first=after is None)
    return [DueCard._make(row) for row in send(connection, statement, values)()]


@cache
def _select_due_cards(*, is_first: bool) -> Select[Any]:
    now = bindparam("now", type_=UtcTime())
    statement = select(*columns_named(cards, DueCard._fields))
    statement = statement.where(cards.c.state == State.ACTIVE, cards.c.expires_at <= now)
    if not is_first:
        last = bindparam("last_expires_at", type_=UtcTime()), bindparam("last_id", type_=Uuid())
        statement = statement.where(tuple_(cards.c.expires_at, cards.c.id) > tuple_(*last))
    statement = statement.order_by(cards.c.expires_at, cards.c.id)
    return statement.limit(bindparam("cards_max", type_=Integer())).with_for_update(
        skip_locked=True
    )


def due_holds(
    connection: Connection, now: datetime, holds_max: int, after: After | None = None
) -> list[Hold]:
    """Return up to `holds_max` open holds whose time has passed, the longest past first.

    `after` is where the last slice ended. Their cards are locked; those whose cards another commit
    holds are left for the next look.
    """
    statement = select(*columns_named(holds, Hold._fields)).join(cards, cards.c.id == holds.c.card)
    statement = statement.where(is_open, holds.c.expires_at <= now)
    if after is not None:
        place = tuple_(holds.c.expires_at, holds.c.id)
        last = literal(after[0], UtcTime()), literal(after[1], Uuid())
        statement = statement.where(place > tuple_(*last))
    statement = statement.order_by(holds.c.expires_at, holds.c.id).limit(holds_max)
    rows = connection.execute(statement.with_for_update(skip_locked=True, of=cards))
    return [Hold._make(row) for row in rows]
