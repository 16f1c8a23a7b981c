"""What a kind of fault is."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from tests.chaos.servers.world import World

Act: TypeAlias = Callable[[World], AbstractContextManager[None]]


class Counts(StrEnum):
    """How the wait of a command counts that falls into a fault."""

    AFTER = "after"
    """From the end of the fault: a whole server is away."""
    IN_FULL = "in full"
    """All of it: the fault concerns a part, or comes and goes."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault. `act` begins it when it is entered and ends it when it is left.

    It lasts for `short_s` in a short run and for `long_s` in a long one, beside what `act` itself
    takes, which is `busy_s` then and then. `missing` says what the machine lacks for it, if it
    lacks something.
    """

    name: str
    act: Act
    short_s: float
    long_s: float
    counts: Counts = Counts.AFTER
    missing: Callable[[], str | None] = lambda: None
    long_only: bool = False
    busy_s: tuple[float, float] = (0.0, 0.0)

    @property
    def what(self) -> str:
        """What it does, in a line."""
        return (self.act.__doc__ or "").partition("\n")[0]
