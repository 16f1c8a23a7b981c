"""Heartbeats: saying that a consumer lives, and finding those that don't any more.

A consumer's heartbeats are counted in Redis. The others judge by their own monotonic clocks how
long a count has not changed, and add up only time in which the server has answered them. So neither
a step of a clock nor an outage of the server makes a consumer dead that lives.
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
"""A consumer is dead when its count has not changed for so long, in seconds in which the server
answered."""
ANSWERED_S_MAX = 2 * BEAT_S
"""Between two replies that lie further apart, the server counts as not answering."""
RETRY_S = 0.5
"""Seconds until a heartbeat that failed is tried again."""

log = logging.getLogger(__name__)


class Watch:
    """Which consumers have stopped, as one observer sees them. Usable by any thread.

    It outlives the observer's connections: an outage that ends one doesn't restart the wait.
    """

    def __init__(self) -> None:
        self._silent: dict[str, tuple[str, float]] = {}  # consumer -> heartbeats, seconds
        self._last: float | None = None
        self._lock = Lock()

    def observe(self, beats: Mapping[str, str], now: float) -> dict[str, str]:
        """Take note of every consumer's number of heartbeats, read at `now` of a monotonic clock.

        Return the consumers that are dead, with these numbers.
        """
        with self._lock:
            return self._observe(beats, now)

    def _observe(self, beats: Mapping[str, str], now: float) -> dict[str, str]:
        passed = now - self._last if self._last is not None else 0.0
        answered = passed if passed <= ANSWERED_S_MAX else 0.0
        before, self._silent, self._last = self._silent, {}, now
        for consumer, count in beats.items():
            known, silent_s = before.get(consumer, (None, 0.0))
            self._silent[consumer] = (count, silent_s + answered if known == count else 0.0)
        return {name: count for name, (count, silent) in self._silent.items() if silent >= DEAD_S}


class Heart(Thread):
    """Sends one consumer's heartbeats, in a thread, so that a long task doesn't look like a death.

    It also returns the messages of consumers that are dead.
    """

    def __init__(self, in_flight: InFlight, watch: Watch) -> None:
        super().__init__(name=f"heartbeats of {in_flight.consumer}", daemon=True)
        self._in_flight = in_flight
        self._watch = watch
        self._stopped = Event()

    def stop(self, timeout_s: float) -> None:
        """Send no more heartbeats; return when the last one is over, at the latest in time."""
        self._stopped.set()
        self.join(timeout=timeout_s)

    def run(self) -> None:
        pause_s = 0.0
        while not self._stopped.wait(pause_s):
            try:
                self._beat()
            except RedisError as error:
                # The consumer itself says that the server is away.
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
                # Those of the others are returned nevertheless.
                log.warning("messages of %a not returned: %s", consumer, error)
