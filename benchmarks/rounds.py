"""Rounds in which everybody has a turn, so that what else the machine does hits everybody alike."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

Played = TypeVar("Played")


class Speed(float):
    """How many a second."""

    def __str__(self) -> str:
        return f"{float(self):,.0f}/s"


@dataclass(frozen=True)
class Size:
    """How much is measured. `scale` is the part of a full run's commands."""

    rounds: int
    scale: float

    def of(self, commands: int) -> int:
        """Return how many commands to measure where a full run has so many."""
        return int(commands * self.scale)


def interleaved(turns: Mapping[str, Callable[[], Played]], rounds: int) -> dict[str, list[Played]]:
    """Return what each turn came to, by name, once for each round."""
    played: dict[str, list[Played]] = {name: [] for name in turns}
    for number in range(rounds):
        # Every other round backwards, so that nobody always follows the same one.
        for name in turns if number % 2 == 0 else reversed(list(turns)):
            played[name].append(turns[name]())
            say(f"  round {number + 1} of {rounds}: {name}: {played[name][-1]}")
    return played


def say(line: str) -> None:
    """Tell whoever waits."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
