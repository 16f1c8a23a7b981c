"""Health records of the processes of this machine, for `--check`.

Each process has one small file, which it locks for as long as it lives. Times in it are those of
the machine's monotonic clock, which all processes share and steps of the wall clock don't change.
"""

import atexit
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

Facts = dict[str, Any]
"""The content of a health record: JSON; times in seconds of the monotonic clock."""

FACTS_BYTES = 1024

log = structlog.get_logger(__name__)


class Record:
    """The health record of this process. Its file is unlocked however the process ends."""

    def __init__(self, part: str) -> None:
        for _ in living(part):
            pass  # This removes files of killed processes.
        path = _path(part, os.getpid())
        begun = path.with_suffix(".new")
        begun.unlink(missing_ok=True)
        try:
            self._file = os.open(begun, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            # Renamed when it is locked: an unlocked file belongs to a process that has ended.
            begun.replace(path)
        except OSError as error:
            log.warning("no health record, --check will fail", error=str(error))
            self._file = os.open(os.devnull, os.O_WRONLY)
        atexit.register(path.unlink, missing_ok=True)

    def write(self, facts: Facts) -> None:
        """Replace the content of the record."""
        # One write of fixed length, so that no reader sees a mixture of two.
        os.pwrite(self._file, json.dumps(facts).encode().ljust(FACTS_BYTES), 0)


def living(part: str) -> Iterator[Facts]:
    """Yield the record of each living process of this user with the role `part`.

    Files of processes that have ended are removed.
    """
    pattern = _path(part, "*")
    for path in pattern.parent.glob(pattern.name):
        with suppress(FileNotFoundError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                yield json.loads(file.read() or b"{}")
            else:
                path.unlink()


def _path(part: str, pid: int | str) -> Path:
    return Path(tempfile.gettempdir()) / f"card-worker-{os.getuid()}-{part}-{pid}.json"
