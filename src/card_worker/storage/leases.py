"""Leases: which one of several processes does a thing that one should do at a time.

The holder of a lease counts it up while it is at work. Whoever else wants it judges by a monotonic
clock of its own how long the count has not changed. So neither a step of the database's clock nor
one of any machine's keeps a lease held that nobody holds, or takes it from its holder.
"""

from typing import NamedTuple

from sqlalchemy import Connection, and_, delete, or_, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from card_worker.storage.tables import leases

ABANDONED_S = 10.0
"""Nobody holds a lease any more whose count has not changed for so long."""


class Held(NamedTuple):
    """A lease as it stands in the database."""

    holder: str
    renewals: int
    position: int | None
    """How far the holder has come, if it says so."""


Seen = dict[str, tuple[Held, float]]
"""The leases that others hold, as this process saw them, and since when they have been so."""
_SEEN: Seen = {}


def take(
    connection: Connection,
    name: str,
    holder: str,
    *,
    at: float,
    position: int | None = None,
    seen: Seen = _SEEN,
) -> bool:
    """Say whether `holder` has the lease called `name` from now on; for its holder, count it up.

    `at` is the time of this machine's monotonic clock. A lease is taken from its holder only by a
    process that has seen the same count ABANDONED_S before, so ask again from time to time.
    `position` says how far the holder has come.
    """
    upsert = postgresql_insert if connection.dialect.name == "postgresql" else sqlite_insert
    row = upsert(leases).values(name=name, holder=holder, renewals=1, position=position)
    held, since = seen.get(name, (None, at))
    free = leases.c.holder == holder
    if held is not None and at - since >= ABANDONED_S:
        free = or_(free, and_(leases.c.holder == held.holder, leases.c.renewals == held.renewals))
    statement = row.on_conflict_do_update(
        index_elements=[leases.c.name],
        set_={
            "holder": row.excluded.holder,
            "renewals": leases.c.renewals + 1,
            "position": row.excluded.position,
        },
        where=free,
    ).returning(leases.c.name)
    if connection.execute(statement).first() is not None:
        seen.pop(name, None)
        return True
    now_held = find(connection, name)
    if now_held is not None and now_held != held:
        seen[name] = (now_held, at)
    return False


def release(connection: Connection, name: str, holder: str) -> None:
    """Let the next one have it at once."""
    connection.execute(delete(leases).where(leases.c.name == name, leases.c.holder == holder))


def find(connection: Connection, name: str) -> Held | None:
    """Return who holds the lease called `name`, alive or not; None when nobody does."""
    columns = (leases.c.holder, leases.c.renewals, leases.c.position)
    statement = select(*columns).where(leases.c.name == name)
    row = connection.execute(statement).first()
    return None if row is None else Held._make(row)
