"""Messages that ask for nothing: what queue, worker and acknowledgement cost by themselves."""

import statistics
from functools import partial

from benchmarks.contestants import NOTHING_PEERS, NOTHING_PLAIN, OURS_NOTHING
from benchmarks.results import Result, compare
from benchmarks.rounds import Size, interleaved
from benchmarks.stage import Stage
from benchmarks.turns import nothing_turn

ORDER = (*NOTHING_PEERS, OURS_NOTHING, NOTHING_PLAIN)


def run(stage: Stage, size: Size) -> list[Result]:
    """Compare speeds. All that take part acknowledge after the work."""
    play = {one.name: partial(nothing_turn, stage, one, scale=size.scale) for one in ORDER}
    turns = interleaved(play, size.rounds)
    speed = {name: [turn.per_s for turn in played] for name, played in turns.items()}
    ours, plain, unit = speed[OURS_NOTHING.name], speed[NOTHING_PLAIN.name], "messages/s"
    best = max((one.name for one in NOTHING_PEERS), key=lambda name: statistics.median(speed[name]))
    others = [
        compare(
            f"no-op messages / {one.name}{', the best other peer' if one.name == best else ''}",
            ours,
            speed[one.name],
            unit,
            at_least=1.5 if one.name == best else None,
        )
        for one in NOTHING_PEERS
    ]
    return [compare("no-op messages / plain Celery", ours, plain, unit, at_least=8), *others]
