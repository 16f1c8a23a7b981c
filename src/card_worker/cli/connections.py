"""Connections to the database and the broker of the settings."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine

from card_worker.settings import load_settings
from card_worker.storage.engine import REPLY_MAX_S, open_engine, reading

if TYPE_CHECKING:
    from card_worker.client import Client


@contextmanager
def database(*, reply_max_s: float | None = None) -> Iterator[Engine]:
    """Open the database. A reply may take REPLY_MAX_S, or `reply_max_s`."""
    engine = open_engine(load_settings().database(), reply_max_s=reply_max_s or REPLY_MAX_S)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def read_only() -> Iterator[Connection]:
    """Open a read-only connection to the database."""
    with database() as engine, reading(engine) as connection:
        yield connection


def open_client() -> "Client":
    """Return a client of the broker and the stream of events."""
    settings = load_settings()
    broker = settings.broker()
    # Imported here, because Celery takes long to load: wrong usage is reported before.
    from card_worker.client import Client

    return Client(broker, events_url=settings.events_url, stream=settings.event_stream)
