"""The embedded system: broker, worker, relay, beat and Flower as processes that share a folder."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from time import monotonic, sleep

from celery import Celery
from sqlalchemy import URL, Engine

from card_worker.embedded.errors import Interrupted, ProcessEnded, StackFailed, TooSlow
from card_worker.embedded.folder import KEYS, locked, make_keys
from card_worker.embedded.launching import ports_to_try, remember_port, tied
from card_worker.embedded.signals import StopRequest
from card_worker.embedded.valkey import Valkey, valkey
from card_worker.relay import LEASE
from card_worker.settings import FROM_FILES
from card_worker.storage import leases, outbox
from card_worker.storage.engine import open_engine, reading
from card_worker.storage.migrations import upgrade

READY_MAX_S = 60.0
STOP_MAX_S = 10.0
"""From SIGTERM to SIGKILL."""
DRAIN_MAX_S = 5.0
POLL_S = 0.05
SWEEP_INTERVAL_S = 5
FLOWER_PORT = 5555

FOREIGN = ("CARD_WORKER_", "CELERY_", "FLOWER_")
"""Environment variables that were set for other installations. CELERY_BROKER_URL would even
override a broker that a program names."""

CELERY = ("-m", "celery", "-A", "card_worker")
COMMANDS = {
    "relay": ("-m", "card_worker.cli", "relay"),
    "worker": (*CELERY, "worker", "--loglevel=INFO"),
    "beat": (*CELERY, "beat", "--loglevel=INFO"),
    # Our workers ignore Flower's control commands, and send events without them.
    "flower": (*CELERY, "flower", "--address=127.0.0.1", "--read_only"),
}
"""The processes besides the broker, by name; arguments of this Python."""


@contextmanager
def running(
    folder: Path, stop: StopRequest, *, beat: bool = False, flower: bool = False
) -> Iterator["Stack"]:
    """Run the system on the data in `folder`; leave nothing running.

    It handles commands as soon as it is yielded. On Linux all processes also end with the thread
    that started them, even by kill -9. Raises StackFailed, Interrupted, NoServer.
    """
    folder = folder.absolute()
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    with ExitStack() as closing:
        lock = closing.enter_context(locked(folder))
        broker = closing.enter_context(valkey(folder / "broker"))
        stack = Stack(folder, broker, stop, lock)
        closing.callback(stack.engine.dispose)
        upgrade(stack.database_url)
        # Called in reverse order: the relay still publishes the last answers of the worker.
        closing.callback(stack.end, "relay")
        closing.callback(stack.drain)
        closing.callback(stack.end, "worker", "beat", "flower")
        stack.start_all(beat=beat, flower=flower)
        yield stack


class Stack:
    """The running system: its addresses, and whether all its processes run."""

    def __init__(self, folder: Path, broker: Valkey, stop: StopRequest, lock: int) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.files = folder / "files"
        self.broker_url = broker.url
        url = URL.create("sqlite", database=str(folder / "cards.sqlite3"))
        self.database_url = url.render_as_string()
        self.flower_url: str | None = None
        keys = folder / KEYS
        self.recipient = make_keys(keys)
        """The age recipient that producers may seal the tokens and PINs in commands to."""
        self.settings = {
            "CARD_WORKER_BROKER_URL": self.broker_url,
            "CARD_WORKER_DATABASE_URL": self.database_url,
            "CARD_WORKER_FILES_URL": str(self.files),
            **{
                f"CARD_WORKER_{name}_FILE": str(keys / f"{name.lower()}.txt") for name in FROM_FILES
            },
        }
        """The environment variables that another program needs to use this system."""
        self.engine: Engine = open_engine(self.database_url)
        self._broker = broker
        self._stop = stop
        self._lock = lock
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def check(self) -> None:
        """Return if all processes run. Raises Interrupted, ProcessEnded."""
        if self._stop.received:
            raise Interrupted
        if (status := self._broker.status) is not None:
            raise ProcessEnded("the broker", status, self._broker.log)
        for name, process in self._processes.items():
            if (status := process.poll()) is not None:
                raise ProcessEnded(name, status, self._log(name))

    def wait_until(
        self, is_so: Callable[[], bool], what: str, timeout_s: float, *, name: str = "worker"
    ) -> None:
        """Return when `is_so`; `name` is the process whose log explains why not.

        Raises TooSlow with `what`, and the errors of `check`.
        """
        deadline = monotonic() + timeout_s
        self.check()
        while not is_so():
            if monotonic() > deadline:
                raise TooSlow(what, timeout_s, self._log(name))
            sleep(POLL_S)
            self.check()

    def start_all(self, *, beat: bool, flower: bool) -> None:
        """Start the processes; return when they are ready for work."""
        lease_before = self._relay_lease()
        for name in ("worker", "relay", *(["beat"] if beat else [])):
            self._start(name)
        if flower:
            port = _flower_port(self.folder / "flower-port")
            self.flower_url = f"http://127.0.0.1:{port}/"
            self._start("flower", f"--port={port}")
        self._await("relay", lambda: self._relay_lease() not in (None, lease_before))
        self._await("worker", self._worker_answers)
        if flower:
            self._await("flower", lambda: _answers_http(port))

    def end(self, *names: str) -> None:
        """End these processes, if they run, after STOP_MAX_S by force."""
        ending = [self._processes.pop(name) for name in names if name in self._processes]
        deadline = monotonic() + STOP_MAX_S
        for process in ending:
            process.terminate()
        for process in ending:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - monotonic()))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def drain(self) -> None:
        """Give the relay DRAIN_MAX_S to publish what waits. The next start publishes the rest."""
        deadline = monotonic() + DRAIN_MAX_S
        relay = self._processes.get("relay")
        while relay and relay.poll() is None and monotonic() < deadline:
            with reading(self.engine) as connection:
                if outbox.oldest_unpublished(connection) is None:
                    return
            sleep(POLL_S)

    def _start(self, name: str, *options: str) -> None:
        self.logs.mkdir(exist_ok=True)
        settings = {**self.settings, "CARD_WORKER_SWEEP_INTERVAL_S": str(SWEEP_INTERVAL_S)}
        # Flower's API is closed by default. Ours listens on loopback, and is read-only.
        settings |= {"FLOWER_UNAUTHENTICATED_API": "true"} if name == "flower" else {}
        with self._log(name).open("ab") as log:
            # In a session of its own, so that Ctrl-C at the terminal doesn't end it before its
            # turn; in a folder without a module that could replace one of ours.
            self._processes[name] = subprocess.Popen(
                # While its broker is away, Flower may take minutes to end by itself.
                tied(
                    [sys.executable, *COMMANDS[name], *options],
                    by=signal.SIGKILL if name == "flower" else signal.SIGTERM,
                ),
                cwd=self.folder,
                env=os.environ | settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[self._lock],
                start_new_session=True,
            )

    def _await(self, name: str, is_ready: Callable[[], bool]) -> None:
        self.wait_until(is_ready, f"the start of {name}", READY_MAX_S, name=name)

    def _relay_lease(self) -> object:
        with reading(self.engine) as connection:
            return leases.find(connection, LEASE)

    def _worker_answers(self) -> bool:
        with Celery(broker=self.broker_url, set_as_current=False) as app:
            return bool(app.control.ping(timeout=0.5, limit=1))

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"


def _flower_port(remembered: Path) -> int:
    """Return a free port: that of the last start, else Flower's default, else another one."""
    for port in ports_to_try(remembered, count=20, default=FLOWER_PORT):
        with suppress(OSError), socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("127.0.0.1", port))
            remember_port(remembered, port)
            return port
    raise StackFailed("no free port for Flower")


def _answers_http(port: int) -> bool:
    try:
        connection = HTTPConnection("127.0.0.1", port, timeout=1)
        connection.request("GET", "/healthcheck")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
