"""Starting processes that end with their starter, on ports that stay the same."""

import os
import random
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# Below the ports of outgoing connections: one of those could take ours while a server restarts.
PORTS = range(20_000, 32_768)

# Linux ends a process when its starter ends, even by kill -9. A process asks for that and then
# becomes the program, because code between fork and exec isn't safe in a program with threads.
_TIED = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[1]))  # 1 is PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[2]):
    sys.exit("its starter has ended already")
os.execv(sys.argv[3], sys.argv[3:])
"""


def tied(command: Sequence[str], *, by: signal.Signals = signal.SIGTERM) -> list[str]:
    """Return `command` so that, on Linux, it gets a signal when the thread that starts it ends.

    The command begins with the absolute path of its program.
    """
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _TIED, str(int(by)), str(os.getpid()), *command]


def ports_to_try(file: Path, *, count: int, default: int | None = None) -> list[int]:
    """Return the port that `file` remembers, else `default`, and `count` random ones after it."""
    first = default
    with suppress(OSError, ValueError):
        first = int(file.read_text())
    return [*([first] if first else []), *random.sample(PORTS, count)]


def remember_port(file: Path, port: int) -> None:
    """Write down a port that was free, for the next start."""
    file.write_text(f"{port}\n")
