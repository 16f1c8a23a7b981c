"""Connections to the database and the broker of the settings."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from sqlalchemy import Connection, Engine
from typer import Option

from card_worker.cli.console import refuse
from card_worker.cli.files import file_errors
from card_worker.secrets.signing import NotAKey, SigningKey
from card_worker.settings import load_settings
from card_worker.storage.engine import REPLY_MAX_S, open_engine, reading

if TYPE_CHECKING:
    from card_worker.client import Client

Key = Annotated[
    Path | None,
    Option("--key", help="Sign with the key in this file.", exists=True, dir_okay=False),
]


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


def open_client(key_file: Path | None = None) -> "Client":
    """Return a client of the broker and the stream of events. It signs with the key in a file."""
    settings = load_settings()
    broker = settings.broker()
    # Imported here, because Celery takes long to load: wrong usage is reported before.
    from card_worker.client import Client

    stream, key = settings.event_stream, None if key_file is None else _read_key(key_file)
    return Client(broker, events_url=settings.events_url, stream=stream, key=key)


def _read_key(file: Path) -> SigningKey:
    try:
        with file_errors(file):
            return SigningKey.read(file)
    except NotAKey as error:
        raise refuse(f"{file}: {error}") from None
