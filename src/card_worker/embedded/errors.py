"""Why the embedded system does not run.

StackFailed          it cannot go on
├ FolderTaken        another one runs in the folder
├ ProcessEnded       a process ended by itself
└ TooSlow            something did not happen in time
Interrupted          Ctrl-C, SIGTERM or a closed terminal: not a failure
"""

from contextlib import suppress
from pathlib import Path

TAIL_LINES = 15


class StackFailed(Exception):
    """The embedded system cannot go on. The text is for its user."""


class FolderTaken(StackFailed):
    """Another embedded system runs in the folder, or is still ending."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"another one is already running in {folder}")


class ProcessEnded(StackFailed):
    """A process ended that should have gone on."""

    def __init__(self, name: str, status: int, log: Path) -> None:
        super().__init__(f"{name} ended by itself with status {status}{_tail(log)}")


class TooSlow(StackFailed):
    """Something did not happen in time."""

    def __init__(self, what: str, timeout_s: float, log: Path) -> None:
        super().__init__(f"{what} did not come within {timeout_s:g} s{_tail(log)}")


class Interrupted(Exception):
    """The user stopped the command."""


def _tail(log: Path) -> str:
    with suppress(FileNotFoundError):
        lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return "; its log ends with\n" + "\n".join(lines)
    return ""
