"""Sinks: where the relay publishes events."""

from collections.abc import Sequence
from time import monotonic
from typing import Protocol
from uuid import UUID

import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from card_worker.contracts.enums import EventType
from card_worker.pauses import described
from card_worker.redis_url import RedisAddress
from card_worker.streams import FIELDS, groups_behind
from card_worker.transport.access import check_access, streaming
from card_worker.transport.in_flight import script


class Event(Protocol):
    """An event as it is published: `event` is its JSON."""

    @property
    def id(self) -> UUID: ...
    @property
    def type(self) -> EventType: ...
    @property
    def account_id(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def event(self) -> str: ...


class Sink(Protocol):
    """A destination of events. It gets each event at least once, in order per card."""

    def check(self) -> None:
        """Check that the server allows publishing. Raises Refused if it permanently does not."""

    def publish(self, events: Sequence[Event]) -> None:
        """Publish `events` in their order.

        After an exception, some may have been published. The relay then publishes all of them
        again, with the same ids and bytes.
        """

    def close(self) -> None:
        """Close connections."""


_ADD_ENTRIES = script("add_entries")
GROUPS_S = 60.0
"""Seconds between two looks at the consumer groups."""

log = structlog.get_logger(__name__)


class RedisStream:
    """A Redis Stream: one entry per event, read with consumer groups.

    It keeps at most `entries_max` entries, and none for longer than `keep_s` seconds.
    """

    def __init__(
        self,
        address: RedisAddress,
        stream: str,
        *,
        entries_max: int,
        keep_s: int,
    ) -> None:
        # No retries here: the relay retries, with all events in order.
        self._redis = connect(address)
        self._stream = stream
        self._limits = entries_max, keep_s
        self._groups_at = monotonic()

    def check(self) -> None:
        check_access(self._redis, streaming(self._stream))

    def publish(self, events: Sequence[Event]) -> None:
        values = [
            value
            for event in events
            for value in (str(event.id), event.type, event.account_id, event.subject, event.event)
        ]
        fields = (*self._limits, len(FIELDS), *FIELDS)
        self._redis.eval(_ADD_ENTRIES, 1, self._stream, *fields, *values)
        if monotonic() >= self._groups_at:
            self._groups_at = monotonic() + GROUPS_S
            self._check_groups()

    def _check_groups(self) -> None:
        try:
            for group, entries, seconds in groups_behind(self._redis, self._stream, *self._limits):
                log.warning(
                    "consumer group is behind", group=group, entries=entries, seconds=seconds
                )
        except RedisError as error:
            # The events are published: an error would publish them again.
            log.warning("consumer groups not checked", **described(error))

    def close(self) -> None:
        self._redis.close()


def connect(address: RedisAddress, *, reply_s: float = 5, connect_s: float = 3) -> "Redis":
    """Return a client with timeouts, so that a dead connection raises an error.

    Bytes that are no UTF-8, which others may have written, are read as surrogates.
    """
    return Redis(
        **address.redis_options,
        socket_timeout=reply_s,
        socket_connect_timeout=connect_s,
        socket_keepalive=True,
        health_check_interval=5,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
        # A consumer may give its group any name, by which the server is then asked about it.
        encoding_errors="surrogateescape",
    )
