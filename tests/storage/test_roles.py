"""Each role of PostgreSQL may do what its part needs, and no more."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url
from typer.testing import CliRunner

from card_worker.cli import app
from card_worker.storage.engine import open_engine
from card_worker.storage.migrations import upgrade
from card_worker.storage.roles import RIGHTS, Role, role_name, statements
from tests import servers
from tests.servers import Server

EVERYBODY = [
    "UPDATE retention SET minimum_s = 0",
    "ALTER TABLE transactions DISABLE TRIGGER ALL",
    "ALTER TABLE cards DROP COLUMN name",
    "DROP TABLE starts",
    "CREATE TABLE more (id integer)",
    "CREATE TEMPORARY TABLE unpublished (position bigint)",
    "CREATE FUNCTION more() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "CREATE SCHEMA more",
    "CREATE ROLE more",
    "SET session_replication_role = replica",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "COPY starts TO '/tmp/starts'",
    "SELECT pg_read_file('PG_VERSION')",
    "UPDATE transactions SET amount = amount",
    "DELETE FROM transactions",
    "TRUNCATE transactions",
    "SELECT 1 FROM transactions FOR UPDATE",
    "UPDATE outbox SET event = event",
    "DELETE FROM outbox",
    "TRUNCATE outbox",
    "SELECT setval('outbox_position_seq', 1)",
    "DELETE FROM idempotency_keys",
    "UPDATE idempotency_keys SET digest = digest",
    "UPDATE cards SET account_id = account_id",
    "UPDATE cards SET card_id = card_id",
    "DELETE FROM dead_letters",
    "UPDATE accounts SET balance_max = balance_max",
    "UPDATE alembic_version SET version_num = version_num",
]
"""What nobody but the owner and an administrator may do."""
REFUSED = {
    Role.OWNER: ["SET session_replication_role = replica", "COPY (SELECT 1) TO PROGRAM 'true'"],
    Role.WORKER: [*EVERYBODY, "DELETE FROM file_parts", "DELETE FROM accounts"],
    Role.RELAY: [
        *EVERYBODY,
        *map("TABLE {}".format, ("cards", "transactions", "tokens", "pins", "accounts", "chunks")),
        *map("TABLE {}".format, ("dead_letters", "file_parts", "idempotency_keys")),
        "INSERT INTO outbox (id) VALUES (NULL)",
        "INSERT INTO unpublished (position) VALUES (1)",
    ],
    Role.OPERATOR: [
        *EVERYBODY,
        "UPDATE cards SET blocked = false",
        "INSERT INTO transactions (id) VALUES (NULL)",
        "UPDATE pins SET digest = digest",
    ],
    Role.READER: [
        *EVERYBODY,
        "UPDATE cards SET blocked = false",
        "INSERT INTO accounts (account_id) VALUES ('P12345678')",
        "DELETE FROM tokens",
        "SELECT digest FROM tokens",
        "SELECT 1 FROM pins",
        "SELECT body FROM dead_letters",
        "SELECT content FROM file_parts",
        "SELECT encrypted_secrets FROM chunks",
    ],
}


def run(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def role_of(url: str, role: Role) -> str:
    database = make_url(url).database
    assert database is not None
    return role_name(database, role)


@pytest.mark.parametrize("role", Role)
def test_a_role_is_refused_what_its_part_does_not_need(role: Role, postgres_url: str) -> None:
    upgrade(postgres_url)  # a copy of a database has no rights on the database itself
    with psycopg.connect(servers.role_urls(postgres_url)[role], autocommit=True) as connection:
        allowed = []
        for statement in REFUSED[role]:
            try:
                connection.execute(statement.encode())
            except psycopg.errors.InsufficientPrivilege:
                continue
            allowed.append(statement)
    assert allowed == []


def test_the_owner_owns_everything_that_a_migration_creates(postgres_url: str) -> None:
    owners = """
        SELECT pg_get_userbyid(relowner), relname FROM pg_class
        WHERE relnamespace = 'public'::regnamespace
        UNION SELECT pg_get_userbyid(proowner), proname FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace
    """
    with psycopg.connect(postgres_url) as connection:
        found = connection.execute(owners).fetchall()
    assert {str(owner).rpartition("_")[2] for owner, _ in found} == {Role.OWNER}
    assert RIGHTS.keys() <= {name for _, name in found}


def test_a_migration_brings_the_rights_up_to_date(postgres_url: str) -> None:
    assert upgrade(postgres_url).roles_problem is None  # a copy has the roles of its template
    reader, relay = role_of(postgres_url, Role.READER), role_of(postgres_url, Role.RELAY)
    run(postgres_url, f"GRANT ALL ON cards TO {reader}; GRANT UPDATE (name) ON cards TO {relay}")
    run(postgres_url, f"REVOKE ALL ON outbox FROM {relay}")
    upgrade(postgres_url)
    asked = """
        SELECT has_table_privilege(role, 'cards', 'UPDATE'),
            has_column_privilege(role, 'cards', 'name', 'UPDATE'),
            has_table_privilege(role, 'outbox', 'SELECT')
        FROM (VALUES (%s), (%s)) AS roles (role)
    """
    with psycopg.connect(postgres_url) as connection:
        found = connection.execute(asked, [reader, relay]).fetchall()
    assert found == [(False, False, True)] * 2


@contextmanager
def login_of(server: Server, url: str, options: str) -> Iterator[str]:
    """Give the URL of a database for a login that owns it, and has nothing else but `options`."""
    address = make_url(url)
    login = f"{address.database}_admin"
    run(server.url, f"CREATE ROLE {login} LOGIN PASSWORD 'login' {options}")
    run(server.url, f"ALTER DATABASE {address.database} OWNER TO {login}")
    yield address.set(username=login, password="login").render_as_string(hide_password=False)


def test_a_login_that_may_create_roles_needs_no_administrator(postgres_server: Server) -> None:
    with (
        servers.database(postgres_server) as url,
        login_of(postgres_server, url, "CREATEROLE") as admin,
    ):
        assert upgrade(admin).roles_problem is None
        assert upgrade(admin).roles_problem is None
        run(servers.role_urls(url)[Role.READER], "SELECT 1 FROM cards")


def test_a_right_of_the_database_that_can_not_be_revoked_is_reported(
    postgres_server: Server,
) -> None:
    with servers.database(postgres_server) as url:
        upgrade(url)
        migrate = servers.role_urls(url)[Role.OWNER]
        assert upgrade(migrate).roles_problem is None
        run(url, f"GRANT TEMPORARY ON DATABASE {make_url(url).database} TO PUBLIC")
        problem = upgrade(migrate).roles_problem
        assert problem is not None
        assert problem.startswith("REVOKE TEMPORARY ON DATABASE")


def test_an_administrator_can_run_the_sql_instead(
    postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with servers.database(postgres_server) as url, login_of(postgres_server, url, "") as plain:
        monkeypatch.setenv("CARD_WORKER_DATABASE_URL", plain)
        migrated = CliRunner().invoke(app, ["migrate"])
        assert migrated.exit_code == 0
        assert migrated.stdout.startswith("the schema is at 0")
        (line,) = migrated.stderr.splitlines()
        assert "permission denied to create role" in line
        assert "run the SQL that card-worker migrate --roles-sql prints" in line
        printed = CliRunner().invoke(app, ["migrate", "--roles-sql"])
        assert printed.exit_code == 0
        run(url, printed.stdout)
        assert upgrade(plain).roles_problem is None
        for role, login in servers.role_urls(url).items():
            if role is not Role.RELAY:
                run(login, "SELECT 1 FROM cards")
        # Once an administrator has done that, a login that only owns the tables is enough.
        with open_engine(plain).connect() as connection:
            assert not [each for each in statements(connection) if each.startswith("CREATE")]
        connection.engine.dispose()


def test_a_name_that_is_too_long_for_roles_is_reported(postgres_server: Server) -> None:
    name = "x" * 60
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            url = make_url(postgres_server.url).set(database=name)
            problem = upgrade(url.render_as_string(hide_password=False)).roles_problem
        finally:
            connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
    assert problem is not None
    assert "too long" in problem


def test_sqlite_has_no_roles(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert upgrade(sqlite_url).roles_problem is None
    monkeypatch.setenv("CARD_WORKER_DATABASE_URL", sqlite_url)
    assert CliRunner().invoke(app, ["migrate", "--roles-sql"]).stdout == ""
