"""The revision of a database's schema, compared with the newest migration. It needs no Alembic."""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

_MIGRATIONS = Path(__file__).parent / "migrations" / "versions"


class SchemaOutdated(Exception):
    """The database's schema is not that of this version. The text says what to do."""


def check(connection: Connection) -> None:
    """Raise SchemaOutdated unless the schema is the newest: no command could be handled."""
    found, needed = revision(connection), newest()
    if found != needed:
        raise SchemaOutdated(
            f"the database's schema is {found or 'empty'}, this version needs {needed}:"
            " run card-worker migrate"
        )


def newest() -> str:
    """Return the revision of the newest migration."""
    return max(path.name.partition("_")[0] for path in _MIGRATIONS.glob("[0-9]*.py"))


def revision(connection: Connection) -> str | None:
    """Return the revision of the schema; None if the database has no tables of ours."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)
