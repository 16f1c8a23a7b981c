"""Programs that run for a while: started, paused, resumed, their CPU counted, and ended by pid."""

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from card_worker.embedded.launching import tied

Command = tuple[str, ...]

ROOT = Path(__file__).parents[1]
STOP_MAX_S = 5.0
IDLE_MAX_S = 60.0
IDLE_CPUS = 0.15
"""Who uses less of a CPU than this has nothing to do: some look for work all the time."""


class Failed(Exception):
    """Something did not run as it must; the text says what, and ends with a log if there is one."""


@dataclass(frozen=True)
class Program:
    """A running program, which leads a group of all that it starts."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def pause(self) -> None:
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Ask it to end, then end whatever is left of its group."""
        with suppress(ProcessLookupError):
            self.resume()
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_MAX_S)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def check(self) -> None:
        """Raise Failed if it has ended."""
        if (status := self.process.poll()) is not None:
            raise Failed(f"{self.name} ended with {status}; its log ends with\n{self.tail()}")

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


@contextmanager
def program(
    name: str, command: Command, environment: Mapping[str, str], log: Path
) -> Iterator[Program]:
    """Run `command`, whose program is named by its whole path, in a group of its own."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            tied(command),
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = Program(name, process, log)
    try:
        yield running
    finally:
        running.stop()


def cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU seconds that these processes and their descendants have used so far.

    A child that has ended counts with its parent. Read from /proc/<pid>/stat.
    """
    total = 0.0
    for pid in pids:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])
    return total


def wait_until_idle(programs: Sequence[Program], *, for_s: float = 0.5) -> None:
    """Return when none of them does anything, so that nobody is still starting up."""
    pids = [each.process.pid for each in programs]
    deadline = time.monotonic() + IDLE_MAX_S
    used = cpu_s(pids)
    while time.monotonic() < deadline:
        time.sleep(for_s)
        before, used = used, cpu_s(pids)
        for each in programs:
            each.check()
        if used - before < IDLE_CPUS * for_s * len(pids):
            return
    raise Failed(f"{', '.join(each.name for each in programs)}: still busy after {IDLE_MAX_S} s")
