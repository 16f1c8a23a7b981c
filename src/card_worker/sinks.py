"""Where events go. A sink takes them in order, all or none, and may be given one again."""

from collections.abc import Sequence
from typing import Protocol

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from card_worker.storage.outbox import Unpublished


class Sink(Protocol):
    """A place that events are published to."""

    def publish(self, events: Sequence[Unpublished]) -> None:
        """Publish `events` in their order.

        On an exception it is unknown how many arrived, but never a later one without the earlier:
        all are given again, with the same ids and bytes.
        """

    def close(self) -> None:
        """Let go of connections."""


class RedisStream:
    """A Redis Stream: one entry per event, read with consumer groups."""

    def __init__(self, url: str, stream: str) -> None:
        # No retries here: the relay tries again itself, with the whole slice and in order.
        self._redis = connect(url)
        self._stream = stream

    def publish(self, events: Sequence[Unpublished]) -> None:
        # MULTI, so that a server that refuses one entry (out of memory) takes none behind it.
        with self._redis.pipeline(transaction=True) as pipeline:
            for event in events:
                pipeline.xadd(
                    self._stream,
                    {
                        "id": event.id,
                        "type": event.type.value,
                        "account_id": event.account_id,
                        "subject": event.subject,
                        "event": event.event,
                    },
                )
            pipeline.execute()

    def close(self) -> None:
        self._redis.close()


def connect(url: str) -> "Redis":
    """Return a client that notices a dead connection instead of waiting on it for ever."""
    return Redis.from_url(
        url,
        socket_timeout=5,
        socket_connect_timeout=3,
        socket_keepalive=True,
        health_check_interval=5,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
