"""The state that Redis holds for all processes: queues, messages in flight, the stream, memory.

Read for metrics and for operators. Every function raises RedisError, and changes nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from redis import Redis

from card_worker.transport.access import lists_of
from card_worker.transport.in_flight import InFlight, script

_HEADS = script("heads")


class BrokerState(NamedTuple):
    """The queues, and what workers have taken from them."""

    waiting: Mapping[str, int]
    """Number of messages by queue, of all priorities."""
    in_flight: int
    """Number of messages that workers have taken and not acknowledged."""
    consumers: int
    """Number of workers, without those that others have found dead."""


class StreamState(NamedTuple):
    """The event stream; all zero if there is none."""

    entries: int
    bytes: int
    """Memory of the server, roughly."""


class MemoryState(NamedTuple):
    """The memory of a server, in bytes."""

    used: int
    max: int
    """Beyond it the server accepts no writes; 0: no limit."""


def read_broker(redis: Redis, queues: Sequence[str]) -> BrokerState:
    """Return the state of these queues, and of all messages in flight."""
    keys = InFlight(redis, "")
    consumers: Any = redis.zrange(keys.consumers_key, 0, -1)
    lists = [name for queue in queues for name in lists_of(queue)]
    with redis.pipeline(transaction=False) as pipeline:
        for name in lists:
            pipeline.llen(name)
        for consumer in consumers:
            pipeline.hlen(keys.hashes + _text(consumer))
        counts = pipeline.execute()
    of_lists = dict(zip(lists, counts, strict=False))
    waiting = {queue: sum(of_lists[name] for name in lists_of(queue)) for queue in queues}
    return BrokerState(waiting, sum(counts[len(lists) :]), len(consumers))


def read_heartbeats(redis: Redis) -> dict[str, float]:
    """Return the number of heartbeats of each worker, which a living one counts up every BEAT_S."""
    beats: Any = redis.zrange(InFlight(redis, "").consumers_key, 0, -1, withscores=True)
    return {_text(consumer): count for consumer, count in beats}


def read_stream(redis: Redis, stream: str) -> StreamState:
    """Return the state of a stream."""
    return StreamState(int(redis.xlen(stream)), int(redis.memory_usage(stream) or 0))


def read_memory(redis: Redis) -> MemoryState:
    """Return the memory of the server."""
    memory: Any = redis.info("memory")
    return MemoryState(int(memory["used_memory"]), int(memory["maxmemory"]))


def read_version(redis: Redis) -> str:
    """Return the name and the version of the server, such as `Valkey 9.1.2`."""
    server: Any = redis.info("server")
    if "valkey_version" in server:
        return f"Valkey {server['valkey_version']}"
    return f"Redis {server['redis_version']}"


class Unmoved:
    """Measures for how long the messages that are taken next have been the same.

    They have waited for longer: since before the first look. Only a user who may read queues can
    look.
    """

    def __init__(self) -> None:
        self._since: dict[str, tuple[str, float]] = {}

    def observe(self, redis: Redis, queues: Sequence[str], now: float) -> dict[str, float]:
        """Return the seconds by queue, 0 for an empty one; `now` is a time of one clock."""
        lists = [name for queue in queues for name in lists_of(queue)]
        heads: Any = redis.eval(_HEADS, len(lists), *lists)
        before, self._since = self._since, {}
        for name, sha1 in zip(lists, map(_text, heads), strict=True):
            if sha1:
                known, since = before.get(name, (sha1, now))
                self._since[name] = (sha1, since if known == sha1 else now)
        return {
            queue: max(now - self._since.get(name, ("", now))[1] for name in lists_of(queue))
            for queue in queues
        }


def _text(value: bytes | str) -> str:
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value
