"""The rows of files about batches: which wait to be put in place, and which have arrived."""

import base64
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from functools import cache
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Engine, Select, bindparam, delete, insert, or_, select, update

from card_worker.domain.rows import File
from card_worker.storage.engine import reading
from card_worker.storage.json_rows import columns_named, json_table, parameters
from card_worker.storage.pipeline import send
from card_worker.storage.tables import file_parts, files
from card_worker.storage.types import UtcTime

PART_BYTES = 1024 * 1024
RETRY_MIN, RETRY_MAX = timedelta(seconds=1), timedelta(hours=1)
WANTED_AGAIN = "it is wanted once more"
_COLUMNS = columns_named(files, File._fields)
_ADD_PART = insert(file_parts)


def find_files(connection: Connection, account_id: str, batch_id: str) -> list[File]:
    """Return the files of a batch, the oldest first."""
    statement = select(*_COLUMNS).where(
        files.c.account_id == account_id, files.c.batch_id == batch_id
    )
    rows = connection.execute(statement.order_by(files.c.created_at, files.c.name))
    return [File._make(row) for row in rows]


def first_waiting(connection: Connection, now: datetime, but: Collection[str]) -> File | None:
    """Return the oldest file that is to be put in place and whose next try is due.

    Files named in `but` are left out.
    """
    dialect = connection.dialect.name
    values = parameters(dialect, (files.c.name,), [{"name": name} for name in but])
    times = {"now": now, "latest": now + RETRY_MAX}
    rows = send(connection, _select_first_waiting(dialect), {**values, **times})()
    return File._make(rows[0]) if rows else None


@cache
def _select_first_waiting(dialect: str) -> Select[Any]:
    passed = select(json_table(dialect, (files.c.name,)).c.name)
    next_try_at = files.c.next_try_at
    # A time beyond the longest pause was written before the clock was set back.
    is_due = or_(
        next_try_at.is_(None),
        next_try_at <= bindparam("now", type_=UtcTime()),
        next_try_at > bindparam("latest", type_=UtcTime()),
    )
    statement = select(*_COLUMNS).where(
        files.c.written_at.is_(None),
        files.c.confirmed_at.is_(None),
        files.c.name.not_in(passed),
        is_due,
    )
    return statement.order_by(files.c.created_at, files.c.name).limit(1)


def add(connection: Connection, file: File) -> None:
    """Add a file whose parts are there."""
    connection.execute(insert(files).values(file._asdict()))


class PartsWriter:
    """What takes the bytes of a file as they come and adds its parts."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self.name = name
        self._waiting = bytearray()
        self._parts = 0
        self._sum = sha256()
        self.bytes = 0

    @property
    def sha256(self) -> str:
        return self._sum.hexdigest()

    def write(self, content: bytes) -> None:
        self._waiting += content
        self._sum.update(content)
        self.bytes += len(content)
        if len(self._waiting) >= PART_BYTES:
            self.finish()

    def finish(self) -> None:
        """Add what is still waiting."""
        if self._waiting:
            self._parts += 1
            text = base64.b64encode(self._waiting).decode("ascii")
            row = {"name": self.name, "number": self._parts, "content": text}
            send(self._connection, _ADD_PART, row)
            self._waiting.clear()


def parts(engine: Engine, file: File) -> Iterator[bytes]:
    """Yield what a file holds, a part in memory at a time."""
    last = 0
    while True:
        statement = select(file_parts.c.number, file_parts.c.content).where(
            file_parts.c.name == file.name, file_parts.c.number > last
        )
        with reading(engine) as connection:
            row = connection.execute(statement.order_by(file_parts.c.number).limit(1)).first()
        if row is None:
            return
        last, content = row
        yield base64.b64decode(content)


def wanted_again(connection: Connection, file: File) -> None:
    """Note that a file has to be put in its place once more, also if somebody is just at it."""
    statement = update(files).where(files.c.name == file.name)
    again = {"written_at": None, "last_error": WANTED_AGAIN, "tries": 0, "next_try_at": None}
    connection.execute(statement.values(again))


def begun(connection: Connection, file: File) -> None:
    """Note that somebody is at a file, and will be done with what was wanted until now."""
    statement = update(files).where(files.c.name == file.name, files.c.last_error == WANTED_AGAIN)
    connection.execute(statement.values(last_error=None))


def written(connection: Connection, file: File, now: datetime) -> bool:
    """Note that a file is in its place, unless it is wanted once more since it was begun."""
    statement = update(files).where(
        files.c.name == file.name, files.c.last_error.is_distinct_from(WANTED_AGAIN)
    )
    return connection.execute(statement.values(written_at=now, last_error=None)).rowcount == 1


def not_written(connection: Connection, file: File, now: datetime, why: str) -> None:
    """Note why a file couldn't be put in its place, and when to try again.

    The pause doubles with each try, from RETRY_MIN to RETRY_MAX.
    """
    named = files.c.name == file.name
    tries = int(connection.execute(select(files.c.tries).where(named)).scalar_one())
    pause = min(RETRY_MIN * 2 ** min(tries, 20), RETRY_MAX)
    changed = {"last_error": why, "tries": tries + 1, "next_try_at": now + pause}
    connection.execute(update(files).where(named).values(changed))


def confirmed(connection: Connection, file: File, now: datetime) -> None:
    """Note that a file has arrived. What it holds is gone from here."""
    connection.execute(update(files).where(files.c.name == file.name).values(confirmed_at=now))
    connection.execute(delete(file_parts).where(file_parts.c.name == file.name))
