"""The relay: outbox → sinks, in order per card, at least once, one relay at a time."""

import os
import socket
from collections.abc import Callable, Sequence
from time import monotonic, sleep
from uuid import uuid4

import structlog
from redis.exceptions import RedisError
from sqlalchemy import Engine
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    wait_random_exponential,
)

from card_worker.sinks import Sink
from card_worker.storage import leases, outbox
from card_worker.storage.engine import begin, is_transient

LEASE = "relay"
LEASE_S = 10.0
"""How long the others wait for a relay that died without a word."""
RENEW_S = 3.0
SLICE_EVENTS = 500
REST_S = 0.4
"""At rest: how long until a look is taken although nobody said that there is something."""
GATHER_S = 0.005
"""Between two publications: many small commits are not as many publications."""
PAUSE_S_MAX = 2.0

log = structlog.get_logger(__name__)


class Relay:
    """Publishes what the outbox holds until it is told to stop.

    A lease in the database lets one relay work at a time. It saves work, not order: a relay that
    was paused past its lease repeats events that are already out, byte for byte, and then finds
    that it must ask for the lease again before it reads on.
    """

    def __init__(self, engine: Engine, sinks: Sequence[Sink]) -> None:
        self._engine = engine
        self._sinks = sinks
        self._holder = f"{socket.gethostname()}/{os.getpid()}/{uuid4().hex[:8]}"
        self._renew_at = 0.0

    def run(self, stopping: Callable[[], bool]) -> None:
        """Publish until `stopping` says so. Redis or the database being away is waited out."""
        log.info("relay started", holder=self._holder)
        retrying = Retrying(
            retry=retry_if_exception(_is_away),
            wait=wait_random_exponential(multiplier=0.1, max=PAUSE_S_MAX),
            stop=lambda _: stopping(),
            before_sleep=self._on_away,
            reraise=True,
        )
        try:
            while not stopping():
                # A new count of tries for each stretch that went well.
                retrying.copy()(self._publish_until_away, stopping)
        except Exception as error:
            if not (stopping() and _is_away(error)):
                raise
        self._release()
        log.info("relay stopped", holder=self._holder)

    def _publish_slice(self, watch: outbox.Watch) -> int:
        """Publish the next events, at most SLICE_EVENTS; return how many there were."""
        if not self._has_lease():
            return 0
        events = outbox.first_unpublished(watch.connection, SLICE_EVENTS)
        if not events:
            return 0
        for sink in self._sinks:
            sink.publish(events)
        outbox.mark_published(watch.connection, events)
        log.debug("events published", events=len(events))
        return len(events)

    def _publish_until_away(self, stopping: Callable[[], bool]) -> None:
        with outbox.watching(self._engine) as watch:
            while not stopping():
                rested_at = monotonic() + GATHER_S
                if self._publish_slice(watch) < SLICE_EVENTS:
                    watch.wait(REST_S)
                    sleep(max(0.0, rested_at - monotonic()))

    def _has_lease(self) -> bool:
        asked_at = monotonic()
        if asked_at < self._renew_at:
            return True
        with begin(self._engine) as (connection, now):
            taken = leases.take(connection, LEASE, self._holder, now, LEASE_S)
        # Counted from before the question, so that the lease lasts longer than we believe.
        self._renew_at = asked_at + RENEW_S if taken else 0.0
        return taken

    def _release(self) -> None:
        try:
            with begin(self._engine) as (connection, _):
                leases.release(connection, LEASE, self._holder)
        except Exception as error:
            if not is_transient(error):
                raise
            log.warning("lease not released, it runs out by itself", seconds=LEASE_S)

    def _on_away(self, state: RetryCallState) -> None:
        self._renew_at = 0.0
        error = state.outcome.exception() if state.outcome else None
        log.warning("relay waits", error=type(error).__name__, tries=state.attempt_number)


def _is_away(error: BaseException) -> bool:
    return isinstance(error, RedisError) or is_transient(error)
