"""The migrations, one file per change of the schema, and the upgrade of a database to the newest.

Alembic is needed only here: see `storage.schema` for the check at the start of a process.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, text

from card_worker.storage.engine import open_engine
from card_worker.storage.schema import SchemaOutdated, revision

_LOCK = 0x63617264  # "card": any number that no other program uses


def upgrade(url: str) -> str:
    """Upgrade the database at `url` to the newest schema, in one commit; return its revision.

    Processes that do this at the same time wait for each other. Raises SchemaOutdated if this
    version does not know the schema, such as that of a later version.
    """
    engine = open_engine(url, reply_max_s=None)  # a migration of a large table takes long
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            try:
                command.upgrade(config(connection), "head")
            except CommandError as error:
                raise SchemaOutdated(f"this version can't upgrade the schema: {error}") from None
            return revision(connection) or ""
    finally:
        engine.dispose()


def config(connection: Connection) -> Config:
    """Return a configuration of Alembic for the database of `connection`."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
