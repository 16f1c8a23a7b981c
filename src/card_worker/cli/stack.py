"""The embedded system: all parts as processes in one folder, started together, ended in order.

StackFailed          it can't go on; the text is for whoever started it
├ FolderTaken        another one runs on the folder
├ PartEnded          a part ended by itself
└ TooSlow            something did not come in its time
Interrupted          Ctrl-C or SIGTERM: not a failure
"""

import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from stat import S_ISDIR
from time import monotonic, sleep

from sqlalchemy import URL, Engine

from card_worker.cli.embedded import PORTS, Valkey, tied, valkey
from card_worker.relay import LEASE
from card_worker.secrets.peppers import new_pepper
from card_worker.secrets.sealing import new_identity, read_identities
from card_worker.settings import FROM_FILES, PEPPERS
from card_worker.storage import leases, outbox
from card_worker.storage.engine import open_engine, reading
from card_worker.storage.migrations import upgrade

READY_MAX_S = 60.0
STOP_MAX_S = 10.0  # From SIGTERM to SIGKILL.
DRAIN_MAX_S = 5.0
LOOK_S = 0.05
SWEEP_INTERVAL_S = 5
FLOWER_PORT = 5555
TAIL_LINES = 15
LOCK, KEYS = "lock", "keys"

# Set for other installations. CELERY_BROKER_URL even goes before a broker that a program names.
FOREIGN = ("CARD_WORKER_", "CELERY_", "FLOWER_")

CELERY = ("-m", "celery", "-A", "card_worker")
COMMANDS = {
    "relay": ("-m", "card_worker.cli", "relay"),
    "worker": (*CELERY, "worker", "--loglevel=INFO"),
    "beat": (*CELERY, "beat", "--loglevel=INFO"),
    # Workers send events by themselves; Flower needn't tell them to, and they wouldn't be told.
    "flower": (*CELERY, "flower", "--address=127.0.0.1", "--read_only"),
}
"""What runs besides the broker, by name; arguments of this Python."""


class StackFailed(Exception):
    """The parts can't go on together."""


class FolderTaken(StackFailed):
    """Another stack runs on the folder, or is still ending."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"one is running already in {folder}")


class PartEnded(StackFailed):
    """A part ended that should have gone on."""

    def __init__(self, part: str, status: int, log: Path) -> None:
        super().__init__(f"{part} ended by itself with status {status}{_tail(log)}")


class TooSlow(StackFailed):
    """Something did not happen within its time."""

    def __init__(self, what: str, timeout_s: float, log: Path) -> None:
        super().__init__(f"{what} did not come within {timeout_s:g} s{_tail(log)}")


class Interrupted(Exception):
    """Someone asked us to stop."""


@dataclass
class StopAsked:
    """Whether someone asked us to stop."""

    is_so: bool = False


@contextmanager
def catching_signals() -> Iterator[StopAsked]:
    """Turn Ctrl-C, SIGTERM and a closed terminal into something to look at.

    Nothing is raised at a moment of the signal's choosing, so that no process is ever started and
    then forgotten, and no clean-up is cut short.
    """
    asked, before = StopAsked(), {}

    def on_signal(*_: object) -> None:
        asked.is_so = True

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Under nohup, a closed terminal is nothing.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, on_signal)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def running(
    folder: Path, asked: StopAsked, *, beat: bool = False, flower: bool = False
) -> Iterator["Stack"]:
    """Run the system on what `folder` holds, or raise; leave nothing running.

    Commands pass through it from the first moment on. On Linux all parts also end with the thread
    that started them, even by kill -9.

    Raises StackFailed, Interrupted, NoServer.
    """
    folder = folder.absolute()
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    with ExitStack() as closing:
        lock = closing.enter_context(_locked(folder))
        broker = closing.enter_context(valkey(folder / "broker"))
        stack = Stack(folder, broker, asked, lock)
        closing.callback(stack.engine.dispose)
        upgrade(stack.database_url)
        # In this order backwards: what was answered last is still published.
        closing.callback(stack.end, "relay")
        closing.callback(stack.drain)
        closing.callback(stack.end, "worker", "beat", "flower")
        stack.start_all(beat=beat, flower=flower)
        yield stack


class Stack:
    """The running system: where its parts are, and whether they are well."""

    def __init__(self, folder: Path, broker: Valkey, asked: StopAsked, lock: int) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.files = folder / "files"
        self.broker_url = broker.url
        url = URL.create("sqlite", database=str(folder / "cards.sqlite3"))
        self.database_url = url.render_as_string()
        self.flower_url: str | None = None
        keys = folder / KEYS
        self.recipient = _make_keys(keys)
        """To whom producers may seal tokens and PINs on their way."""
        # What a program needs to know to join.
        self.settings = {
            "CARD_WORKER_DATABASE_URL": self.database_url,
            "CARD_WORKER_BROKER_URL": self.broker_url,
            "CARD_WORKER_FILES_URL": str(self.files),
            **{
                f"CARD_WORKER_{name}_FILE": str(keys / f"{name.lower()}.txt") for name in FROM_FILES
            },
        }
        self.engine: Engine = open_engine(self.database_url)
        self._broker = broker
        self._asked = asked
        self._lock = lock
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def check(self) -> None:
        """Return when all is well. Raises Interrupted, PartEnded."""
        if self._asked.is_so:
            raise Interrupted
        if (status := self._broker.status) is not None:
            raise PartEnded("the broker", status, self._broker.log)
        for part, process in self._processes.items():
            if (status := process.poll()) is not None:
                raise PartEnded(part, status, self._log(part))

    def wait_until(
        self, is_so: Callable[[], bool], what: str, timeout_s: float, *, part: str = "worker"
    ) -> None:
        """Return when `is_so`; `part` is whose log tells if not.

        Raises TooSlow with `what`, and what check raises.
        """
        deadline = monotonic() + timeout_s
        self.check()
        while not is_so():
            if monotonic() > deadline:
                raise TooSlow(what, timeout_s, self._log(part))
            sleep(LOOK_S)
            self.check()

    def start_all(self, *, beat: bool, flower: bool) -> None:
        """Start the parts; return when they are ready for work."""
        lease_before = self._relay_lease()
        for part in ("worker", "relay", *(["beat"] if beat else [])):
            self._start(part)
        if flower:
            port = _flower_port()
            self.flower_url = f"http://127.0.0.1:{port}/"
            self._start("flower", f"--port={port}")
        self._await("relay", lambda: self._relay_lease() not in (None, lease_before))
        self._await("worker", self._worker_answers)
        if flower:
            self._await("flower", lambda: _answers_http(port))

    def end(self, *parts: str) -> None:
        """End these parts in order, after STOP_MAX_S by force. Those that don't run are ended."""
        ending = [self._processes.pop(part) for part in parts if part in self._processes]
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
        """Give the relay time to publish what waits; what is left waits for the next start."""
        deadline = monotonic() + DRAIN_MAX_S
        relay = self._processes.get("relay")
        while relay and relay.poll() is None and monotonic() < deadline:
            with reading(self.engine) as connection:
                if outbox.oldest_unpublished(connection) is None:
                    return
            sleep(LOOK_S)

    def _start(self, part: str, *options: str) -> None:
        self.logs.mkdir(exist_ok=True)
        settings = {**self.settings, "CARD_WORKER_SWEEP_INTERVAL_S": str(SWEEP_INTERVAL_S)}
        # Flower's API is closed otherwise. It is on loopback, and read-only.
        settings |= {"FLOWER_UNAUTHENTICATED_API": "true"} if part == "flower" else {}
        with self._log(part).open("ab") as log:
            # Celery looks for a celeryconfig.py where it is started: here there is none. Ctrl-C at
            # the terminal must not reach a part before its turn, hence a session of its own.
            self._processes[part] = subprocess.Popen(
                # While its broker is away, Flower may take minutes to end by itself.
                tied(
                    [sys.executable, *COMMANDS[part], *options],
                    by=signal.SIGKILL if part == "flower" else signal.SIGTERM,
                ),
                cwd=self.folder,
                env=os.environ | settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[self._lock],
                start_new_session=True,
            )

    def _await(self, part: str, is_ready: Callable[[], bool]) -> None:
        self.wait_until(is_ready, f"{part}'s first sign of life", READY_MAX_S, part=part)

    def _relay_lease(self) -> object:
        with reading(self.engine) as connection:
            return leases.find(connection, LEASE)

    def _worker_answers(self) -> bool:
        from celery import Celery

        with Celery(broker=self.broker_url, set_as_current=False) as app:
            return bool(app.control.ping(timeout=0.5, limit=1))

    def _log(self, part: str) -> Path:
        return self.logs / f"{part}.log"


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Give a lock on `folder` that the parts inherit: it is free when the last one has ended.

    Nobody else may look into the folder: there are keys in it, and what they open.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)  # of one that was there
    with (folder / LOCK).open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderTaken(folder) from None
        # Whatever is above this folder, its contents aren't to be committed.
        (folder / ".gitignore").write_text("*\n")
        yield lock.fileno()


def remove_abandoned(folders: Iterable[Path]) -> None:
    """Remove folders of ours with keys whose system has been killed, and so holds no lock."""
    for folder in folders:
        with suppress(OSError):
            status = folder.lstat()
            is_ours = S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
            # Keys are made under the lock: one that is just being set up has none.
            if not is_ours or not (folder / KEYS).is_dir():
                continue
            with (folder / LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)


def _make_keys(folder: Path) -> str:
    """Make this installation's keys, the first time; return what commands can be sealed to."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in PEPPERS:
        _write_once(folder / f"{name.lower()}.txt", new_pepper("k1"))
    identity = folder / "command_identities.txt"
    _write_once(identity, new_identity().secret)
    (known,) = read_identities([identity.read_text()])
    return str(known.to_public())


def _write_once(file: Path, line: str) -> None:
    if not file.exists():
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
            new.write(f"{line}\n")


def _flower_port() -> int:
    """Return the port that everyone knows if it is free, else another one."""
    for port in (FLOWER_PORT, *random.sample(PORTS, 20)):
        with suppress(OSError), socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("127.0.0.1", port))
            return port
    raise StackFailed("no free port for Flower")


def _answers_http(port: int) -> bool:
    try:
        connection = HTTPConnection("127.0.0.1", port, timeout=1)
        connection.request("GET", "/healthcheck")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False


def _tail(log: Path) -> str:
    with suppress(FileNotFoundError):
        lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return "; its log ends with\n" + "\n".join(lines)
    return ""
