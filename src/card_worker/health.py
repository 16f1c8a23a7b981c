"""What the processes of this machine say of their own health, for `--check`.

Each process keeps one small file, locked for as long as it lives. Times in it are read from the
machine's monotonic clock, which no step of the wall clock changes and which all processes share.
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
"""What a process says of itself: JSON; times in seconds of the monotonic clock."""

FACTS_BYTES = 1024

log = structlog.get_logger(__name__)


class Record:
    """The file of this process. Whatever ends the process unlocks it."""

    def __init__(self, part: str) -> None:
        for _ in living(part):
            pass  # It removes what killed processes have left.
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
        """Replace what the process has said before."""
        # One write of one length, so that no reader sees parts of two.
        os.pwrite(self._file, json.dumps(facts).encode().ljust(FACTS_BYTES), 0)


def living(part: str) -> Iterator[Facts]:
    """Yield what each living process of this user that is called `part` said last.

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
