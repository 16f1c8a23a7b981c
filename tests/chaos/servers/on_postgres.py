"""Faults of PostgreSQL, of its network, and of what others do in it."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import sample

import psycopg

from card_worker.embedded.launching import PORTS, tied
from card_worker.storage.migrations import upgrade
from card_worker.storage.roles import role_name
from tests.chaos.servers.database import FILLER, MEMBER_OF, NAME, ROLE, Database
from tests.chaos.servers.kinds import Counts, Kind
from tests.chaos.servers.world import World

TABLES = ("idempotency_keys", "outbox", "transactions")
CONNECTIONS_MAX = 100
POOLER_CONFIG = """
[databases]
{name} = host=127.0.0.1 port={server_port} dbname={name} user={role} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 10
ignore_startup_parameters = extra_float_digits,options
"""


@contextmanager
def crashed(world: World) -> Iterator[None]:
    """Immediate stop: the next start recovers from the log."""
    world.database.server.crash()
    yield
    world.database.server.start()


@contextmanager
def stopped(world: World) -> Iterator[None]:
    """Fast stop, and a start."""
    world.database.server.stop()
    yield
    world.database.server.start()


@contextmanager
def frozen(world: World) -> Iterator[None]:
    """SIGSTOP of all processes of the server."""
    with world.database.frozen():
        yield


@contextmanager
def silent(world: World) -> Iterator[None]:
    """Connections to PostgreSQL stay open and carry nothing."""
    world.to_database.pause()
    try:
        yield
    finally:
        world.to_database.resume()


@contextmanager
def replies_held(world: World) -> Iterator[None]:
    """PostgreSQL does what it is asked, and nobody hears its replies."""
    world.to_database.hold_replies()
    try:
        yield
    finally:
        world.to_database.resume()


@contextmanager
def terminated(world: World) -> Iterator[None]:
    """pg_terminate_backend of all sessions, five times."""
    for _ in range(5):
        world.database.terminate()
        world.rest(0.5)
    yield


@contextmanager
def read_only(world: World) -> Iterator[None]:
    """Every transaction is read-only."""
    world.database.run("ALTER SYSTEM SET default_transaction_read_only = on")
    world.database.run("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        world.database.run("ALTER SYSTEM RESET default_transaction_read_only")
        world.database.run("SELECT pg_reload_conf()")


@contextmanager
def revoked(world: World) -> Iterator[None]:
    """The parts may not INSERT into a table."""
    table = world.chance.choice(TABLES)
    for role in MEMBER_OF:
        world.database.run("REVOKE INSERT ON {} FROM {}", table, role_name(NAME, role))
    try:
        yield
    finally:
        upgrade(world.database.admin_url)  # it brings the rights up to date


@contextmanager
def renamed(world: World) -> Iterator[None]:
    """A table has another name."""
    table = world.chance.choice(TABLES)
    world.database.run("ALTER TABLE {} RENAME TO {}", table, f"{table}_away")
    try:
        yield
    finally:
        world.database.run("ALTER TABLE {} RENAME TO {}", f"{table}_away", table)


@contextmanager
def row_locked(world: World) -> Iterator[None]:
    """One card's row is locked by somebody else; the other cards' commands must not wait."""
    newest = world.database.run("SELECT card_id FROM cards ORDER BY created_at DESC LIMIT 20")
    world.locked_card = world.chance.choice([str(card_id) for (card_id,) in newest])
    with world.database.connect() as connection, connection.transaction():
        locking = "SELECT FROM cards WHERE card_id = %s FOR UPDATE"
        connection.execute(locking, [world.locked_card])
        yield


@contextmanager
def old_snapshot(world: World) -> Iterator[None]:
    """A transaction stays open that sees the database as it was."""
    with world.database.connect() as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT count(*) FROM cards")
        yield


@contextmanager
def too_many(world: World) -> Iterator[None]:
    """Others have all connections; those of the parts are ended."""
    with ExitStack() as opened:
        url = world.database.url(world.database.server.port, role=FILLER)
        with suppress(psycopg.OperationalError):
            world.database.terminate()
            for _ in range(CONNECTIONS_MAX):
                opened.enter_context(psycopg.connect(url, connect_timeout=5))
        world.database.terminate()
        with suppress(psycopg.OperationalError):
            opened.enter_context(psycopg.connect(url, connect_timeout=5))
        yield


@contextmanager
def pooler_restarted(world: World) -> Iterator[None]:
    """The workers reach PostgreSQL through PgBouncer, which is killed and started again."""
    with Pooler(world.folder / "pgbouncer", world.database) as pooler:
        # The relay waits for notifications, for which it needs a session of its own.
        url = world.database.url(pooler.port)
        before = list(world.crew.workers)
        for _ in before:
            world.crew.start("worker", DATABASE_URL=url)
        newcomers = world.crew.workers[len(before) :]
        world.crew.wait(lambda: all(map(world.crew.is_ready, newcomers)), max_s=30)
        world.crew.end(signal.SIGTERM, *before)
        world.rest(world.seconds(1, 5))
        pooler.kill()
        world.rest(world.seconds(1, 5))
        pooler.start()
        yield
        world.crew.start_all()
        through = [worker for worker in world.crew.workers if worker in newcomers]
        for _ in through:
            world.crew.start("worker")
        others = [worker for worker in world.crew.workers if worker not in through]
        world.crew.wait(lambda: all(map(world.crew.is_ready, others)), max_s=30)
        world.crew.end(signal.SIGTERM, *through)


class Pooler:
    """A PgBouncer in transaction mode. It keeps its port."""

    def __init__(self, folder: Path, database: Database) -> None:
        folder.mkdir(exist_ok=True)
        (self.port,) = sample(PORTS, 1)
        self._log = folder / "pgbouncer.log"
        self._config = folder / "pgbouncer.ini"
        self._config.write_text(
            POOLER_CONFIG.format(
                name=NAME,
                server_port=database.server.port,
                role=ROLE,
                password=database.password,
                port=self.port,
            )
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Pooler":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        program = _pgbouncer()
        assert program is not None
        # It refuses to run as root.
        other = ["-u", "nobody"] if os.geteuid() == 0 else []
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                tied([program, *other, str(self._config)]), stdout=log, stderr=log
            )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _pgbouncer() -> str | None:
    return shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")


def _no_pgbouncer() -> str | None:
    return None if _pgbouncer() else "pgbouncer (apt-get install pgbouncer)"


FULL = Counts.IN_FULL
KINDS = (
    Kind("postgres-crashed", crashed, 2, 8),
    Kind("postgres-stopped", stopped, 2, 8),
    Kind("postgres-frozen", frozen, 4, 30),
    Kind("postgres-silent", silent, 7, 30),
    Kind("postgres-replies-held", replies_held, 7, 30),
    Kind("postgres-sessions-ended", terminated, 0, 0, FULL, busy_s=(2.5, 2.5)),
    Kind("postgres-read-only", read_only, 3, 15),
    Kind("postgres-right-revoked", revoked, 3, 3),
    Kind("postgres-table-renamed", renamed, 3, 3),
    Kind("postgres-row-locked", row_locked, 7, 25, FULL),
    Kind("postgres-old-snapshot", old_snapshot, 5, 60, FULL),
    Kind("postgres-too-many", too_many, 3, 15),
    Kind("pgbouncer-restarted", pooler_restarted, 1, 5, FULL, _no_pgbouncer, busy_s=(5, 14)),
)
