"""All kinds of fault, and which of them are done in which order."""

import random
from collections.abc import Collection

from tests.chaos.servers import on_parts, on_postgres, on_redis
from tests.chaos.servers.kinds import Kind

KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (*on_redis.KINDS, *on_postgres.KINDS, *on_parts.KINDS)
}
"""To add a kind is to add an entry to one of these."""
OWN_CLOCK = frozenset(["redis-clock-ahead", "redis-clock-behind"])


def chosen(names: Collection[str], faults: int, seed: int, *, is_long: bool) -> list[Kind]:
    """Return the kinds of so many faults in their order: each of `names`, then by chance.

    Left out is what the machine lacks something for, and what takes a long run.
    """
    kinds = [KINDS[name] for name in names or KINDS]
    able = [kind for kind in kinds if not kind.missing() and (is_long or not kind.long_only)]
    chance = random.Random(seed)
    picked: list[Kind] = []
    while able and len(picked) < faults:
        turn = list(able)
        chance.shuffle(turn)
        picked += turn
    return picked[:faults]


def left_out(names: Collection[str]) -> dict[str, str]:
    """Return which kinds can't be done on this machine, and what it lacks."""
    lacks = {name: KINDS[name].missing() for name in names or KINDS}
    return {name: lack for name, lack in lacks.items() if lack}
