"""Locks by name that end with the commit that has taken them, whatever ends that."""

from zlib import crc32

from sqlalchemy import Connection, func, select


def try_lock(connection: Connection, name: str) -> bool:
    """Take the lock called `name` until the end of the commit; False when another commit has it.

    SQLite has one writing commit at a time, so there it is always free.
    """
    if connection.dialect.name != "postgresql":
        return True
    taken = select(func.pg_try_advisory_xact_lock(crc32(name.encode())))
    return bool(connection.execute(taken).scalar_one())
