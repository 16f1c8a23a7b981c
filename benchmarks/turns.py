"""One turn of one contestant: fill its queue while it is paused, let it go, wait for the end."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks.contestants import Contestant, run_peer
from benchmarks.filling import Numbers
from benchmarks.programs import Command, Failed, Program, cpu_s, program, wait_until_idle
from benchmarks.rounds import Speed
from benchmarks.stage import Place, Stage, ours

TURN_MAX_S = 180.0
LOOK_S = 0.01
VERIFIED_MAX_S = 15.0


@dataclass(frozen=True)
class Turn:
    """What a turn took; the CPU time by part, counting all processes of each."""

    commands: int
    seconds: float
    cpu_s: dict[str, float]

    @property
    def per_s(self) -> Speed:
        return Speed(self.commands / self.seconds)

    @property
    def cpu_s_per_10_000(self) -> dict[str, float]:
        return {part: used * 10_000 / self.commands for part, used in self.cpu_s.items()}

    def __str__(self) -> str:
        return str(self.per_s)


def cpu_of_all(turns: Sequence[Turn]) -> list[float]:
    """Return the CPU seconds of all parts per 10,000 commands, for each turn."""
    return [sum(turn.cpu_s_per_10_000.values()) for turn in turns]


def activation_turn(stage: Stage, contestant: Contestant, *, scale: float = 1.0) -> Turn:
    """Let a contestant activate cards in a database of its own; time it until the last answer."""
    commands = int(contestant.commands * scale)
    with stage.place(cards=contestant.warm_up + commands) as place:
        numbers = range(contestant.warm_up + commands)
        return activate(place, contestant, numbers)


def activate(place: Place, contestant: Contestant, numbers: Numbers) -> Turn:
    """Let a contestant activate the cards with these numbers, the first few of them to warm up."""
    before = place.done()
    with team(place, contestant) as members:
        turn = _timed(place, contestant, members, numbers, place.answers)
        verify(place, contestant, {name: rows + len(numbers) for name, rows in before.items()})
    return turn


def nothing_turn(stage: Stage, contestant: Contestant, *, scale: float = 1.0) -> Turn:
    """Let a contestant work off messages that ask for nothing; time it until the last one."""
    numbers = range(contestant.warm_up + int(contestant.commands * scale))
    with stage.place() as place, team(place, contestant, relay=False) as members:
        turn = _timed(place, contestant, members, numbers, place.counted)
        verify(place, contestant, place.done())
        if place.counted() != len(numbers):
            raise Failed(f"{contestant.name} did {place.counted()} of {len(numbers)}")
        return turn


@dataclass(frozen=True)
class Team:
    """A contestant's programs, and the relay that publishes its answers."""

    workers: Sequence[Program]
    relays: Sequence[Program]

    @property
    def all(self) -> list[Program]:
        return [*self.workers, *self.relays]

    def wait(self, is_so: Callable[[], bool], *, max_s: float = TURN_MAX_S) -> None:
        """Return when `is_so`. Raises Failed when it takes too long or a program ends."""
        deadline = time.monotonic() + max_s
        while not is_so():
            for each in self.all:
                each.check()
            if time.monotonic() > deadline:
                raise Failed("\n".join(f"{each.name}: {each.tail()}" for each in self.all))
            time.sleep(LOOK_S)


@contextmanager
def team(place: Place, contestant: Contestant, *, relay: bool = True) -> Iterator[Team]:
    """Run a contestant's programs until the end of the block."""
    if contestant.prepare:
        run_peer(place, contestant.prepare)
    with ExitStack() as running:

        def start(name: str, command: Command) -> Program:
            log = place.folder / f"{name}.log"
            environment = {**place.environment, **contestant.environment}
            return running.enter_context(program(name, command, environment, log))

        relays = [start("relay", (ours("card-worker"), "relay"))] if relay else []
        workers = [
            start(f"{contestant.name} {number}", command)
            for number, command in enumerate(contestant.programs, 1)
        ]
        yield Team(workers, relays)


def warm_up(
    place: Place, contestant: Contestant, members: Team, numbers: Numbers, done: Callable[[], int]
) -> None:
    """Let the team do these commands; return when it has nothing more to do."""
    contestant.send(place, numbers)
    members.wait(lambda: done() >= len(numbers))
    wait_until_idle(members.workers)


def _timed(
    place: Place, contestant: Contestant, members: Team, numbers: Numbers, done: Callable[[], int]
) -> Turn:
    warm_up(place, contestant, members, numbers[: contestant.warm_up], done)
    for worker in members.workers:
        worker.pause()
    commands = numbers[contestant.warm_up :]
    contestant.send(place, commands)
    place.settle()
    parts = {
        "workers": [worker.process.pid for worker in members.workers],
        "relay": [relay.process.pid for relay in members.relays],
        "PostgreSQL": [place.postgres_pid],
        "Valkey": [place.valkey_pid],
    }
    before = {part: cpu_s(pids) for part, pids in parts.items()}
    started = time.perf_counter()
    for worker in members.workers:
        worker.resume()
    members.wait(lambda: done() >= len(numbers))
    seconds = time.perf_counter() - started
    used = {part: cpu_s(pids) - before[part] for part, pids in parts.items()}
    return Turn(len(commands), seconds, used)


def verify(place: Place, contestant: Contestant, expected: dict[str, int]) -> None:
    """Raise Failed unless all work was done, published once, and acknowledged."""
    deadline = time.monotonic() + VERIFIED_MAX_S
    while (done := place.done()) != expected or contestant.left(place):
        if time.monotonic() > deadline:
            left = contestant.left(place)
            raise Failed(f"{contestant.name}: {done} of {expected}; {left} not acknowledged")
        time.sleep(0.1)
