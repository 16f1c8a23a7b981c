"""What was done and seen, and how long commands had to wait."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.chaos.servers.crew import Ended
from tests.chaos.servers.journal import Asked
from tests.chaos.servers.kinds import Counts, Kind

WAIT_MAX_S = 60.0
SHOWN_MAX = 20
TAILS_MAX = 5


@dataclass(eq=False)
class Episode:
    """One fault, and the time until the next one. Seconds of the monotonic clock."""

    kind: Kind
    opened: float
    """From here on commands belong to it."""
    began: float
    ended: float
    locked_card: str | None = None
    rescued: bool = False
    """Whether all parts had to be started anew."""

    def waited(self, one: Asked, *, until: float) -> float:
        """Return how many seconds of a command's wait count."""
        assert one.accepted is not None
        seconds = until - one.accepted
        spared = self.kind.counts is Counts.AFTER
        if spared or (self.locked_card is not None and one.card_id == self.locked_card):
            seconds -= max(0.0, min(until, self.ended) - max(one.accepted, self.began))
        return max(0.0, seconds)


@dataclass
class Waits:
    """The waits of the commands that fell into one kind of fault, in seconds."""

    kind: str
    times: int = 0
    commands: int = 0
    longest_s: float = 0.0


@dataclass
class Report:
    """All that is printed at the end."""

    seed: int
    commands: int = 0
    messages: int = 0
    repeats: int = 0
    retries: int = 0
    letters: int = 0
    told_again: int = 0
    memory_mb: int = 0
    seconds: float = 0.0
    episodes: list[Episode] = field(default_factory=list)
    waits: list[Waits] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def failures(self) -> list[str]:
        """What was lost, doubled, off, too slow, or ended by itself."""
        rescued = [
            f"{episode.kind.name}: answers came only after all parts were started anew, or never"
            for episode in self.episodes
            if episode.rescued
        ]
        return [*map(str, self.ended), *rescued, *self.violations]

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{'kind of fault':28}{'times':>6}{'commands':>10}{'longest wait':>14}"
        for waits in self.waits:
            longest = f"{waits.longest_s:.1f} s"
            yield f"{waits.kind:28}{waits.times:6}{waits.commands:10}{longest:>14}"
        yield ""
        for name, lack in self.left_out.items():
            yield f"LEFT OUT: {name} needs {lack}"
        faults = len(self.episodes)
        yield f"faults {faults}, kinds {len(self.waits)}, seed {self.seed}, {self.seconds:.0f} s"
        yield (
            f"commands {self.commands}: {self.commands - self.letters} answered,"
            f" {self.letters} dead letters; {self.messages} messages,"
            f" {self.repeats} of them repeats, {self.retries} sends tried again"
        )
        yield f"events told more than once, the same to the byte: {self.told_again}"
        yield f"memory of the largest part: {self.memory_mb} MB"
        failures = self.failures
        for failure in failures[:SHOWN_MAX]:
            yield f"FAILED: {failure}"
        if len(failures) > SHOWN_MAX:
            yield f"... and {len(failures) - SHOWN_MAX} more"
        for ended in self.ended[:TAILS_MAX]:
            yield f"--- end of the log of {ended.name}\n{ended.tail}"
        if not failures:
            yield (
                f"nothing lost, doubled, off or later than {WAIT_MAX_S:g} s; N = {faults} faults:"
                f" with 95 % confidence fewer than {min(1.0, 3 / max(faults, 1)):.1%} do such harm"
            )


def measure(
    asked: Iterable[Asked], episodes: Sequence[Episode], now: float
) -> Iterator[tuple[Episode, Asked, float]]:
    """Yield each accepted command with its episode and the seconds it waited; until now, if it
    still does."""
    starts = sorted(episodes, key=lambda episode: episode.opened)
    place = 0
    for one in sorted((one for one in asked if one.accepted is not None), key=_accepted):
        while place + 1 < len(starts) and starts[place + 1].opened <= _accepted(one):
            place += 1
        until = now if one.answered is None else one.answered
        yield starts[place], one, starts[place].waited(one, until=until)


def _accepted(one: Asked) -> float:
    assert one.accepted is not None
    return one.accepted


def waits_by_kind(
    measured: Iterable[tuple[Episode, Asked, float]], episodes: Sequence[Episode]
) -> list[Waits]:
    """Return the waits of each kind, in the order of their names."""
    found: dict[str, Waits] = {}
    for episode in episodes:
        found.setdefault(episode.kind.name, Waits(episode.kind.name)).times += 1
    for episode, _, seconds in measured:
        waits = found[episode.kind.name]
        waits.commands += 1
        waits.longest_s = max(waits.longest_s, seconds)
    return sorted(found.values(), key=lambda waits: waits.kind)
