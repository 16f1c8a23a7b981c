"""The embedded system: broker, worker, relay, beat and Flower as processes that share a folder."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from time import monotonic, sleep

from celery import Celery
from sqlalchemy import URL, Engine

from card_worker.domain.producers import ProducerKey
from card_worker.embedded import launching
from card_worker.embedded.errors import Interrupted, StackFailed, log_tail
from card_worker.embedded.folder import KEYS, PRODUCER_KEY, locked, make_keys
from card_worker.embedded.launching import Process, ports_to_try, remember_port
from card_worker.embedded.signals import StopRequest
from card_worker.embedded.valkey import Valkey, valkey
from card_worker.relay import LEASE
from card_worker.secrets.signing import SigningKey
from card_worker.settings import SECRET_KEYS
from card_worker.storage import leases, outbox, producers
from card_worker.storage.engine import begin, open_engine, reading
from card_worker.storage.migrations import upgrade

READY_MAX_S = 60.0
DRAIN_MAX_S = 5.0
POLL_S = 0.05
SWEEP_INTERVAL_S = 5
FLOWER_PORT = 5555
SIGNED_AMOUNT_MAX = 1_000_000
"""The largest amount that the producer's key allows, in minor units."""

FOREIGN = ("CARD_WORKER_", "CELERY_", "FLOWER_")
"""The beginnings of environment variables for other installations, which are removed.
CELERY_BROKER_URL, for example, overrides the broker of any Celery app."""

CELERY = ("-m", "celery", "-A", "card_worker")
COMMANDS = {
    "relay": ("-m", "card_worker.cli", "relay"),
    "worker": (*CELERY, "worker", "--loglevel=INFO"),
    "beat": (*CELERY, "beat", "--loglevel=INFO"),
    "flower": (
        *(*CELERY, "flower", "--address=127.0.0.1"),
        # Our workers ignore Flower's control commands, and send events without them.
        "--read_only",
        # Each start of a worker has a name of its own.
        "--purge_offline_workers=60",
        "--tasks_columns=name,uuid,state,result,received,runtime,worker",
    ),
}
"""The arguments of Python for each process except the broker."""


@contextmanager
def running(
    folder: Path, stop: StopRequest, *, beat: bool = False, flower: bool = False
) -> Iterator["Stack"]:
    """Run the system with its data in `folder`; yield it when it is ready, end it afterwards.

    On Linux all processes also end with the thread that started them, even by kill -9. Raises
    StackFailed, Interrupted, NoServer.
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
        stack.register_key()
        # Called in reverse order: the relay publishes the worker's last answers before it ends.
        closing.callback(stack.end, "relay")
        closing.callback(stack.drain)
        closing.callback(stack.end, "worker", "beat", "flower")
        stack.start_all(beat=beat, flower=flower)
        yield stack


class Stack:
    """The running system: its addresses and processes."""

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
        """The age recipient to which producers can seal the tokens and PINs in commands."""
        self.key_file = keys / PRODUCER_KEY
        """The key of a producer, which may do everything but exceed SIGNED_AMOUNT_MAX."""
        self.settings = {
            "CARD_WORKER_BROKER_URL": self.broker_url,
            "CARD_WORKER_DATABASE_URL": self.database_url,
            "CARD_WORKER_FILES_URL": str(self.files),
            **{
                f"CARD_WORKER_{name}_FILE": str(keys / f"{name.lower()}.txt")
                for name in SECRET_KEYS
            },
        }
        """The environment variables with which other programs use this system."""
        self.engine: Engine = open_engine(self.database_url)
        self._broker = broker
        self._stop = stop
        self._lock = lock
        self._processes: dict[str, Process] = {}

    def check(self) -> None:
        """Raise StackFailed if a process has ended, Interrupted if the user stops the command."""
        if self._stop.received:
            raise Interrupted
        broker = "the broker", self._broker.status, self._broker.log
        others = [(name, each.poll(), self._log(name)) for name, each in self._processes.items()]
        for name, status, log in (broker, *others):
            if status is not None:
                raise StackFailed(f"{name} ended by itself with status {status}{log_tail(log)}")

    def wait_until(
        self, is_so: Callable[[], bool], what: str, timeout_s: float, *, name: str = "worker"
    ) -> None:
        """Wait until `is_so()` is true.

        After `timeout_s` seconds raise StackFailed: `what` did not come, and the end of the log of
        the process `name`. Raises the errors of `check`.
        """
        deadline = monotonic() + timeout_s
        self.check()
        while not is_so():
            if monotonic() > deadline:
                tail = log_tail(self._log(name))
                raise StackFailed(f"{what} did not come within {timeout_s:g} s{tail}")
            sleep(POLL_S)
            self.check()

    def register_key(self) -> None:
        """Register the producer's key unless it is."""
        key = SigningKey.read(self.key_file)
        with begin(self.engine) as (connection, now):
            row = ProducerKey(
                key.key_id,
                "dev",
                key.algorithm,
                now,
                now,
                public_key=key.public_key,
                amount_max=SIGNED_AMOUNT_MAX,
            )
            producers.add_key(connection, row)

    def start_all(self, *, beat: bool, flower: bool) -> None:
        """Start the processes, and wait until they are ready."""
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
        """End these processes if they run."""
        launching.end([self._processes.pop(name) for name in names if name in self._processes])

    def drain(self) -> None:
        """Wait until all events are published, at most DRAIN_MAX_S.

        Those that remain are published after the next start.
        """
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
        # Flower closes its API by default. Here it is read-only and listens on loopback.
        settings |= {"FLOWER_UNAUTHENTICATED_API": "true"} if name == "flower" else {}
        self._processes[name] = launching.start(
            [sys.executable, *COMMANDS[name], *options],
            log=self._log(name),
            lock=self._lock,
            # While the broker is unavailable, Flower may take minutes to end after SIGTERM.
            by=signal.SIGKILL if name == "flower" else signal.SIGTERM,
            folder=self.folder,  # it has no Python modules that could replace ours
            environment=os.environ | settings,
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
    """Return a free port: that of the last start, Flower's default, or a random one."""
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
