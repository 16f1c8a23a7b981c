"""The roles of PostgreSQL, and what each of them may do with each table.

The roles are named after the database, such as `cards_worker`, and have no login: the logins of an
installation are members of them. `migrate` creates the roles and brings their rights up to date,
or prints the SQL for an administrator.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Connection, text

from card_worker.storage.tables import metadata

IDENTIFIER_BYTES_MAX = 63


class Role(StrEnum):
    """A role, by the end of its name."""

    OWNER = "owner"
    """Owns tables and functions: for `migrate`."""
    WORKER = "worker"
    RELAY = "relay"
    OPERATOR = "operator"
    """For the command line."""
    READER = "reader"
    """For reports."""


class Rights(NamedTuple):
    """What each role may do with a table, as GRANT names it; an empty text is nothing."""

    worker: str = ""
    relay: str = ""
    operator: str = "SELECT"
    reader: str = ""


CHANGING: Mapping[str, frozenset[str]] = {
    name: frozenset(columns.split())
    for name, columns in {
        "batches": "state created busy job_count approved_by completed_at last_error",
        "cards": "state blocked currency amount customer_id name metadata active_from activated_at"
        " expires_at version amount_funds amount_drawdown amount_balance amount_pending"
        " amount_reserved has_codes changed_at activation activated_by activated_from postings"
        " replaced_by",
        "chunks": "done_at encrypted_secrets refused",
        "dead_letters": "received_at queue task message_id reason detail headers content_type"
        " content_encoding body is_masked sealed digest resolved_at resolution aside_key"
        " signature",
        "files": "written_at last_error attempts next_attempt_at",
        "holds": "captured released",
        "jobs": "open_chunks done already refused last_activity_at last_progress_at ended_at",
        "leases": "holder renewals position",
        "pin_attempts": "card number outcome",
        "issued": "amount",
        "pins": "kid digest changed_at format locked_until",
        "repeats": "mark",
        "source_attempts": "attempts wrong is_reported",
        "starts": "starts started_at deaths",
        "unauthenticated": "stored counted bytes",
        "tokens": "kid digest expires_at expires_after_transaction spent_at revoked_at"
        " issued_expires_at issued_expires_after_transaction",
    }.items()
}
"""The columns that workers change in existing rows, by table."""


def _update(table: str) -> str:
    return f"UPDATE ({', '.join(sorted(CHANGING[table]))})"


# An operator may insert into the outbox, and lock a batch, to confirm that its files have arrived.
# A lock needs the right to update one column. The trigger of the outbox inserts into unpublished.
RIGHTS: Mapping[str, Rights] = {
    "accounts": Rights("SELECT", "", "SELECT, INSERT, DELETE", "SELECT"),
    "alembic_version": Rights("SELECT", "", "SELECT", "SELECT"),
    "batches": Rights(
        f"SELECT, INSERT, {_update('batches')}", "", "SELECT, UPDATE (last_error)", "SELECT"
    ),
    "cards": Rights(f"SELECT, INSERT, DELETE, {_update('cards')}", reader="SELECT"),
    "chunks": Rights(f"SELECT, INSERT, DELETE, {_update('chunks')}"),
    "dead_letters": Rights(
        f"SELECT, INSERT, {_update('dead_letters')}",
        operator="SELECT, UPDATE (resolved_at, resolution)",
    ),
    "file_parts": Rights("SELECT, INSERT", operator="SELECT, DELETE"),
    "files": Rights(
        f"SELECT, INSERT, {_update('files')}",
        operator="SELECT, UPDATE (written_at, confirmed_at, last_error, attempts, next_attempt_at)",
        reader="SELECT",
    ),
    "holds": Rights(f"SELECT, INSERT, {_update('holds')}", reader="SELECT"),
    "idempotency_keys": Rights("SELECT, INSERT"),
    "jobs": Rights(f"SELECT, INSERT, {_update('jobs')}", reader="SELECT"),
    "leases": Rights(*[f"SELECT, INSERT, DELETE, {_update('leases')}"] * 2),
    "outbox": Rights("SELECT, INSERT", "SELECT", "SELECT, INSERT", "SELECT"),
    "issued": Rights(f"SELECT, INSERT, {_update('issued')}", reader="SELECT"),
    "pin_attempts": Rights(f"SELECT, INSERT, DELETE, {_update('pin_attempts')}", reader="SELECT"),
    "pins": Rights(f"SELECT, INSERT, DELETE, {_update('pins')}"),
    "producers": Rights("SELECT", "", "SELECT, INSERT, UPDATE (valid_until, revoked_at)", "SELECT"),
    # The triggers of accounts and producers count its version.
    "registry": Rights("SELECT", "", "SELECT, UPDATE (version)"),
    "repeats": Rights(
        f"SELECT, INSERT, {_update('repeats')}", f"SELECT, DELETE, {_update('repeats')}"
    ),
    "reserved_card_ids": Rights("SELECT, INSERT, DELETE"),
    "source_attempts": Rights(
        f"SELECT, INSERT, DELETE, {_update('source_attempts')}", reader="SELECT"
    ),
    "retention": Rights("SELECT", "", "SELECT", "SELECT"),
    "starts": Rights(f"SELECT, INSERT, DELETE, {_update('starts')}", operator="SELECT, DELETE"),
    "tokens": Rights(
        f"SELECT, INSERT, DELETE, {_update('tokens')}",
        # Without the hashes.
        reader="SELECT (id, account_id, card, masked_code, created_at, ref_id, expires_at,"
        " expires_after_transaction, metadata, spent_at, revoked_at)",
    ),
    "transactions": Rights("SELECT, INSERT", reader="SELECT"),
    "unauthenticated": Rights(f"SELECT, INSERT, {_update('unauthenticated')}", reader="SELECT"),
    # Workers read it for their metrics.
    "unpublished": Rights("SELECT, INSERT", "SELECT, DELETE", "SELECT, INSERT"),
}
"""What each role but the owner may do, by table."""

FUNCTIONS = (
    *("card_worker_raise", "insert_unpublished", "registry_changes"),
    *("repeats_wait", "transactions_append_only"),
    *("prune",),
)
"""The functions of the schema. They run with the rights of the role that calls them, but for
PRUNE."""
PRUNE = "prune(text, timestamptz, integer)"
"""Runs with the rights of the owner, for workers only: it deletes what is old."""

if _wrong := RIGHTS.keys() ^ {*metadata.tables, "alembic_version"}:
    raise TypeError(f"no rights in storage/roles.py, or no table: {', '.join(sorted(_wrong))}")

_SEQUENCES = {
    table.name: f"{table.name}_{column.name}_seq"
    for table in metadata.tables.values()
    for column in table.columns
    if column.autoincrement is True
}

_HERE = text("SELECT current_database(), current_schema(), session_user")
_ROLES = text(
    "SELECT name, pg_has_role(session_user, oid, 'USAGE'),"
    " has_database_privilege(oid, current_database(), 'CONNECT'),"
    " has_schema_privilege(oid, current_schema(), 'USAGE'),"
    " has_schema_privilege(oid, current_schema(), 'CREATE')"
    " FROM unnest(CAST(:names AS text[])) WITH ORDINALITY AS needed (name, place)"
    " LEFT JOIN pg_roles ON rolname = name ORDER BY place"
)
_PUBLIC = text(
    "SELECT has_database_privilege('public', current_database(), 'TEMPORARY'),"
    " has_schema_privilege('public', current_schema(), 'CREATE')"
)
_OF_OTHERS = text(
    "SELECT 'TABLE ' || quote_ident(relname) FROM pg_class"
    " WHERE relnamespace = CAST(current_schema() AS regnamespace) AND relname = ANY(:tables)"
    " AND relkind = 'r' AND pg_get_userbyid(relowner) <> :owner"
    " UNION ALL SELECT 'FUNCTION ' || CAST(oid AS regprocedure) FROM pg_proc"
    " WHERE pronamespace = CAST(current_schema() AS regnamespace) AND proname = ANY(:functions)"
    " AND pg_get_userbyid(proowner) <> :owner ORDER BY 1"
)


def role_name(database: str, role: Role) -> str:
    """Return the name of a role of a database."""
    return f"{database}_{role}"


class NameTooLong(Exception):
    """The name of the database is too long for names of roles."""


def update_roles(connection: Connection) -> str | None:
    """Create the roles that are missing, and grant each what it may do, with the open commit.

    The schema must be the newest. Return None, or what was not permitted: one line. SQLite has no
    roles.
    """
    driver = connection.connection.driver_connection
    assert driver is not None
    try:
        with connection.begin_nested():
            for statement in statements(connection):
                driver.execute(statement.encode())
    except (InsufficientPrivilege, NameTooLong) as error:
        return str(error).partition("\n")[0]
    if connection.dialect.name != "postgresql":
        return None
    # To some that are not permitted, PostgreSQL answers with a warning only.
    return next(_preparing(connection, _names(connection)), None)


def statements(connection: Connection) -> list[str]:
    """Return the SQL that creates the missing roles and grants each what it may do, and no more.

    None for SQLite, which has no roles. Raises NameTooLong.
    """
    if connection.dialect.name != "postgresql":
        return []
    names = _names(connection)
    return [
        *_preparing(connection, names),
        *_owning(connection, names[Role.OWNER]),
        *_granting({role: quote(name) for role, name in names.items()}),
    ]


def _names(connection: Connection) -> dict[Role, str]:
    """Return the names of the roles of the database. Raises NameTooLong."""
    database = connection.execute(text("SELECT current_database()")).scalar_one()
    names = {role: role_name(database, role) for role in Role}
    if max(len(name.encode()) for name in names.values()) > IDENTIFIER_BYTES_MAX:
        raise NameTooLong(f"the database's name is too long to name roles after it: {database}")
    return names


def _preparing(connection: Connection, names: Mapping[Role, str]) -> Iterator[str]:
    """Yield what only an administrator may do, as far as it isn't done."""
    (here,) = connection.execute(_HERE).all()
    database, schema, login = map(quote, here)
    found = connection.execute(_ROLES, {"names": list(names.values())}).all()
    for role, (name, is_member, connects, uses, creates) in zip(names, found, strict=True):
        if is_member is None:
            yield f"CREATE ROLE {quote(name)} NOLOGIN"
        if not connects:
            yield f"GRANT CONNECT ON DATABASE {database} TO {quote(name)}"
        if not uses:
            yield f"GRANT USAGE ON SCHEMA {schema} TO {quote(name)}"
        if role is Role.OWNER and not creates:
            yield f"GRANT CREATE ON SCHEMA {schema} TO {quote(name)}"
        if role is Role.OWNER and not is_member and not _is_superuser(connection):
            yield f"GRANT {quote(name)} TO {login}"
    ((makes_temporary, creates),) = connection.execute(_PUBLIC).all()
    if makes_temporary:
        yield f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC"
    if creates:
        yield f"REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC"


def _is_superuser(connection: Connection) -> bool:
    asked = text("SELECT rolsuper FROM pg_roles WHERE rolname = session_user")
    return bool(connection.execute(asked).scalar_one())


def _owning(connection: Connection, owner: str) -> Iterator[str]:
    """Yield what makes the owner the owner of everything. It locks only what is not yet."""
    wanted = {"tables": list(RIGHTS), "functions": list(FUNCTIONS), "owner": owner}
    for (what,) in connection.execute(_OF_OTHERS, wanted):
        yield f"ALTER {what} OWNER TO {quote(owner)}"


def _granting(names: Mapping[Role, str]) -> Iterator[str]:
    others = [name for role, name in names.items() if role is not Role.OWNER]
    for kind, of_kind in (("TABLE", RIGHTS), ("SEQUENCE", _SEQUENCES.values())):
        revoked = ", ".join(map(quote, of_kind))
        yield f"REVOKE ALL ON {kind} {revoked} FROM {', '.join(others)}"
    yield f"REVOKE ALL ON FUNCTION {PRUNE} FROM PUBLIC, {', '.join(others)}"
    yield f"GRANT EXECUTE ON FUNCTION {PRUNE} TO {names[Role.WORKER]}"
    for table, rights in RIGHTS.items():
        for role, right in rights._asdict().items():
            name = names[Role(role)]
            if right:
                yield f"GRANT {right} ON TABLE {quote(table)} TO {name}"
            if "INSERT" in right and table in _SEQUENCES:
                yield f"GRANT USAGE ON SEQUENCE {quote(_SEQUENCES[table])} TO {name}"


def quote(name: str) -> str:
    """Return a name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'
