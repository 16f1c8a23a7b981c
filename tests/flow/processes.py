"""The parts of the system as processes of their own: started, watched, stopped, killed.

Each leads a session of its own, so that all of it can be killed at once; has nothing in its
environment but what it is given; and writes to a log whose end a failing test shows.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

from card_worker.embedded.launching import tied
from card_worker.embedded.stack import COMMANDS
from tests.forks import Fork

WAIT_S = 180.0
"""How long a test waits for what has to come: some seconds, but a machine may be very busy."""
LOOK_S = 0.02
TAIL_LINES = 40
DATABASE_URL = "CARD_WORKER_DATABASE_URL"

CELERY = ("-m", "celery", "-A", "card_worker")
PARTS = {
    "worker": (*CELERY, "worker", "--loglevel=INFO"),
    "relay": ("-m", "card_worker.cli", "relay"),
    "beat": ("-m", "card_worker.cli", "beat"),
    "flower": COMMANDS["flower"],
}
"""The parts by name; arguments of this Python."""


def until(
    is_so: Callable[[], object], what: str, *, within_s: float = WAIT_S, every_s: float = LOOK_S
) -> None:
    """Return when `is_so`; fail, saying what did not come, when it isn't in time."""
    deadline = monotonic() + within_s
    while not is_so():
        assert monotonic() < deadline, f"{what} did not come within {within_s:g} s"
        sleep(every_s)


class Part:
    """One process, and what it has written. On Linux it also ends when the tests are killed."""

    def __init__(
        self,
        log: Path,
        command: tuple[str, ...],
        environment: dict[str, str],
        cwd: Path,
        *,
        forked: bool = False,
    ) -> None:
        """Start Python with the arguments `command`; `forked` takes one that has imported much."""
        self.log = log
        self._killed = False
        self._process: Fork | subprocess.Popen[bytes]
        if forked and sys.platform == "linux":
            dash_m, module, *arguments = command
            assert dash_m == "-m"
            self._process = Fork(module, *arguments, env=environment, cwd=cwd, stdout=log)
        else:
            with log.open("ab") as out:
                self._process = subprocess.Popen(
                    tied([sys.executable, *command]),
                    env=environment,
                    cwd=cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def said(self) -> str:
        """All that it has written."""
        return self.log.read_text(errors="replace")

    @property
    def tail(self) -> str:
        return "\n".join(self.said.splitlines()[-TAIL_LINES:])

    def says(self, words: str, *, times: int = 1) -> None:
        """Return when `words` stand in its log, so many times at least."""

        def is_said() -> bool:
            return self.said.count(words) >= times

        until(lambda: is_said() or not self.runs, f"{words!r} in {self.log.name}")
        assert is_said(), f"it ended:\n{self.tail}"

    def stop(self) -> int:
        """End it in order; return what it ended with."""
        self.ask_to_stop()
        return self.ended()

    def ask_to_stop(self) -> None:
        self._process.terminate()

    def pause(self) -> None:
        """Stop it where it is, with all it has started, as a machine that is suspended does."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self._process.pid, signal.SIGCONT)

    def ended(self, *, within_s: float = WAIT_S) -> int:
        """Return what it ended with by itself."""
        return self._process.wait(within_s)

    def kill9(self) -> None:
        """End it and all it has started, as a crash of the machine would."""
        # Once only: what has been waited for has no number any more, and another may have got it.
        if not self._killed:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._killed = True


def flower_address(flower: Part) -> str | None:
    """Return the host and port of a Flower that was started with --port=0; None at its start."""
    found = re.search(r"Visit me at http://(127\.0\.0\.1:\d+)", flower.said)
    return found and found[1]


def _variables(settings: Mapping[str, str]) -> dict[str, str]:
    return {f"CARD_WORKER_{name}": value for name, value in settings.items()}


class Parts:
    """Parts that share a folder and settings."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.settings = _variables(settings)
        self.databases: dict[str, dict[str, str]] = {}
        """The variable DATABASE_URL, or none, for parts with a login of their own, by name."""
        self.all: list[Part] = []
        self.temporary = folder / "tmp"
        self.temporary.mkdir(exist_ok=True)

    def start(self, part: str, *options: str, **settings: str) -> Part:
        """Start a part by its name, in a fork; `settings` are for it alone."""
        return self.fork(*PARTS[part], *options, name=part, **settings)

    def fork(self, *arguments: str, name: str, **settings: str) -> Part:
        """Start `-m MODULE` as `run` does, in a fork, without the time for imports."""
        return self._start(arguments, name, _variables(settings), forked=True)

    def run(
        self,
        *arguments: str,
        name: str = "run",
        env: Mapping[str, str] | None = None,
        **settings: str,
    ) -> Part:
        """Start this Python with `arguments`; `env` is more for its environment."""
        own = _variables(settings) | dict(env or {})
        return self._start(arguments, name, own, forked=False)

    def _start(
        self, arguments: tuple[str, ...], name: str, own: dict[str, str], *, forked: bool
    ) -> Part:
        cwd = self.folder / "cwd"
        cwd.mkdir(exist_ok=True)
        log = self.folder / f"{len(self.all)}-{name}.log"
        environment = self.environment()
        if name in self.databases:
            environment.pop(DATABASE_URL, None)
            environment |= self.databases[name]
        started = Part(log, arguments, environment | own, cwd, forked=forked)
        self.all.append(started)
        return started

    def environment(self) -> dict[str, str]:
        """Return all that a part finds in its environment."""
        flower = {"FLOWER_UNAUTHENTICATED_API": "true"}  # it is on loopback, and only looks
        folders = {"HOME": str(self.folder), "TMPDIR": str(self.temporary)}
        return {"PATH": os.defpath, **folders, **flower, **self.settings}

    def tails(self) -> Iterator[tuple[str, str]]:
        """Yield what each has written last, with the name of its log."""
        for part in self.all:
            yield part.log.name, part.tail

    def end(self) -> None:
        """Leave nothing running."""
        for part in self.all:
            part.kill9()


@contextmanager
def parts(folder: Path, **settings: str) -> Iterator[Parts]:
    """Give parts that can be started in `folder`; leave none running."""
    folder.mkdir(exist_ok=True)
    all_parts = Parts(folder, **settings)
    try:
        yield all_parts
    finally:
        all_parts.end()
