"""The relay: publishes the outbox to the sinks, in order per card and at least once."""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from time import monotonic, sleep
from uuid import uuid4

import structlog
from redis.exceptions import RedisError
from sqlalchemy import Connection, Engine

from card_worker.domain.answers import repeated
from card_worker.pauses import Pauses, keep_trying
from card_worker.sinks import Event, Sink
from card_worker.storage import leases, outbox
from card_worker.storage.engine import begin
from card_worker.storage.errors import is_retryable, needs_operator
from card_worker.storage.outbox import Unpublished
from card_worker.storage.repeats import Repeat, delete_repeats, first_repeats

LEASE = leases.RELAY
RENEW_S = 3.0
SLICE_EVENTS = 500
PUBLICATION_BYTES_MAX = 4 * 1024 * 1024
"""Maximum for the bytes of events that are published together; a single event may have more."""
POLL_S = 0.4
"""Poll interval while idle, in case a notification was lost."""
ALL_POSITIONS_S = 60.0
"""Seconds between two searches below the watermark. A server that has lost its last commits may
assign their positions again."""
STANDBY_POLL_S = 1.0
"""Seconds between two attempts of a standby relay to take the lease."""
GATHER_S = 0.005
"""Minimum of seconds between two slices, so that the events of small commits are gathered."""
PAUSE_S_MAX = 2.0
STOP_CHECK_S = 0.1

log = structlog.get_logger(__name__)


class Relay:
    """Publishes the events in the outbox until it is stopped.

    A lease in the database lets one relay publish at a time. The order does not depend on it: a
    relay that was suspended for longer than its lease publishes the events that it has already
    read once more, byte for byte, and must take the lease again before it reads more.
    """

    def __init__(self, engine: Engine, sinks: Sequence[Sink]) -> None:
        self._engine = engine
        self._sinks = sinks
        self._holder = f"{socket.gethostname()}/{os.getpid()}/{uuid4().hex[:8]}"
        self._renew_at = 0.0
        self._is_checked = False
        self._watermark = outbox.Watermark()
        self._all_at = 0.0
        self._published: Sequence[Unpublished] = ()
        """Published, but not marked as published yet: a full slice is marked with the next one."""
        self._repeated: Sequence[Repeat] = ()
        """Published again, but not deleted yet."""

    def run(self, stopping: Callable[[], bool]) -> None:
        """Publish until `stopping()` is true. Retries while the database or a sink is unavailable.

        Raises Refused if a sink permanently refuses what publishing needs.
        """
        log.info("relay started", holder=self._holder)
        keep_trying(
            lambda: self._publish(stopping),
            "database or sink unavailable",
            pauses=Pauses(first_s=0.1, max_s=PAUSE_S_MAX),
            is_retryable=lambda error: isinstance(error, RedisError) or is_retryable(error),
            is_alarming=needs_operator,
            wait=lambda seconds: _sleep(seconds, stopping),
        )
        self._release()
        log.info("relay stopped", holder=self._holder)

    def _publish(self, stopping: Callable[[], bool]) -> None:
        self._renew_at = 0.0
        if not self._is_checked and not stopping():
            for sink in self._sinks:
                sink.check()
            self._is_checked = True
        while not stopping():
            if not self._has_lease():
                _sleep(STANDBY_POLL_S, stopping)
                continue
            with outbox.watching(self._engine) as wait:
                while not stopping() and self._has_lease():
                    gathered_at = monotonic() + GATHER_S
                    if self._publish_slice() < SLICE_EVENTS:
                        wait(POLL_S)
                        sleep(max(0.0, gathered_at - monotonic()))

    def _publish_slice(self) -> int:
        """Publish the next events, at most SLICE_EVENTS; return their number."""
        at = monotonic()
        above = self._watermark.position
        if at >= self._all_at:
            above, self._all_at = 0, at + ALL_POSITIONS_S
        is_writing = bool(self._published or self._repeated)
        with begin(self._engine, writing=is_writing) as (connection, _):
            self._write_published(connection)
            oldest = outbox.oldest_running(connection)
            events = outbox.first_unpublished(connection, SLICE_EVENTS, above=above)
            repeats = first_repeats(connection, SLICE_EVENTS)
        self._watermark.advance(events, oldest=oldest)
        self._published, self._repeated = (), ()
        again = [repeated(repeat.answer, repeat.command_id) for repeat in repeats]
        for part in _publications([*events, *again]):
            for sink in self._sinks:
                sink.publish(part)
        self._published, self._repeated = events, repeats
        count = max(len(events), len(repeats))
        if 0 < count < SLICE_EVENTS:
            self._mark_published()
        if count:
            log.debug("events published", events=len(events), repeats=len(repeats))
        return count

    def _mark_published(self) -> None:
        with begin(self._engine) as (connection, _):
            self._write_published(connection)
        self._published, self._repeated = (), ()

    def _write_published(self, connection: Connection) -> None:
        outbox.mark_published(connection, self._published)
        if self._published:
            self._watermark.note(connection, self._published[-1].position, at=monotonic())
        delete_repeats(connection, self._repeated)

    def _has_lease(self) -> bool:
        now = monotonic()
        if now < self._renew_at:
            return True
        with begin(self._engine) as (connection, _):
            taken = leases.take(
                connection, LEASE, self._holder, at=now, position=self._watermark.position
            )
        self._renew_at = now + RENEW_S if taken else 0.0
        return taken

    def _release(self) -> None:
        try:
            self._mark_published()
            with begin(self._engine) as (connection, _):
                leases.release(connection, LEASE, self._holder)
        except Exception as error:
            if not is_retryable(error):
                raise
            log.warning("lease not released, other relays wait", wait_s=leases.ABANDONED_S)


def _publications(events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    """Split `events` into parts of at most PUBLICATION_BYTES_MAX, or of a single event."""
    part: list[Event] = []
    size = 0
    for event in events:
        event_bytes = len(event.event.encode())
        if part and size + event_bytes > PUBLICATION_BYTES_MAX:
            yield part
            part, size = [], 0
        part.append(event)
        size += event_bytes
    if part:
        yield part


def _sleep(seconds: float, stopping: Callable[[], bool]) -> None:
    until = monotonic() + seconds
    while monotonic() < until and not stopping():
        sleep(STOP_CHECK_S)
