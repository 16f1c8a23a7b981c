"""A Valkey server for faults: users of its own, all writes on disk, a clock that can be set."""

import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError
from redis.retry import Retry

from card_worker.embedded.launching import PORTS, tied
from card_worker.embedded.valkey import NoServer, find_binary

USER, PASSWORD = "cards", "a-password"
"""The user of the system's parts. The harness itself is the default user."""
READY_MAX_S = 60.0
FAKETIME = (
    Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"),
    Path("/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1"),
)


def faketime() -> Path | None:
    """Return the library that sets the clock of a process; None when it isn't installed."""
    return next((path for path in FAKETIME if path.exists()), None)


class Broker:
    """A server on 127.0.0.1 that keeps its port and its data over a restart.

    Every write is on disk before it is acknowledged, so that a kill loses nothing.
    """

    def __init__(self, folder: Path, *, own_clock: bool = False) -> None:
        self.folder = folder
        self.port = 0
        self._own_clock = own_clock
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        self.set_clock(0)

    def url(self, port: int) -> str:
        """Return the URL for the system's parts, at the server's own port or at a proxy's."""
        return f"redis://{USER}:{PASSWORD}@127.0.0.1:{port}/0"

    def client(self, *, timeout_s: float = 3.0, text: bool = True) -> "Redis":
        """Return a client of the default user that tries nothing twice."""
        return Redis(
            port=self.port,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            decode_responses=text,
        )

    def start(self, *, load_delay_us: int = 0, wait: bool = True) -> None:
        """Start the server; return when it has read its data back, if `wait`.

        `load_delay_us` is added for each key of a snapshot that it reads back.
        """
        assert self._process is None, "running already"
        for port in [self.port] if self.port else random.sample(PORTS, 3):
            self._process = self._spawn(port, load_delay_us)
            self.port = port
            if not wait or self._answers(self._process):
                return
            self.kill()
        raise NoServer(f"Valkey did not start: {self._log().read_text(errors='replace')[-500:]}")

    def stop(self) -> None:
        """End the server in order, else by force."""
        if self._process is not None:
            self.signal(signal.SIGCONT)
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            self.kill()

    def kill(self) -> None:
        """End the server with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server."""
        assert self._process is not None, "not running"
        self._process.send_signal(number)

    def set_clock(self, offset_s: int) -> None:
        """Step the server's clock to so many seconds from the machine's."""
        # Replaced in one step: the server may read it at any time.
        new = self.folder / "clock.new"
        new.write_text(f"{offset_s:+d}\n")
        new.replace(self.folder / "clock")

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + READY_MAX_S
        with self.client(timeout_s=1) as client:
            while time.monotonic() < deadline and process.poll() is None:
                with suppress(RedisError):
                    return bool(client.info("server")["process_id"] == process.pid)
                time.sleep(0.02)
        return False

    def is_loading(self) -> bool:
        """Say whether the server is still reading its data back."""
        with self.client() as client:
            try:
                client.ping()
            except BusyLoadingError:
                return True
            except RedisError:
                return False
        return False

    def _spawn(self, port: int, load_delay_us: int) -> subprocess.Popen[bytes]:
        options = (
            f"--bind 127.0.0.1 --port {port} --appendonly yes --appendfsync always"
            f" --maxmemory-policy noeviction --key-load-delay {load_delay_us}"
            f" --loading-process-events-interval-bytes 1024"
            f" --enable-protected-configs local --dir {self.folder} --logfile {self._log()}"
            f" --user {USER} on >{PASSWORD} ~* &* +@all"
        ).split()
        environment: dict[str, str] = {}
        library = faketime()
        if self._own_clock and library is not None:
            environment = {
                "LD_PRELOAD": str(library),
                "FAKETIME_TIMESTAMP_FILE": str(self.folder / "clock"),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        with self._log().open("ab") as log:
            return subprocess.Popen(
                tied(["/usr/bin/env", *_assignments(environment), find_binary(), "--save", ""])
                + options,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _log(self) -> Path:
        return self.folder / "valkey.log"


def _assignments(environment: dict[str, str]) -> list[str]:
    # Not by Popen's env: the interpreter of `tied` would run with a set clock, too.
    return [f"{name}={value}" for name, value in environment.items()]
