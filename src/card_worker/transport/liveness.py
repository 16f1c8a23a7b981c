"""Heartbeats of consumers, and detection of dead consumers.

A consumer's heartbeats are counted in Redis. The others measure with their own monotonic clocks how
long a count has not changed, and count only time in which the server has replied to them. So
neither a step of a clock nor an outage of the server makes a living consumer look dead.
"""

import logging
from collections.abc import Mapping
from threading import Event, Lock, Thread
from time import monotonic

from redis.exceptions import RedisError

from card_worker.transport.in_flight import InFlight

BEAT_S = 2.0
"""Seconds between two heartbeats."""
DEAD_S = 10.0
"""A consumer is dead if its count has not changed in so many seconds of replies by the server."""
REPLY_GAP_S_MAX = 2 * BEAT_S
"""If more seconds lie between two replies, the server was unavailable in between."""
RETRY_S = 0.5
"""Seconds until a heartbeat that failed is tried again."""

log = logging.getLogger(__name__)


class Watch:
    """Detects dead consumers. Thread-safe.

    It outlives connections: an outage does not restart the measurement.
    """

    def __init__(self) -> None:
        self._silent: dict[str, tuple[str, float]] = {}  # consumer -> heartbeats, seconds
        self._last: float | None = None
        self._lock = Lock()

    def observe(self, beats: Mapping[str, str], now: float) -> dict[str, str]:
        """Record every consumer's number of heartbeats, read at `now` of a monotonic clock.

        Return the dead consumers with these numbers.
        """
        with self._lock:
            return self._observe(beats, now)

    def _observe(self, beats: Mapping[str, str], now: float) -> dict[str, str]:
        passed = now - self._last if self._last is not None else 0.0
        replied_s = passed if passed <= REPLY_GAP_S_MAX else 0.0
        before, self._silent, self._last = self._silent, {}, now
        for consumer, count in beats.items():
            known, silent_s = before.get(consumer, (None, 0.0))
            self._silent[consumer] = (count, silent_s + replied_s if known == count else 0.0)
        return {name: count for name, (count, silent) in self._silent.items() if silent >= DEAD_S}


class Heart(Thread):
    """Sends a consumer's heartbeats from a thread, so that they continue during a long task.

    It also puts back the messages of dead consumers.
    """

    def __init__(self, in_flight: InFlight, watch: Watch) -> None:
        super().__init__(name=f"heartbeats of {in_flight.consumer}", daemon=True)
        self._in_flight = in_flight
        self._watch = watch
        self._stopped = Event()

    def stop(self, timeout_s: float) -> None:
        """Send no more heartbeats; wait for the last one, at most for `timeout_s`."""
        self._stopped.set()
        self.join(timeout=timeout_s)

    def run(self) -> None:
        pause_s = 0.0
        while not self._stopped.wait(pause_s):
            try:
                self._beat()
            except RedisError as error:
                # The consumer itself logs that the server is unavailable.
                log.debug("heartbeat failed: %s", type(error).__name__)
                pause_s = RETRY_S
            else:
                pause_s = BEAT_S

    def _beat(self) -> None:
        beats = self._in_flight.beat()
        for consumer, count in self._watch.observe(beats, monotonic()).items():
            try:
                if self._in_flight.return_dead(consumer, count):
                    log.warning("returned the messages of a dead consumer: %a", consumer)
            except RedisError as error:
                # Continue with the other consumers.
                log.warning("messages of %a not returned: %s", consumer, error)
