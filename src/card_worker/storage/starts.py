"""Counted starts of messages that may be what kills their workers."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, FromClause, Update, bindparam, case, null, select, update

from card_worker.storage.json_rows import delete_rows, parameters, send_with_rows, upsert_rows
from card_worker.storage.pipeline import send
from card_worker.storage.tables import starts
from card_worker.storage.types import Flag


class Start(NamedTuple):
    """A start of a message, and the number of workers that have died of it before."""

    message_key: str
    deaths: int


def count_starts(
    connection: Connection, started: Sequence[Start], now: datetime, *, failed: bool = False
) -> list[int]:
    """Count starts of messages that follow this commit; return the number of starts of each.

    It is committed before the starts, so that a message that kills its process is counted too. A
    start replaces the last one if that neither killed its worker nor `failed`: then the worker
    itself broke it off.
    """
    deaths = {start.message_key: start.deaths for start in started}
    rows = [
        {"message_key": key, "starts": 1, "started_at": now, "deaths": deaths[key]}
        for key in sorted(deaths)
    ]
    dialect = connection.dialect.name
    values = parameters(dialect, tuple(starts.columns), rows)
    counted = send(connection, _count(dialect), {**values, "failed": failed})()
    counts: dict[str, int] = dict(counted)
    return [counts[start.message_key] for start in started]


@cache
def _count(dialect: str) -> Any:
    row = upsert_rows(dialect, starts, tuple(starts.columns))
    new, failed = row.excluded, bindparam("failed", type_=Flag)
    is_over = starts.c.deaths.is_(None) | (starts.c.deaths < new.deaths) | failed
    changed = {
        "starts": case((is_over, starts.c.starts + 1), else_=starts.c.starts),
        "started_at": new.started_at,
        "deaths": new.deaths,
    }
    counted = row.on_conflict_do_update(index_elements=[starts.c.message_key], set_=changed)
    return counted.returning(starts.c.message_key, starts.c.starts)


def uncount_starts(connection: Connection, message_keys: Sequence[str]) -> None:
    """Do not count the last start of each message: it did not fail because of the message."""
    send_with_rows(connection, _uncount, starts, [{"message_key": key} for key in message_keys])


def _uncount(source: FromClause) -> Update:
    is_counted = starts.c.message_key.in_(select(source)) & starts.c.deaths.is_not(None)
    return update(starts).where(is_counted).values(starts=starts.c.starts - 1, deaths=null())


def forget_starts(connection: Connection, message_keys: Sequence[str]) -> None:
    """Delete the counts of messages that are done, or that an operator sends again."""
    delete_rows(connection, starts, [{"message_key": key} for key in message_keys])
