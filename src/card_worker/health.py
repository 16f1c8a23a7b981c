"""Whether processes work: their own view of it, and records on this machine for `--check`.

Each process has one small record, a file which it locks until it ends. Times are those of the
monotonic clock, which all processes of a machine share.
"""

import atexit
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from mmap import mmap
from pathlib import Path
from struct import pack_into, unpack_from
from threading import current_thread, main_thread
from time import monotonic
from typing import Any

import structlog

Facts = dict[str, Any]
"""The content of a health record: JSON, with times in seconds."""

FACTS_BYTES = 1024
FAILED_S = 30.0
"""Seconds for which a failed acknowledgement counts."""

_progress: mmap | None = None
"""A time, which the children of a pool share."""

log = structlog.get_logger(__name__)


def note_progress() -> None:
    """Note that work goes on: a commit has come to its next statement, or a failure was logged and
    will be retried.

    Threads beside the main one have other work.
    """
    if _progress is not None and current_thread() is main_thread():
        pack_into("d", _progress, 0, monotonic())


class Health:
    """What keeps this process from working, although its servers answer or it retries.

    `stalled_s` is longer than the longest statement of a commit. It must be made before a pool
    forks.
    """

    def __init__(self, stalled_s: float = 60.0) -> None:
        global _progress  # noqa: PLW0603
        _progress = _progress or mmap(-1, 8)
        self._progress = _progress
        self._stalled_s = stalled_s
        self._turned_at = float("-inf")
        self._unsettled_since: float | None = None
        self._unacknowledged: tuple[float, float] | None = None  # the first and the last failure
        note_progress()

    def note_turn(self, unsettled_since: float | None) -> None:
        """Note that the loop turns, and when its oldest unsettled message was delivered."""
        self._turned_at, self._unsettled_since = monotonic(), unsettled_since

    def note_acknowledgement(self, *, done: bool) -> None:
        """Note whether messages that are done could be acknowledged."""
        now = monotonic()
        first = now if self._unacknowledged is None else self._unacknowledged[0]
        self._unacknowledged = None if done else (first, now)

    @property
    def acknowledges(self) -> bool:
        """Whether no acknowledgement has failed since the last one that succeeded.

        A failure long ago says nothing: perhaps there was nothing to acknowledge since.
        """
        failed = self._unacknowledged
        return failed is None or monotonic() - failed[1] > FAILED_S

    def problem(self) -> str | None:
        """Return why the process should be restarted, in one line; None if it should not be."""
        progress_at: float = unpack_from("d", self._progress)[0]
        still_s = monotonic() - max(self._turned_at, progress_at)
        if still_s > self._stalled_s:
            return f"nothing was done or retried for {still_s:.0f} s"
        if self._unsettled_since is not None:
            unsettled_s = monotonic() - max(self._unsettled_since, progress_at)
            if unsettled_s > self._stalled_s:
                return f"messages were neither done nor retried for {unsettled_s:.0f} s"
        if self._unacknowledged is not None:
            first, last = self._unacknowledged
            if last - first > self._stalled_s and not self.acknowledges:
                return f"messages that are done were not acknowledged for {last - first:.0f} s"
        return None


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
