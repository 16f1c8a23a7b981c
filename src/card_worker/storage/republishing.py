"""Publishing events of the outbox again, in their order: for a stream that was lost, or another."""

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, select, true

from card_worker.contracts.enums import EventType
from card_worker.storage.engine import lock
from card_worker.storage.json_rows import columns_named, upsert
from card_worker.storage.outbox import Unpublished
from card_worker.storage.retention import LOCK, PRUNED_TO
from card_worker.storage.tables import outbox, unpublished

_HAS_CONTENT = outbox.c.position > PRUNED_TO


class Selection(NamedTuple):
    """Which events: those that meet all conditions that are given."""

    since: datetime | None = None
    account_id: str | None = None
    card_id: str | None = None
    types: Collection[EventType] = ()
    ids: Collection[UUID] = ()

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = []
        if self.since is not None:
            found.append(outbox.c.created_at >= self.since)
        if self.account_id is not None:
            found.append(outbox.c.account_id == self.account_id)
        if self.card_id is not None:
            found.append(outbox.c.subject == self.card_id)
        if self.types:
            found.append(outbox.c.type.in_(self.types))
        if self.ids:
            found.append(outbox.c.id.in_(self.ids))
        return found


def request(connection: Connection, selection: Selection) -> int:
    """Let the relay publish events again; return how many didn't wait for it already.

    It publishes them in the order of the outbox, and before all events that are newer.
    """
    lock(connection, LOCK)
    conditions = *selection.conditions, _HAS_CONTENT
    positions = select(outbox.c.position, true()).where(*conditions)
    insert = upsert(connection.dialect.name, unpublished).from_select(
        ["position", "again"], positions
    )
    counted = connection.execution_options(preserve_rowcount=True)
    return counted.execute(insert.on_conflict_do_nothing()).rowcount


def read(connection: Connection, selection: Selection, slice_rows: int) -> Iterator[Unpublished]:
    """Yield events in the order of the outbox; `slice_rows` are in memory at a time."""
    statement = select(*columns_named(outbox, Unpublished._fields))
    statement = statement.where(*selection.conditions, _HAS_CONTENT)
    rows = connection.execution_options(yield_per=slice_rows).execute(
        statement.order_by(outbox.c.position)
    )
    yield from map(Unpublished._make, rows)
