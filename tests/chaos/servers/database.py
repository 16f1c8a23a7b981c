"""The database of a run: a login with just the rights it needs, and an audit of PIN attempts."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, LiteralString

import psutil
import psycopg
from psycopg import sql
from sqlalchemy import make_url

from card_worker.storage.migrations import upgrade
from card_worker.storage.roles import Role, role_name
from tests.servers import Postgres

NAME = "cards"
ROLE = "card_app"
"""The login of the system's parts and of the command line."""
MEMBER_OF = [Role.WORKER, Role.RELAY, Role.OPERATOR]
FILLER = "filler"
"""A role that only takes connections away from others."""
SETTINGS = {"max_connections": "40"}

# What every session of the harness has, whatever a fault sets for all others.
_OURS = "-c default_transaction_read_only=off -c idle_in_transaction_session_timeout=0"

# Each PIN that was compared leaves a row that turns from open to wrong, or to settled. Who audits
# isn't the application's role, so it needs no rights on this.
_AUDIT = """
CREATE SCHEMA audit;
CREATE TABLE audit.pin_attempts (
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL, card uuid, was text, outcome text NOT NULL
);
CREATE FUNCTION audit.note_pin_attempt() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO audit.pin_attempts (id, card, was, outcome)
    VALUES (NEW.id, NEW.card, CASE WHEN TG_OP = 'UPDATE' THEN OLD.outcome END, NEW.outcome);
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE ON pin_attempts
    FOR EACH ROW EXECUTE FUNCTION audit.note_pin_attempt();
"""


class Database:
    """A database on a server of its own, and the ways to it for the harness and for the parts."""

    def __init__(self, server: Postgres) -> None:
        self.server = server
        self._password = secrets.token_hex(16)
        self._administer("CREATE DATABASE {}", NAME)
        upgrade(self.admin_url)
        with self.connect() as connection:
            connection.execute(_AUDIT.encode())
            for login, roles in {ROLE: MEMBER_OF, FILLER: []}.items():
                create = "CREATE ROLE {} LOGIN PASSWORD {}"
                connection.execute(_with(create, login, password=self._password))
                for role in roles:
                    connection.execute(_with("GRANT {} TO {}", role_name(NAME, role), login))

    @property
    def admin_url(self) -> str:
        """The database as its owner, past all proxies."""
        return make_url(self.server.url).set(database=NAME).render_as_string(hide_password=False)

    def url(self, port: int, *, role: str = ROLE) -> str:
        """Return the URL for the system's parts, at the server's own port or at a proxy's."""
        return f"postgresql://{role}:{self._password}@127.0.0.1:{port}/{NAME}"

    @property
    def password(self) -> str:
        return self._password

    def connect(self) -> "psycopg.Connection[tuple[Any, ...]]":
        """Open a session of the owner, in which each statement is a commit of its own."""
        return psycopg.connect(self.admin_url, autocommit=True, options=_OURS, connect_timeout=10)

    def run(self, statement: LiteralString, *names: str) -> list[tuple[Any, ...]]:
        """Execute one statement as the owner; return its rows."""
        with self.connect() as connection:
            done = connection.execute(_with(statement, *names))
            return done.fetchall() if done.description else []

    def terminate(self, role: str = ROLE) -> int:
        """End all sessions of a role; return how many there were."""
        ending = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = %s"
        with self.connect() as connection:
            ((ended,),) = connection.execute(ending, [role]).fetchall()
        return int(ended)

    def waiting(self) -> int:
        """Return how many sessions of the parts wait for a lock."""
        waits = "usename = %s AND wait_event_type = 'Lock'"
        with self.connect() as connection:
            counting = f"SELECT count(*) FROM pg_stat_activity WHERE {waits}"  # noqa: S608
            ((waiting,),) = connection.execute(counting, [ROLE]).fetchall()
        return int(waiting)

    @contextmanager
    def locked(self, statement: LiteralString, *names: str) -> Iterator[None]:
        """Keep open what a statement locks."""
        with self.connect() as connection, connection.transaction():
            connection.execute(_with(statement, *names))
            yield

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop all processes of the server where they are."""
        stopped = [psutil.Process(self.server.pid)]
        stopped[0].suspend()
        try:
            # No more of them are started once the first one is stopped.
            stopped += stopped[0].children(recursive=True)
            for process in stopped[1:]:
                with suppress(psutil.Error):
                    process.suspend()
            yield
        finally:
            for process in reversed(stopped):
                with suppress(psutil.Error):
                    process.resume()

    def _administer(self, statement: LiteralString, *names: str) -> None:
        with psycopg.connect(self.server.url, autocommit=True) as connection:
            connection.execute(_with(statement, *names))


def _with(statement: LiteralString, *names: str, password: str | None = None) -> sql.Composed:
    values: list[sql.Composable] = [sql.Identifier(name) for name in names]
    if password is not None:
        values.append(sql.Literal(password))
    return sql.SQL(statement).format(*values)
