"""Activations end to end, from messages that wait to the last answer; and their CPU seconds."""

import os
import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from benchmarks.contestants import (
    OTHER_PEERS,
    OURS,
    OURS_ALONE,
    OURS_IN_LISTS,
    OURS_PREFORK,
    PLAIN_CORE,
    PLAIN_ORM,
)
from benchmarks.results import Result, compare
from benchmarks.rounds import Size, interleaved
from benchmarks.stage import Stage
from benchmarks.turns import Turn, activation_turn, cpu_of_all

# Those who are compared stand close to one another.
ORDER = (*OTHER_PEERS, OURS, PLAIN_ORM, OURS_IN_LISTS, PLAIN_CORE, OURS_ALONE, OURS_PREFORK)
CORES_MIN = 4
"""Two workers, the relay, PostgreSQL and the broker have to find room beside one another."""

Turns = dict[str, list[Turn]]


def run(stage: Stage, size: Size) -> list[Result]:
    """Compare speeds and CPU seconds."""
    play = {one.name: partial(activation_turn, stage, one, scale=size.scale) for one in ORDER}
    turns = interleaved(play, size.rounds)
    return [*_beside_peers(turns), *_among_ours(turns), *_cpu(turns)]


def _beside_peers(turns: Turns) -> list[Result]:
    speed = {name: _speeds(played) for name, played in turns.items()}
    ours, lists, unit = speed[OURS.name], speed[OURS_IN_LISTS.name], "commands/s"
    best = max((one.name for one in OTHER_PEERS), key=lambda name: statistics.median(speed[name]))
    others = [
        compare(
            f"activations / {one.name}{', the best other peer' if one.name == best else ''}",
            ours,
            speed[one.name],
            unit,
            at_least=20 if one.name == best else None,
        )
        for one in OTHER_PEERS
    ]
    return [
        compare("activations / plain ORM", ours, speed[PLAIN_ORM.name], unit, at_least=20),
        compare("activations / plain Core", ours, speed[PLAIN_CORE.name], unit, at_least=12),
        *others,
        compare("in lists of 1,000 / plain ORM", lists, speed[PLAIN_ORM.name], unit, at_least=40),
    ]


def _among_ours(turns: Turns) -> list[Result]:
    ours, unit = _speeds(turns[OURS.name]), "commands/s"
    alone, prefork = _speeds(turns[OURS_ALONE.name]), _speeds(turns[OURS_PREFORK.name])
    two = compare("2 workers / 1 worker", ours, alone, unit, at_least=1.6)
    if (cores := os.cpu_count() or 1) < CORES_MIN:
        two = replace(two, met=None, name=f"{two.name}, not judged: {cores} cores")
    return [two, compare("2 solo workers / 1 prefork worker of 2", ours, prefork, unit)]


def _cpu(turns: Turns) -> list[Result]:
    unit = "CPU s per 10,000"
    ours, plain = turns[OURS.name], turns[PLAIN_ORM.name]
    parts = [
        compare(
            f"… of which {part}",
            [turn.cpu_s_per_10_000[part] for turn in ours],
            [turn.cpu_s_per_10_000[part] for turn in plain],
            unit,
        )
        for part in ours[0].cpu_s
    ]
    return [
        compare("CPU / plain ORM", cpu_of_all(ours), cpu_of_all(plain), unit, at_most=0.05),
        *parts,
    ]


def _speeds(turns: Sequence[Turn]) -> list[float]:
    return [turn.per_s for turn in turns]
