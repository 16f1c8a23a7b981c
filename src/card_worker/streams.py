"""The stream of events, compared with its consumer groups."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import ResponseError


class GroupBehind(NamedTuple):
    """A consumer group that will lose entries if it goes on like this."""

    group: str
    entries: int | None
    """How many entries it hasn't read; None if Redis doesn't know."""
    seconds: int
    """The age of the oldest entry that it hasn't read or acknowledged."""


def groups_behind(
    redis: Redis, stream: str, entries_max: int, keep_s: int
) -> Iterator[GroupBehind]:
    """Yield the consumer groups that are behind by half of `entries_max` or of `keep_s`.

    Raises RedisError. `redis` decodes responses.
    """
    try:
        groups: Any = redis.xinfo_groups(stream)
    except ResponseError as error:
        if "no such key" not in str(error):
            raise
        return
    now: Any = redis.time()
    for group in groups:
        seconds = max(0, now[0] - _oldest_ms(redis, stream, group, now[0] * 1000) // 1000)
        lag = group.get("lag")
        if seconds * 2 >= keep_s or (lag or 0) * 2 >= entries_max:
            yield GroupBehind(group["name"], lag, seconds)


def _oldest_ms(redis: Redis, stream: str, group: dict[str, Any], now_ms: int) -> int:
    """Return when the oldest entry was added that a group hasn't read or acknowledged."""
    unread: Any = redis.xrange(stream, f"({group['last-delivered-id']}", "+", count=1)
    ids = [id for id, _ in unread]
    if group["pending"]:
        pending: Any = redis.xpending(stream, group["name"])
        ids.append(pending["min"])
    return min((int(id.partition("-")[0]) for id in ids if id), default=now_ms)
