"""The rows of files about batches, and their parts."""

import base64
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, delete, insert, or_, select, update

from card_worker.domain.rows import File
from card_worker.storage.engine import reading
from card_worker.storage.json_rows import columns_named
from card_worker.storage.pipeline import send
from card_worker.storage.tables import file_is_unwritten, file_parts, files

PART_BYTES = 1024 * 1024
RETRY_MIN, RETRY_MAX = timedelta(seconds=1), timedelta(hours=1)
REWRITE_REQUESTED = "it was requested again"
_COLUMNS = columns_named(files, File._fields)
_INSERT_PART = insert(file_parts)


def find_files(connection: Connection, account_id: str, batch_id: str) -> list[File]:
    """Return the files of a batch, the oldest first."""
    statement = select(*_COLUMNS).where(
        files.c.account_id == account_id, files.c.batch_id == batch_id
    )
    rows = connection.execute(statement.order_by(files.c.created_at, files.c.name))
    return [File._make(row) for row in rows]


def find_unwritten(
    connection: Connection, now: datetime, except_names: Collection[str]
) -> File | None:
    """Return the oldest file that is not written and whose next attempt is due."""
    next_attempt_at = files.c.next_attempt_at
    # A time beyond the longest pause was stored before the clock was set back.
    is_due = or_(
        next_attempt_at.is_(None), next_attempt_at <= now, next_attempt_at > now + RETRY_MAX
    )
    statement = select(*_COLUMNS).where(
        file_is_unwritten,
        files.c.name.not_in(except_names),
        is_due,
    )
    row = connection.execute(statement.order_by(files.c.created_at, files.c.name).limit(1)).first()
    return None if row is None else File._make(row)


def insert_file(connection: Connection, file: File) -> None:
    """Insert a file whose parts were inserted."""
    connection.execute(insert(files).values(file._asdict()))


class PartsWriter:
    """Inserts the parts of a file while its bytes are written."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self.name = name
        self._buffer = bytearray()
        self._parts = 0
        self._sum = sha256()
        self.bytes = 0

    @property
    def sha256(self) -> str:
        return self._sum.hexdigest()

    def write(self, content: bytes) -> None:
        self._buffer += content
        self._sum.update(content)
        self.bytes += len(content)
        if len(self._buffer) >= PART_BYTES:
            self.finish()

    def finish(self) -> None:
        """Insert the rest of the bytes."""
        if self._buffer:
            self._parts += 1
            text = base64.b64encode(self._buffer).decode("ascii")
            row = {"name": self.name, "number": self._parts, "content": text}
            send(self._connection, _INSERT_PART, row)
            self._buffer.clear()


def read_parts(engine: Engine, file: File) -> Iterator[bytes]:
    """Yield the content of a file; one part is in memory at a time."""
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


def request_rewrite(connection: Connection, file: File) -> None:
    """Request that a file is written again, even if a worker is writing it now."""
    reset = {"written_at": None, "attempts": 0, "next_attempt_at": None}
    _update(connection, file, last_error=REWRITE_REQUESTED, **reset)


def mark_started(connection: Connection, file: File) -> None:
    """Store that a worker writes a file: requests until now are done with that."""
    _update(connection, file, files.c.last_error == REWRITE_REQUESTED, last_error=None)


def mark_written(connection: Connection, file: File, now: datetime) -> bool:
    """Store that a file is written; False if it was requested again since that was started."""
    is_current = files.c.last_error.is_distinct_from(REWRITE_REQUESTED)
    return _update(connection, file, is_current, written_at=now, last_error=None)


def mark_failed(connection: Connection, file: File, now: datetime, why: str) -> None:
    """Store why a file could not be written, and when the next attempt is due.

    The pause doubles with each attempt, from RETRY_MIN to RETRY_MAX.
    """
    count = select(files.c.attempts).where(files.c.name == file.name)
    attempts = int(connection.execute(count).scalar_one())
    next_at = now + min(RETRY_MIN * 2 ** min(attempts, 20), RETRY_MAX)
    _update(connection, file, last_error=why, attempts=attempts + 1, next_attempt_at=next_at)


def mark_confirmed(connection: Connection, file: File, now: datetime) -> None:
    """Store that a file has arrived, and delete its parts."""
    _update(connection, file, confirmed_at=now)
    connection.execute(delete(file_parts).where(file_parts.c.name == file.name))


def _update(
    connection: Connection, file: File, *conditions: ColumnElement[bool], **values: Any
) -> bool:
    """Update a file if it fulfils the conditions; say whether it did."""
    statement = update(files).where(files.c.name == file.name, *conditions)
    return connection.execute(statement.values(values)).rowcount == 1
