"""PgBouncer in transaction mode, in front of a PostgreSQL of the tests."""

import os
import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy import make_url

from card_worker.embedded.launching import PORTS, tied
from tests.flow.processes import until
from tests.servers import missing

SETTINGS = """
[databases]
* = host=127.0.0.1 port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {folder}/users.txt
pool_mode = transaction
default_pool_size = 4
logfile = {folder}/pgbouncer.log
ignore_startup_parameters = extra_float_digits
"""


class PgBouncer:
    """A pooler on a port of its own; each transaction gets any of a few sessions."""

    def __init__(self, folder: Path, server_url: str) -> None:
        self._folder = folder
        self._server = make_url(server_url)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database_url: str) -> str:
        """Return the URL of the same database through the pooler."""
        return make_url(database_url).set(port=self.port).render_as_string(hide_password=False)

    def start(self) -> None:
        """Start the pooler; the port is chosen once."""
        ports = [self.port] if self.port else random.sample(PORTS, 3)
        while self._process is None:
            self.port = ports.pop()
            self._launch()
            until(lambda: self._has_ended() or self._answers(), "PgBouncer")
            if self._has_ended():
                self._process = None
                assert ports, "PgBouncer did not start"

    def _launch(self) -> None:
        settings = self._folder / "pgbouncer.ini"
        settings.write_text(
            SETTINGS.format(server_port=self._server.port, port=self.port, folder=self._folder)
        )
        users = self._folder / "users.txt"
        users.write_text(f'"{self._server.username}" "{self._server.password}"\n')
        program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
        # It refuses to run as root.
        as_user = ["-u", "nobody"] if os.geteuid() == 0 else []
        for path in (self._folder, settings, users):
            path.chmod(0o777 if path.is_dir() else 0o644)
        self._process = subprocess.Popen(
            tied([program, "-q", *as_user, str(settings)]), start_new_session=True
        )

    def _has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _answers(self) -> bool:
        url = self.url(self._server.render_as_string(hide_password=False))
        try:
            psycopg.connect(url, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(60)
            self._process = None


@contextmanager
def pgbouncer(server_url: str) -> Iterator[PgBouncer]:
    """Run a pooler before the server of this URL. Without the program, see `missing`."""
    if not (shutil.which("pgbouncer") or Path("/usr/sbin/pgbouncer").exists()):
        missing("the program `pgbouncer` isn't installed: apt install pgbouncer")
    with tempfile.TemporaryDirectory(prefix="card_worker-pgbouncer-") as folder:
        pooler = PgBouncer(Path(folder), server_url)
        try:
            pooler.start()
            yield pooler
        finally:
            pooler.stop()
