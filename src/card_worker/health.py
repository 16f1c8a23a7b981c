"""Health records of the processes of this machine, for `--check`.

Each process has one small file, which it locks until it ends. Times are those of the monotonic
clock, which all processes of a machine share.
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
"""The content of a health record: JSON, with times in seconds."""

FACTS_BYTES = 1024

log = structlog.get_logger(__name__)


class Record:
    """The health record of this process. The end of the process, however it ends, unlocks it."""

    def __init__(self, role: str) -> None:
        for _ in living(role):
            pass  # This removes files of killed processes.
        path = _path(role, os.getpid())
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        try:
            self._file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            # Renamed after it is locked, because unlocked files count as abandoned.
            new.replace(path)
        except OSError as error:
            log.warning("health record not created, --check will fail", error=str(error))
            self._file = os.open(os.devnull, os.O_WRONLY)
        atexit.register(path.unlink, missing_ok=True)

    def write(self, facts: Facts) -> None:
        """Replace the content of the record."""
        # One write of fixed length, so that readers never see parts of two.
        os.pwrite(self._file, json.dumps(facts).encode().ljust(FACTS_BYTES), 0)


def living(role: str) -> Iterator[Facts]:
    """Yield the record of each running process of this user with this role, such as `worker`.

    Removes the files of processes that have ended.
    """
    pattern = _path(role, "*")
    for path in pattern.parent.glob(pattern.name):
        with suppress(FileNotFoundError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                yield json.loads(file.read() or b"{}")
            else:
                path.unlink()


def _path(role: str, pid: int | str) -> Path:
    return Path(tempfile.gettempdir()) / f"card-worker-{os.getuid()}-{role}-{pid}.json"
