"""The rows of sealed files: which wait to be put in place, and which have arrived."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, select, tuple_, update

from card_worker.domain.rows import File
from card_worker.storage.finding import columns_named
from card_worker.storage.tables import files


def find_file(connection: Connection, account_id: str, batch_id: str) -> File | None:
    """Return the file of a batch, if it has one."""
    statement = select(*columns_named(files, File._fields))
    statement = statement.where(files.c.account_id == account_id, files.c.batch_id == batch_id)
    row = connection.execute(statement).first()
    return None if row is None else File._make(row)


def unwritten(
    connection: Connection, files_max: int, but: Collection[tuple[str, str]] = ()
) -> list[File]:
    """Return files that wait to be put in place, the oldest first, locked until the commit.

    Without those that another commit is at, and without those named by (account_id, batch_id).
    """
    statement = select(*columns_named(files, File._fields))
    statement = statement.where(files.c.written_at.is_(None), files.c.confirmed_at.is_(None))
    if but:
        statement = statement.where(tuple_(files.c.account_id, files.c.batch_id).not_in(but))
    statement = statement.order_by(files.c.created_at).limit(files_max)
    return [
        File._make(row) for row in connection.execute(statement.with_for_update(skip_locked=True))
    ]


def written(connection: Connection, file: File, now: datetime | None) -> None:
    """Note that a file is in its place; None: that it has to be put there again."""
    connection.execute(update(files).where(_is(file)).values(written_at=now))


def confirmed(connection: Connection, file: File, now: datetime) -> None:
    """Note that a file has arrived. What was sealed in it is gone from here."""
    connection.execute(update(files).where(_is(file)).values(sealed=None, confirmed_at=now))


def _is(file: File) -> ColumnElement[bool]:
    return (files.c.account_id == file.account_id) & (files.c.batch_id == file.batch_id)
