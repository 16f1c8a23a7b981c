"""Activations with millions of cards in the table, of which a few at random are asked for."""

import random
from itertools import islice

from benchmarks.contestants import OURS
from benchmarks.results import Result, compare
from benchmarks.rounds import Size, interleaved, say
from benchmarks.stage import Stage
from benchmarks.turns import Turn, activate

SMALL = 10_000
LARGE = 5_000_000
COMMANDS = 9_000
"""In a turn, the first of them to warm up."""
ROUNDS_MORE = 2
"""Turns are short here, since a small table has no more cards."""


def run(stage: Stage, size: Size) -> list[Result]:
    """Compare speeds, ours beside ours."""
    rounds, large = size.rounds + ROUNDS_MORE, size.of(LARGE)
    chance = random.Random(large)  # noqa: S311
    numbers = iter(chance.sample(range(large), rounds * COMMANDS))
    say(f"  putting {large:,} cards into a table")
    with stage.place(cards=large) as place:

        def among_few() -> Turn:
            with stage.place(cards=SMALL) as small:
                return activate(small, OURS, chance.sample(range(SMALL), COMMANDS))

        def among_many() -> Turn:
            place.clear()
            return activate(place, OURS, list(islice(numbers, COMMANDS)))

        few, many = f"{SMALL:,} cards", f"{large:,} cards"
        turns = interleaved({few: among_few, many: among_many}, rounds)
    speed = {name: [turn.per_s for turn in played] for name, played in turns.items()}
    name = f"activations, {large:,} cards / {SMALL:,}"
    return [compare(name, speed[many], speed[few], "commands/s", at_least=0.8)]
