"""Until when the books are settled: no commit that is still open can add to them before that."""

import time
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, Engine, text

from card_worker.storage.engine import begin, reading

MARGIN = timedelta(minutes=1)
"""Clocks may go back a little; and what a commit stores may have the time of its first statement,
although it began to write later."""
WAIT_S = 30.0
"""The longest wait for commits of which this login may not see when they began."""
_POLL_S = 0.2

# Everybody may see which sessions write, but only some logins since when.
_OPEN = text("""
    SELECT date_trunc('milliseconds', clock_timestamp()), pg_is_in_recovery(), min(xact_start),
        array_remove(array_agg(CASE WHEN xact_start IS NULL THEN CAST(backend_xid AS text) END),
            NULL)
    FROM pg_stat_activity
    WHERE datname = current_database() AND backend_xid IS NOT NULL AND pid <> pg_backend_pid()
""")


class Settled(NamedTuple):
    """The time of the database's clock, and until when the books are settled.

    A transaction that a later snapshot does not show was posted after `until`.
    """

    now: datetime
    until: datetime


class NotSettled(Exception):
    """It can't be found out until when the books are settled. The text is one line."""


def settled(engine: Engine) -> Settled:
    """Return until when the books are settled. Raises NotSettled."""
    if engine.dialect.name != "postgresql":
        # It has one writer at a time, which has ended when the next commit opens.
        with begin(engine) as (_, now):
            return Settled(now, now - MARGIN)
    with reading(engine) as connection:
        now, is_replica, oldest, hidden = _look(connection)
        if is_replica:
            raise NotSettled("a replica does not know which commits are open; use the primary")
        waits_until, waits_for = time.monotonic() + WAIT_S, set(hidden)
        while waits_for and time.monotonic() < waits_until:
            time.sleep(_POLL_S)
            waits_for &= set(_look(connection)[-1])
    if waits_for:
        raise NotSettled(
            "a commit is open for more than 30 s, and this login may not see since when; try again"
            " later, or with a login that is a member of pg_read_all_stats"
        )
    first = now if oldest is None else min(now, oldest.astimezone(UTC))
    return Settled(now, first - MARGIN)


def _look(connection: Connection) -> tuple[datetime, bool, datetime | None, list[str]]:
    """Return the time, whether this is a replica, since when the oldest commit of those that this
    login may see is open, and the ids of the others."""
    ((now, is_replica, oldest, hidden),) = connection.execute(_OPEN)
    connection.rollback()  # what a session sees of others does not change within a transaction
    return now.astimezone(UTC), is_replica, oldest, hidden or []
