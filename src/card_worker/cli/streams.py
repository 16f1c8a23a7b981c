"""The standard streams, checked so that no failing output ends a command with a traceback."""

import io
import os
import sys
from contextlib import suppress
from typing import TextIO

from typing_extensions import Buffer


class Unwritable(Exception):
    """Standard output can't be written, such as to a full disk. The text is one line."""


class _Checked(io.FileIO):
    """A standard stream. Output that can't be written raises Unwritable or is dropped.

    A reader that has gone, as in `card list | head`, is no error: further output is dropped, and
    the exit code is that of the command.
    """

    is_gone = False

    def __init__(self, number: int, *, may_fail: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self._may_fail = may_fail

    def write(self, data: Buffer, /) -> int:
        size = memoryview(data).nbytes
        if self.is_gone:
            return size
        try:
            return super().write(data) or 0
        except OSError as error:
            # Buffered output is written again when the process ends.
            self.is_gone = True
            if self._may_fail or isinstance(error, BrokenPipeError):
                return size
            raise Unwritable(f"stdout: {error.strerror}") from None


def check_streams() -> None:
    """Replace stdout and stderr by checked streams, and a closed stream by the null device."""
    for number in (0, 1, 2):
        # Otherwise the next file that is opened would become the stream.
        with suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = _checked(1, sys.stdout, may_fail=False)
    sys.stderr = _checked(2, sys.stderr, may_fail=True)
    # Celery writes there.
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]


def _checked(number: int, before: TextIO | None, *, may_fail: bool) -> io.TextIOWrapper:
    raw = _Checked(number, may_fail=may_fail)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(before, "encoding", None),
        errors="backslashreplace",
        line_buffering=raw.isatty() or may_fail,
    )


def reader_is_gone() -> bool:
    """Return whether the reader of stdout has gone."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return isinstance(raw, _Checked) and raw.is_gone
