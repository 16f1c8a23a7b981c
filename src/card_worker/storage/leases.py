"""Leases: at most one process at a time holds the lease of a name.

The holder increments a counter while it works. Other processes measure, with their own monotonic
clocks, for how long the counter has not changed. So no step of a clock, the database's or a
machine's, keeps an abandoned lease held or takes a lease from its holder.
"""

from typing import NamedTuple

from sqlalchemy import Connection, and_, delete, or_, select

from card_worker.storage.json_rows import columns_named, upsert
from card_worker.storage.tables import leases

RELAY = "relay"
"""The lease of the relay that publishes."""
ABANDONED_S = 10.0
"""A lease whose counter has not changed for so long is abandoned."""


class Lease(NamedTuple):
    """A lease as it is stored."""

    holder: str
    renewals: int
    position: int | None
    """The progress of the holder, if it stores any."""


Seen = dict[str, tuple[Lease, float]]
"""The leases that other processes hold, with the time at which this process first saw them so."""
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
    """Take or renew a lease; say whether `holder` has it.

    `at` is the time of this machine's monotonic clock. A process takes an abandoned lease only if
    it has seen the same counter ABANDONED_S before, so it has to call this repeatedly. `position`
    is stored as the progress of the holder.
    """
    row = upsert(connection.dialect.name, leases).values(
        name=name, holder=holder, renewals=1, position=position
    )
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
    """Release a lease, so that another process can take it at once."""
    connection.execute(delete(leases).where(leases.c.name == name, leases.c.holder == holder))


def find(connection: Connection, name: str) -> Lease | None:
    """Return a lease, abandoned or not; None if nobody has taken it."""
    statement = select(*columns_named(leases, Lease._fields)).where(leases.c.name == name)
    row = connection.execute(statement).first()
    return None if row is None else Lease._make(row)
