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
    """Return the kinds of so many faults in their order: each of `names` once, then once more."""
    missing = left_out(names, is_long=is_long)
    able = [KINDS[name] for name in names or KINDS if name not in missing]
    chance = random.Random(seed)
    picked: list[Kind] = []
    while able and len(picked) < faults:
        turn = list(able)
        chance.shuffle(turn)
        picked += turn
    return picked[:faults]


def left_out(names: Collection[str], *, is_long: bool) -> dict[str, str]:
    """Return which kinds can't be done, by what each of them needs."""
    found: dict[str, str] = {}
    for name in names or KINDS:
        lack = KINDS[name].missing()
        if lack is None and KINDS[name].long_only and not is_long:
            lack = "a long run"
        if lack is not None:
            found[name] = lack
    return found
