"""Why the embedded system cannot run: StackFailed and its subclasses; or was stopped."""

from contextlib import suppress
from pathlib import Path

TAIL_LINES = 15


class StackFailed(Exception):
    """The embedded system cannot run. The text is for its user."""


class FolderTaken(StackFailed):
    """Another embedded system is running in the folder, or is still ending."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"another demo or dev is already running in {folder}")


class ProcessEnded(StackFailed):
    """A process ended unexpectedly."""

    def __init__(self, name: str, status: int, log: Path) -> None:
        super().__init__(f"{name} ended by itself with status {status}{_tail(log)}")


class TooSlow(StackFailed):
    """Something did not happen in time."""

    def __init__(self, what: str, timeout_s: float, log: Path) -> None:
        super().__init__(f"{what} did not come within {timeout_s:g} s{_tail(log)}")


class Interrupted(Exception):
    """Ctrl-C, SIGTERM or a closed terminal stopped the command: not a failure."""


def _tail(log: Path) -> str:
    with suppress(FileNotFoundError):
        lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return "; its log ends with\n" + "\n".join(lines)
    return ""
