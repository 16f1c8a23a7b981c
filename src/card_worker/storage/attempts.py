"""The attempts of each source: how many, and how many were wrong, in windows of ten minutes."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, update

from card_worker.domain.attempts import Tally
from card_worker.storage.json_rows import find, parameters, upsert_rows
from card_worker.storage.pipeline import Pending, send
from card_worker.storage.tables import source_attempts


class Stored(NamedTuple):
    """The attempts of a source as they are stored."""

    source: str
    attempts: int
    wrong: int
    is_reported: bool
    """Whether it was logged that the limit was reached in the window."""

    @property
    def tally(self) -> Tally:
        return Tally(self.attempts, self.wrong)


def find_attempts(
    connection: Connection, sources: Iterable[str], began_at: datetime
) -> Pending[dict[str, Tally]]:
    """Find the attempts of sources in the window that began then, without a lock."""
    keys = [{"began_at": began_at, "source": source} for source in sources]
    found = find(connection, source_attempts, Stored._fields, keys)
    return lambda: {row[0]: Stored._make(row).tally for row in found()}


def add_attempts(
    connection: Connection, made: Mapping[str, Tally], began_at: datetime
) -> list[Stored]:
    """Add the attempts of a commit; return what is stored now.

    It is among the commit's last statements, as it locks the rows.
    """
    if not made:
        return []
    rows = [
        {"began_at": began_at, "source": source, **tally._asdict(), "is_reported": False}
        for source, tally in sorted(made.items())
    ]
    dialect, columns = connection.dialect.name, tuple(source_attempts.c)
    added = send(connection, _add(dialect), parameters(dialect, columns, rows))
    return [Stored._make(row) for row in added()]


@cache
def _add(dialect: str) -> Any:
    added = upsert_rows(dialect, source_attempts, tuple(source_attempts.c))
    return added.on_conflict_do_update(
        index_elements=list(source_attempts.primary_key),
        set_={
            name: source_attempts.c[name] + added.excluded[name] for name in ("attempts", "wrong")
        },
    ).returning(*(source_attempts.c[name] for name in Stored._fields))


def mark_reported(connection: Connection, source: str, began_at: datetime) -> None:
    """Store that it was logged that a source has reached its limit."""
    is_row = (source_attempts.c.began_at == began_at) & (source_attempts.c.source == source)
    connection.execute(update(source_attempts).where(is_row).values(is_reported=True))


def delete_attempts(connection: Connection, before: datetime) -> None:
    """Delete the attempts in windows that began before a time."""
    connection.execute(delete(source_attempts).where(source_attempts.c.began_at < before))
