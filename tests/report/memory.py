"""The memory that a command takes at its peak."""

import os
import re
import subprocess
import sys

# Not from wait4: that counts the memory of the process that started it, too.
PROGRAM = """
import atexit, pathlib
from card_worker.cli import main
atexit.register(lambda: print(pathlib.Path("/proc/self/status").read_text()))
main()
"""


def peak_kib(url: str, *arguments: object) -> int:
    """Run a command of `card-worker` that succeeds; return its peak in KiB."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        env={**os.environ, "CARD_WORKER_DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=True,
    )
    (high_water_mark,) = re.findall(r"^VmHWM:\s+(\d+) kB", done.stdout, re.MULTILINE)
    return int(high_water_mark)
