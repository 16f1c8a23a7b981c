"""Locks with names that a commit holds until it ends, however it ends."""

from zlib import crc32

from sqlalchemy import Connection, func, select


def try_lock(connection: Connection, name: str) -> bool:
    """Take the lock `name` until the end of the commit; False if another commit holds it.

    SQLite has one writing commit at a time, so there the lock is always free.
    """
    if connection.dialect.name != "postgresql":
        return True
    taken = select(func.pg_try_advisory_xact_lock(crc32(name.encode())))
    return bool(connection.execute(taken).scalar_one())
