"""Starts processes that end with their starter, on ports that stay the same, and ends them."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic

STOP_MAX_S = 10.0
"""From SIGTERM to SIGKILL."""

# Below the ports of outgoing connections: one of those could take ours while a server restarts.
PORTS = range(20_000, 32_768)

# Linux sends a process the signal argv[1] when its parent ends, even by kill -9. A process requests
# that and then becomes the program, because code between fork and exec isn't safe in a program with
# threads.
_TIED = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[1]))  # 1 is PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[2]):
    sys.exit("its starter has ended already")
os.execv(sys.argv[3], sys.argv[3:])
"""

Process = subprocess.Popen[bytes]


def tied(command: Sequence[str], *, by: signal.Signals = signal.SIGTERM) -> list[str]:
    """Return `command` changed so that, on Linux, it gets a signal when its starter's thread ends.

    The first item of `command` is the absolute path of its program.
    """
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _TIED, str(int(by)), str(os.getpid()), *command]


def start(
    command: Sequence[str],
    *,
    log: Path,
    lock: int,
    by: signal.Signals = signal.SIGTERM,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Process:
    """Start a process that is `tied`. It appends its output to `log` and inherits `lock`.

    It has a session of its own, so that Ctrl-C in the terminal does not end it before its turn.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            tied(command, by=by),
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[lock],
            start_new_session=True,
        )


def end(processes: Collection[Process]) -> None:
    """End processes that `start` has started; after STOP_MAX_S kill them and their children."""
    deadline = monotonic() + STOP_MAX_S
    for process in processes:
        process.terminate()
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - monotonic()))
        kill(process)


def kill(process: Process) -> None:
    """Kill a process and its children, as a crash would."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ports_to_try(file: Path, *, count: int, default: int | None = None) -> list[int]:
    """Return the port stored in `file`, else `default`, followed by `count` random ones."""
    first = default
    with suppress(OSError, ValueError):
        first = int(file.read_text())
    return [*([first] if first else []), *random.sample(PORTS, count)]


def remember_port(file: Path, port: int) -> None:
    """Store a port for the next start."""
    file.write_text(f"{port}\n")
