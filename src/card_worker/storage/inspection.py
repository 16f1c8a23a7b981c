"""What is read of a database to find faults in its server, its rights and its data.

Every function may be called by any role that may read the tables; it raises SQLAlchemy's errors.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import psycopg
from sqlalchemy import Connection, Engine, func, select, text

from card_worker.storage.json_rows import find
from card_worker.storage.roles import RIGHTS, Role, role_name
from card_worker.storage.sessions import CONNECT_MAX_S
from card_worker.storage.tables import file_is_unwritten, files, outbox, pins, producers, tokens

_SETTINGS = (
    "synchronous_commit",
    "fsync",
    "full_page_writes",
    "default_transaction_read_only",
)
_SERVER = text(
    "SELECT pg_is_in_recovery(), datcollate, datcollversion,"
    " pg_database_collation_actual_version(oid),"
    " (SELECT rolsuper FROM pg_roles WHERE rolname = session_user), session_user"
    " FROM pg_database WHERE datname = current_database()"
)
_ROLES = text("SELECT rolname FROM pg_roles WHERE rolname = ANY(:names)")
_MISSING = text(
    "SELECT role, relation, privilege, field FROM unnest(CAST(:roles AS text[]),"
    " CAST(:tables AS text[]), CAST(:privileges AS text[]), CAST(:columns AS text[]))"
    " AS needed (role, relation, privilege, field)"
    " WHERE NOT CASE WHEN field IS NULL THEN has_table_privilege(role, relation, privilege)"
    " ELSE has_column_privilege(role, relation, field, privilege) END"
)
_RIGHT = re.compile(r"(\w+)(?: \(([^)]*)\))?")


class PostgresState(NamedTuple):
    """The state of a PostgreSQL server, as a session sees it."""

    settings: Mapping[str, str]
    is_standby: bool
    collation: str
    collation_version: str | None
    """The version with which indexes were made; None if the collation has no versions."""
    collation_version_now: str | None
    is_superuser: bool
    login: str


def server_encoding(engine: Engine) -> str | None:
    """Return the encoding of a PostgreSQL database. Raises psycopg.Error.

    The driver returns bytes for the texts of SQL_ASCII, so that SQLAlchemy can't connect.
    """
    arguments, options = engine.dialect.create_connect_args(engine.url)
    options = {"connect_timeout": CONNECT_MAX_S, **options}
    with psycopg.connect(*arguments, **options) as connection:
        return connection.info.parameter_status("server_encoding")


def read_postgres(connection: Connection) -> PostgresState:
    """Return the state of the server."""
    values = connection.execute(select(*map(func.current_setting, _SETTINGS))).one()
    (row,) = connection.execute(_SERVER)
    return PostgresState(dict(zip(_SETTINGS, values, strict=True)), *row)


def missing_roles(connection: Connection) -> list[str]:
    """Return the names of our roles that don't exist."""
    names = _role_names(connection).values()
    found = set(connection.execute(_ROLES, {"names": list(names)}).scalars())
    return [name for name in names if name not in found]


def missing_rights(connection: Connection) -> list[str]:
    """Return the rights that our roles should have and don't, such as `SELECT on cards`.

    All roles must exist. Each right is named with its role.
    """
    names = _role_names(connection)
    needed = list(_rights())
    columns = {
        "roles": [names[role] for role, *_ in needed],
        "tables": [table for _, table, *_ in needed],
        "privileges": [privilege for *_, privilege, _ in needed],
        "columns": [column for *_, column in needed],
    }
    return [
        f"{role} lacks {privilege} on {table}{f'.{column}' if column else ''}"
        for role, table, privilege, column in connection.execute(_MISSING, columns)
    ]


def _role_names(connection: Connection) -> dict[Role, str]:
    database = connection.execute(text("SELECT current_database()")).scalar_one()
    return {role: role_name(database, role) for role in Role}


def _rights() -> Iterator[tuple[Role, str, str, str | None]]:
    """Yield each right of a role on a table, or on a column of it."""
    for table, rights in RIGHTS.items():
        for role, right in rights._asdict().items():
            for privilege, columns in _RIGHT.findall(right):
                for column in columns.split(", "):
                    yield Role(role), table, privilege, column or None


def unknown_peppers(connection: Connection, known: Collection[str], *, of: str) -> str | None:
    """Return a pepper that is not `known` and that a row depends on; None if there is none.

    `of` is the setting: TOKEN_PEPPERS, PIN_PEPPERS or PRODUCER_PEPPERS.
    """
    column = {
        "TOKEN_PEPPERS": tokens.c.kid,
        "PIN_PEPPERS": pins.c.kid,
        "PRODUCER_PEPPERS": producers.c.pepper,
    }[of]
    found = select(column).where(column.is_not(None), column.not_in(known)).limit(1)
    pepper: str | None = connection.execute(found).scalar()
    return pepper


def failed_files(connection: Connection) -> int:
    """Return how many files of batches could not be written at the last attempt."""
    is_failed = file_is_unwritten & (files.c.attempts > 0)
    return int(connection.execute(select(func.count()).where(is_failed)).scalar_one())


def find_events(connection: Connection, ids: Collection[UUID]) -> dict[UUID, str]:
    """Return the JSON of those events that are in the outbox, by id."""
    rows = find(connection, outbox, ("id", "event"), [{"id": id} for id in ids])()
    return {row[0]: row[1] for row in rows}


def oldest_event(connection: Connection) -> datetime | None:
    """Return the time of the first event of the outbox; None if there are no events."""
    first = select(outbox.c.created_at).order_by(outbox.c.position).limit(1)
    at: datetime | None = connection.execute(first).scalar()
    return at
