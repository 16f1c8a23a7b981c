"""What is sent to a database, statement by statement."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event

from card_worker.storage.bulk_write import SLICE


@contextmanager
def counting(engine: Engine) -> Iterator[list[str]]:
    """Note each statement that is executed meanwhile."""
    said: list[str] = []
    if engine.dialect.name == "postgresql":
        execute = psycopg.Cursor.execute

        def note(cursor: Any, statement: Any, *args: Any, **kwargs: Any) -> Any:
            said.append(statement)
            return execute(cursor, statement, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(psycopg.Cursor, "execute", note)
            yield said
        return

    def listen(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        said.append(statement)

    event.listen(engine, "before_cursor_execute", listen)
    try:
        yield said
    finally:
        event.remove(engine, "before_cursor_execute", listen)


@contextmanager
def tracing(engine: Engine) -> Iterator[list[str]]:
    """Note each statement that is executed meanwhile, and each commit."""

    def commit(_: Any) -> None:
        said.append("COMMIT")

    with counting(engine) as said:
        event.listen(engine, "commit", commit)
        try:
            yield said
        finally:
            event.remove(engine, "commit", commit)


def slices_of(engine: Engine, commands: int) -> int:
    """Return how many statements write what so many commands change."""
    return -(-commands // SLICE) if engine.dialect.name == "postgresql" else min(commands, 1)
