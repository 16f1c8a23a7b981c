"""Errors of the embedded system."""

from contextlib import suppress
from pathlib import Path

TAIL_LINES = 15


class StackFailed(Exception):
    """The embedded system cannot run. The text is for its user."""


class Interrupted(Exception):
    """Ctrl-C, SIGTERM or a closed terminal stopped the command: not a failure."""


def log_tail(log: Path) -> str:
    """Return the end of a log, to be appended to an error; nothing if there is no log."""
    with suppress(FileNotFoundError):
        lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return "; its log ends with\n" + "\n".join(lines)
    return ""
