"""The schema, one file per change, and bringing a database to the newest."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text

from card_worker.storage.engine import open_engine

_LOCK = 0x63617264  # any number that is ours: "card"


class SchemaOutdated(Exception):
    """The database's schema isn't the one this code was written for."""


def upgrade(url: str) -> str:
    """Bring the database at `url` to the newest schema; return its revision.

    Several at once wait for each other. All changes are one commit: none or all.

    Raises SchemaOutdated when the schema is none that this version knows, such as a later one's.
    """
    engine = open_engine(url, reply_max_s=None)  # a large table takes its time
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            try:
                command.upgrade(_config(connection), "head")
            except CommandError as error:
                raise SchemaOutdated(f"this version can't bring the schema on: {error}") from None
            return _revision(connection) or ""
    finally:
        engine.dispose()


def check(connection: Connection) -> None:
    """Return when the schema is the newest.

    Raises SchemaOutdated, whose text says what to do: a worker that ran on would find every
    command undoable.
    """
    head = ScriptDirectory.from_config(_config(connection)).get_current_head()
    found = _revision(connection)
    if found != head:
        raise SchemaOutdated(
            f"the database's schema is {found or 'empty'}, this version needs {head}:"
            " run card-worker migrate"
        )


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
