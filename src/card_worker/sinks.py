"""Where events go. A sink takes them in order, all or none, and may be given one again."""

from collections.abc import Sequence
from typing import Protocol

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from card_worker.redis_url import RedisAddress
from card_worker.storage.outbox import Unpublished
from card_worker.transport.access import check_access, streaming


class Sink(Protocol):
    """A place that events are published to."""

    def check(self) -> None:
        """Try what publishing needs. Raises Refused if waiting can't mend what is refused."""

    def publish(self, events: Sequence[Unpublished]) -> None:
        """Publish `events` in their order.

        On an exception it is unknown how many arrived, but never a later one without the earlier:
        all are given again, with the same ids and bytes.
        """

    def close(self) -> None:
        """Let go of connections."""


# KEYS: the stream. ARGV: how many fields an entry has, their names, then the values of each entry.
# A server that is out of memory refuses the first XADD; having let that pass, the others too.
_ADD_ALL = """
local names = tonumber(ARGV[1])
for first = 2 + names, #ARGV, names do
  local entry = {}
  for i = 1, names do
    entry[2 * i - 1], entry[2 * i] = ARGV[1 + i], ARGV[first + i - 1]
  end
  redis.call('XADD', KEYS[1], '*', unpack(entry))
end
"""
FIELDS = ("id", "type", "account_id", "subject", "event")


class RedisStream:
    """A Redis Stream: one entry per event, read with consumer groups."""

    def __init__(self, address: RedisAddress, stream: str) -> None:
        # No retries here: the relay tries again itself, with the whole slice and in order.
        self._redis = connect(address)
        self._stream = stream

    def check(self) -> None:
        check_access(self._redis, streaming(self._stream))

    def publish(self, events: Sequence[Unpublished]) -> None:
        values = [
            value
            for event in events
            for value in (str(event.id), event.type, event.account_id, event.subject, event.event)
        ]
        self._redis.eval(_ADD_ALL, 1, self._stream, len(FIELDS), *FIELDS, *values)

    def close(self) -> None:
        self._redis.close()


def connect(address: RedisAddress) -> "Redis":
    """Return a client that notices a dead connection instead of waiting on it for ever."""
    return Redis(
        **address.redis_options,
        socket_timeout=5,
        socket_connect_timeout=3,
        socket_keepalive=True,
        health_check_interval=5,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
