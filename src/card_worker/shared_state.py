"""The state that all processes share, as gauges of a worker, and whether its servers answer."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from threading import Lock
from time import monotonic
from typing import TypeVar

import structlog
from prometheus_client.metrics_core import Metric
from redis import Redis
from sqlalchemy import Engine, select

from card_worker import metrics
from card_worker.contracts.dead_letters import UNAUTHENTICATED
from card_worker.exporter import Check, gauge, serve
from card_worker.health import Health
from card_worker.pauses import described
from card_worker.redis_url import RedisAddress
from card_worker.sinks import connect
from card_worker.storage.engine import open_engine, reading
from card_worker.storage.leases import Lease
from card_worker.storage.state import read_database
from card_worker.transport.state import Unmoved, read_broker, read_memory, read_stream

CACHED_S = 10.0
"""Seconds for which what was read is shown."""
READY_S = 1.0
"""The same for the check whether the servers answer, which anybody on the network may ask for."""
DATABASE_S_MAX = 2
REDIS_S_MAX = 1.0

T = TypeVar("T")

log = structlog.get_logger(__name__)


class SharedState:
    """Reads the state with connections and short timeouts of its own. Thread-safe.

    A part that can't be read has no gauges, and is counted as an error.
    """

    def __init__(
        self,
        database_url: str,
        broker: RedisAddress,
        events: RedisAddress,
        *,
        stream: str,
        queues: Sequence[str],
    ) -> None:
        self.database_url, self.broker, self._events = database_url, broker, events
        self._stream, self._queues = stream, queues
        self._unmoved = Unmoved()
        self._lease: tuple[Lease | None, float] = (None, 0.0)
        self._failing: dict[str, str] = {}
        self.parts = {
            "database": self._of_database,
            "broker": self._of_broker,
            "events": self._of_events,
        }
        self.gauges: Callable[[], list[Metric]] = _cached(self._read, CACHED_S)
        """Returns the gauges, at most CACHED_S old."""

    def _read(self) -> list[Metric]:
        return [each for part in self.parts.items() for each in self._try(*part)]

    def _try(self, part: str, read: Callable[[], Iterable[Metric]]) -> list[Metric]:
        try:
            found = list(read())
        except Exception as error:
            metrics.count(metrics.STATE_ERRORS, part)
            if self._failing.get(part) != type(error).__name__:
                log.warning("state not read for metrics", part=part, **described(error))
            self._failing[part] = type(error).__name__
            return []
        self._failing.pop(part, None)
        return found

    def _of_database(self) -> Iterator[Metric]:
        engine = _brief_engine(self.database_url)
        try:
            state = read_database(engine, statement_s_max=DATABASE_S_MAX)
        finally:
            engine.dispose()
        oldest = state.oldest_unpublished
        oldest_s = 0.0 if oldest is None else max(0.0, (state.at - oldest).total_seconds())
        yield _one("unpublished_events", "Events that wait to be published.", state.unpublished)
        yield _one("unpublished_oldest_seconds", "How long the first of them has waited.", oldest_s)
        if self._lease[0] != state.relay:
            self._lease = (state.relay, monotonic())
        if state.relay is not None:
            yield gauge(
                "card_worker_relay_lease_unrenewed_at_least_seconds",
                "For how long the holder of the relay's lease has not renewed it, at least.",
                {(state.relay.holder,): monotonic() - self._lease[1]},
                "holder",
            )
        yield gauge(
            "card_worker_dead_letters_open",
            "Dead letters that are not resolved.",
            {(reason,): count for reason, count in state.dead_letters.items()},
            "reason",
        )
        yield _one("cards_due", "Cards whose time has passed, not expired yet.", state.cards_due)
        yield _one("holds_due", "Holds whose time has passed, not released yet.", state.holds_due)
        yield _one("jobs_running", "Orders, cancellations, recalls at work.", state.jobs_running)
        yield _one("jobs_in_trouble", "How many of them have an error.", state.jobs_in_trouble)
        yield _one("files_unwritten", "Files not in their store yet.", state.files_unwritten)

    def _of_broker(self) -> Iterator[Metric]:
        with _brief_client(self.broker) as redis:
            broker = read_broker(redis, self._queues)
            unmoved = self._unmoved.observe(redis, self._queues, monotonic())
            yield from _memory("broker", redis)
        yield gauge(
            "card_worker_queue_waiting",
            "Messages on a queue, of all priorities.",
            {(queue,): count for queue, count in broker.waiting.items()},
            "queue",
        )
        yield gauge(
            "card_worker_queue_unmoved_at_least_seconds",
            "For how long the message that is taken next has been the same, at least.",
            {(queue,): seconds for queue, seconds in unmoved.items()},
            "queue",
        )
        yield _one("in_flight", "Messages taken and not acknowledged.", broker.in_flight)
        yield _one("consumers", "Workers that take messages.", broker.consumers)

    def _of_events(self) -> Iterator[Metric]:
        with _brief_client(self._events) as redis:
            stream = read_stream(redis, self._stream)
            if self._events != self.broker:
                yield from _memory("events", redis)
        yield _one("stream_entries", "Events on the stream.", stream.entries)
        yield _one("stream_bytes", "Memory of the stream, roughly.", stream.bytes)


def serve_worker(host: str, ports: range, health: Health, state: SharedState) -> None:
    """Serve the metrics and health checks of a worker. Raises NoPort."""
    ready = readiness(health, state.database_url, {"broker": state.broker})
    serve(host, ports, part="worker", health=health, ready=ready, gauges=state.gauges)
    # An increase is seen only from a value that was there before.
    for reason, stored in product(sorted(UNAUTHENTICATED), ("yes", "no")):
        metrics.count(metrics.UNAUTHENTICATED, reason, stored, by=0)
    for part in state.parts:
        metrics.count(metrics.STATE_ERRORS, part, by=0)


def readiness(health: Health, database_url: str, servers: Mapping[str, RedisAddress]) -> Check:
    """Return a check whether the database and these servers answer and work is acknowledged."""

    def check() -> str | None:
        for name, answers in [
            ("database", partial(_database_answers, database_url)),
            *((name, partial(_redis_answers, address)) for name, address in servers.items()),
        ]:
            try:
                answers()
            except Exception as error:
                return f"the {name} does not answer: {type(error).__name__}"
        return None if health.acknowledges else "messages that are done are not acknowledged"

    return _cached(check, READY_S)


def _database_answers(url: str) -> None:
    engine = _brief_engine(url)
    try:
        with reading(engine) as connection:
            connection.execute(select(1))
    finally:
        engine.dispose()  # a session of the server for the moment only


def _redis_answers(address: RedisAddress) -> None:
    with _brief_client(address) as redis:
        redis.ping()


def _brief_engine(url: str) -> Engine:
    return open_engine(url, reply_max_s=DATABASE_S_MAX, connect_max_s=DATABASE_S_MAX)


def _brief_client(address: RedisAddress) -> Redis:
    return connect(address, reply_s=REDIS_S_MAX, connect_s=REDIS_S_MAX)


def _cached(read: Callable[[], T], seconds: float) -> Callable[[], T]:
    """Return a function that reads again if the last read was so long ago. Thread-safe."""
    lock, known = Lock(), list[tuple[float, T]]()

    def get() -> T:
        with lock:
            if not known or monotonic() - known[0][0] >= seconds:
                value = read()  # it may take longer than `seconds`, and others wait for it
                known[:] = [(monotonic(), value)]
            return known[0][1]

    return get


def _one(name: str, help: str, value: float) -> Metric:
    return gauge(f"card_worker_{name}", help, {(): value})


def _memory(server: str, redis: Redis) -> Iterator[Metric]:
    memory = read_memory(redis)
    for name, help, value in (
        ("used", "Memory that Redis uses.", memory.used),
        ("max", "Memory beyond which Redis accepts no writes; 0: no limit.", memory.max),
    ):
        yield gauge(f"card_worker_redis_memory_{name}_bytes", help, {(server,): value}, "server")
