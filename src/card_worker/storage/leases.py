"""Leases: which one of several processes does a thing that one should do at a time."""

from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, or_, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from card_worker.storage.tables import leases


def take(connection: Connection, name: str, holder: str, now: datetime, seconds: float) -> bool:
    """Say whether `holder` has the lease called `name` from now on for `seconds`.

    True for who has it already, and for anyone when nobody has or it has run out.
    """
    upsert = postgresql_insert if connection.dialect.name == "postgresql" else sqlite_insert
    until = now + timedelta(seconds=seconds)
    row = upsert(leases).values(name=name, holder=holder, expires_at=until)
    statement = row.on_conflict_do_update(
        index_elements=[leases.c.name],
        set_={"holder": row.excluded.holder, "expires_at": row.excluded.expires_at},
        where=or_(leases.c.holder == holder, leases.c.expires_at <= now),
    ).returning(leases.c.name)
    return connection.execute(statement).first() is not None


def release(connection: Connection, name: str, holder: str) -> None:
    """Let the next one have it at once."""
    connection.execute(delete(leases).where(leases.c.name == name, leases.c.holder == holder))


def expires_at(connection: Connection, name: str) -> datetime | None:
    """Return until when the lease called `name` is held; None when nobody ever took it."""
    return connection.execute(
        select(leases.c.expires_at).where(leases.c.name == name)
    ).scalar_one_or_none()
