"""The migrations, one file per change of the schema, and the upgrade of a database to the newest.

Alembic is needed only here: see `storage.schema` for the check at the start of a process.
"""

from pathlib import Path
from typing import NamedTuple

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, text

from card_worker.storage.engine import open_engine
from card_worker.storage.roles import update_roles
from card_worker.storage.schema import SchemaOutdated, revision

_LOCK = 0x63617264  # "card": any number that no other program uses


class Upgraded(NamedTuple):
    """What an upgrade has led to."""

    revision: str
    roles_problem: str | None
    """Why the roles are not up to date, in one line; None if they are."""


def upgrade(url: str) -> Upgraded:
    """Upgrade the database at `url` to the newest schema and its roles, in one commit.

    The schema is upgraded even if the login may not change the roles. Processes that do this at the
    same time wait for each other. Raises SchemaOutdated if this version does not know the schema,
    such as that of a later version.
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
            problem = update_roles(connection)
            return Upgraded(revision(connection) or "", problem)
    finally:
        engine.dispose()


def config(connection: Connection) -> Config:
    """Return a configuration of Alembic for the database of `connection`."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
