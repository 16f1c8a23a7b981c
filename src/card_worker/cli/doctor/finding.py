"""What a check has found."""

from enum import StrEnum
from typing import NamedTuple

CLOCK_DIFFERENCE_S_MAX = 1.0


class Level(StrEnum):
    """How serious it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, but with less safety, or the check was not possible."""
    WRONG = "wrong"
    """Commands or events are lost, or not handled, until it is repaired."""


class Finding(NamedTuple):
    """One line of the doctor's."""

    level: Level
    part: str
    """What was checked: `settings`, `database`, `broker`, …"""
    text: str
    remedy: str | None = None
    """What to do. None for what is right."""


def clock_finding(part: str, ahead_s: float) -> Finding:
    """Return what it means that this machine's clock is `ahead_s` seconds ahead of a server's."""
    if abs(ahead_s) <= CLOCK_DIFFERENCE_S_MAX:
        return Finding(Level.OK, part, "its clock and that of this machine agree")
    side = "ahead of" if ahead_s > 0 else "behind"
    text = f"this machine's clock is {abs(ahead_s):,.0f} s {side} the server's"
    return Finding(Level.WARNING, part, text, "synchronise the clocks of all machines by NTP")


def ahead_s(before: float, server: float, after: float) -> float:
    """Return by how many seconds at least this machine's clock is ahead of a server's.

    `before` and `after` are its times around the reading of the server's time.
    """
    return max(0.0, before - server) or min(0.0, after - server)
