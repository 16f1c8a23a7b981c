"""Kombu's channel on Redis; messages are taken by a script and settled many at a time.

Methods named after BRPOP are kombu's names for taking. Any error of the server, also a refusal such
as READONLY, counts as a lost connection: messages in flight are returned, the consumer reconnects.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from queue import Empty
from time import monotonic
from typing import Any

from kombu.transport import redis as stock
from kombu.utils.encoding import bytes_to_str
from redis import ConnectionPool, Redis
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import OutOfMemoryError, RedisError

from card_worker.contracts.json_text import NotJson
from card_worker.transport.envelope import aside_payload, fanout_payload, payload
from card_worker.transport.in_flight import ENTRY_BYTES_MAX, InFlight, script
from card_worker.transport.liveness import Heart, Watch
from card_worker.transport.qos import QoS

POLL_S = 5.0
"""Poll interval while idle, in case a notification was lost."""
REPLY_S = 5.0
"""Seconds after which a server that does not reply counts as lost."""
IGNORED_LOG_S = 10.0
"""Minimum of seconds between two log lines about ignored fan-out messages."""
BIND = script("bind")

# Keys: server, database and prefix.
_watches: defaultdict[tuple[object, ...], Watch] = defaultdict(Watch)

log = logging.getLogger(__name__)


class Message(stock.Channel.Message):
    """Kombu's message; a strict channel does not decompress the body."""

    def __init__(self, payload: dict[str, Any], channel: "Channel", **kwargs: Any) -> None:
        compression = payload["headers"].pop("compression", None) if channel.strict else None
        super().__init__(payload, channel=channel, **kwargs)
        if compression is not None:
            self.headers["compression"] = compression


class Channel(stock.Channel):
    """Takes messages, waits for more, and delivers them."""

    QoS = QoS
    Message = Message
    from_transport_options = (
        *stock.Channel.from_transport_options,
        "messages_max",
        "bytes_max",
        "entry_bytes_max",
        "strict",
        "queue_names",
    )
    messages_max = 500
    bytes_max = 1024 * 1024
    entry_bytes_max = ENTRY_BYTES_MAX
    strict = False
    queue_names: Sequence[str] = ()
    # Kombu's defaults have no timeout, not even on a dead connection.
    socket_timeout = REPLY_S
    socket_connect_timeout = REPLY_S
    socket_keepalive = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.replied_at = self.taken_at = monotonic()
        """When the server last replied to a take, and to one that returned messages."""
        self._heart: Heart | None = None
        self._queues_without_ack: set[str] = set()
        self._tracked: object = None  # the socket on which the server sends notifications
        self._replies_due = 0
        self._waiting_since: float | None = None
        self._notified = False
        self._throttled_until = 0.0
        self._failure: Exception | None = None
        self._ignored, self._ignored_logged_at = 0, float("-inf")

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        """Return redis-py's arguments. For a socket, kombu takes credentials from the URL only."""
        params: dict[str, Any] = super()._connparams(asynchronous)
        if "path" in params:
            given = self.connection.client
            params["username"] = params["username"] or given.userid
            params["password"] = params["password"] or given.password
        return params

    @cached_property
    def in_flight(self) -> InFlight:
        lists = self._lists(self.queue_names)
        return InFlight(Redis(connection_pool=self.pool), self.global_keyprefix, lists=lists)

    @cached_property
    def client(self) -> Any:
        """The client that takes messages. With RESP3 the server can send notifications to it."""
        like = self.async_pool
        settings = {**like.connection_kwargs, "protocol": 3}
        pool = ConnectionPool(connection_class=like.connection_class, **settings)
        return self.Client(connection_pool=pool)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        if queue in self._expires or self.typeof(exchange).type == "fanout":
            # Only publishers to the exchange need this binding; they add it again.
            with suppress(OutOfMemoryError):
                super()._queue_bind(exchange, routing_key, pattern, queue)
            return
        tables = (self.keyprefix_queue, self.keyprefix_binding_permanent)
        keys = [self.global_keyprefix + table % (exchange,) for table in tables]
        binding = self.sep.join([routing_key or "", pattern or "", queue or ""])
        with self.conn_or_acquire() as client:
            client.eval(BIND, len(keys), *keys, binding)

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        if no_ack:
            self._queues_without_ack.add(queue)
        elif self._heart is None:
            self._heart = Heart(self.in_flight, self._watch())
            self._heart.start()
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def _watch(self) -> Watch:
        """Return this process's watch of the server's consumers."""
        info = self.connection.client
        return _watches[(info.hostname, info.port, info.virtual_host, self.global_keyprefix)]

    # The poller calls _brpop_start when the channel has room and no take is pending, and
    # _brpop_read when there is something to read.

    def _brpop_start(self, timeout: float | None = None) -> None:
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        is_throttled = monotonic() < self._throttled_until
        lowest = self._lists(queues, self.priority_steps[-1:])
        others = self._lists(queues, self.priority_steps[:-1])
        connection, commands = self.client.connection, list[tuple[Any, ...]]()
        # Replies to a monitor are not acknowledged; its Redis user has no right on keys in flight.
        kept = self._heart is not None
        aside = [self.in_flight.aside] if kept else []
        if self._tracked is not connection._sock:
            connection._parser.set_invalidation_push_handler(self._on_change)
            commands.append(("CLIENT", "TRACKING", "ON", "NOLOOP"))
        commands.append(
            self.in_flight.take_command(
                [*others, *aside, *(() if is_throttled else lowest)],
                messages_max=self._room(),
                bytes_max=self.bytes_max,
                single=0 if is_throttled else len(lowest),
                entry_bytes_max=self.entry_bytes_max,
                kept=kept,
            )
        )
        connection.send_packed_command(connection.pack_commands(commands))
        self._tracked = connection._sock
        self._in_poll, self._brpop_sent_at = connection, monotonic()
        self._replies_due, self._waiting_since, self._notified = len(commands), None, False

    def _brpop_read(self, **_: Any) -> bool:
        try:
            taken = self._read_taken()
        except (RedisError, OSError):
            self._hang_up()
            raise
        if not taken:
            raise Empty
        self._deliver(taken)
        return True

    def _read_taken(self) -> list[tuple[str, bytes]]:
        taken = self._read_replies()
        if not taken:
            self._read_notifications()
        if taken or self._notified:
            self._take_again()
        elif self._waiting_since is None:
            self._waiting_since = monotonic()
        return taken

    def _read_replies(self) -> list[tuple[str, bytes]]:
        if not self._replies_due:
            return []
        reply: Any = None
        while self._replies_due:
            reply = self.client.connection.read_response()
            self._replies_due -= 1
        self.replied_at = monotonic()
        if reply:
            self.taken_at = self.replied_at
        return self.in_flight.read_taken(reply)

    def _read_notifications(self) -> None:
        """Read the notifications that have arrived, without waiting for more."""
        connection = self.client.connection
        while connection.can_read(0):
            connection.read_response(push_request=True)

    def _on_change(self, _: object) -> None:
        self._notified = True

    def _take_again(self) -> None:
        """Take messages at the next turn of the poller."""
        self._in_poll, self._waiting_since, self._replies_due = None, None, 0

    def throttle_low_priority(self, seconds: float) -> None:
        """Take no messages of the lowest priority for so many seconds."""
        self._throttled_until = monotonic() + seconds

    def wake(self) -> None:
        """Take messages at the next turn of the poller, if the channel is idle."""
        if self._waiting_since is not None:
            self._take_again()

    def drop(self, error: Exception) -> None:
        """Let the poller raise at its next turn, so that the consumer reconnects."""
        self._failure = error

    @property
    def is_dropped(self) -> bool:
        return self._failure is not None

    def check(self, now: float) -> None:
        """Take again if no notification has arrived for POLL_S.

        Raises Disconnected if the server does not reply, or has refused to settle messages.
        """
        if self._failure is not None:
            raise Disconnected(f"messages not settled: {self._failure}") from self._failure
        if self._waiting_since is not None and now - self._waiting_since > POLL_S:
            self._take_again()
        elif self._replies_due and now - (self._brpop_sent_at or now) > REPLY_S:
            self._hang_up()
            # Celery's loop does not poll a connection that was lost without an error.
            raise Disconnected(f"Redis has not replied for {REPLY_S:g} s")

    def read_idle(self) -> None:
        """Read notifications while the channel has no room for messages."""
        try:
            self._read_notifications()
        except (RedisError, OSError):
            self._hang_up()
            raise

    def _hang_up(self) -> None:
        self._take_again()
        self.client.connection.disconnect()

    def _deliver(self, taken: Sequence[tuple[str, bytes]]) -> None:
        unacknowledged = []
        for place, raw in taken:
            message = self._payload(place, raw)
            queue = message["properties"]["delivery_info"]["queue"]
            # An entry that was set aside may be from a queue of other consumers.
            consumed = queue if queue in self._active_queues else self._active_queues[0]
            self._queue_cycle.rotate(consumed)
            if consumed in self._queues_without_ack:
                unacknowledged.append(place)
            self.connection._deliver(message, consumed)
        if self._heart is not None:
            try:
                self.in_flight.acknowledge(unacknowledged)
            except (RedisError, OSError) as error:
                self.drop(error)
        if self.connection.on_taken is not None:
            self.connection.on_taken()

    def _payload(self, place: str, raw: bytes) -> dict[str, Any]:
        list_name = place[16:]
        aside = self.in_flight.aside
        if list_name == aside and (read := aside_payload(raw, place, f"{aside}.of.")) is not None:
            info = read["properties"]["delivery_info"]
            info["queue"] = self._queue_of(info["queue"])
            return read
        return payload(raw, place, self._queue_of(list_name), strict=self.strict)

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        taken = self.in_flight.take_one(self._lists([queue]))
        if taken is None:
            raise Empty
        self.taken_at = monotonic()
        return self._payload(*taken)

    def _receive_one(self, c: Any) -> bool | None:
        """Deliver one message of a fan-out channel; ignore it if it is malformed."""
        try:
            response = c.parse_response()
        except self.connection_errors:
            self._in_listen = None
            raise
        if not isinstance(response, list | tuple):
            return None
        received = self._handle_message(c, response)
        if not bytes_to_str(received["type"]).endswith("message"):
            return None
        exchange = self._exchange_of(received["channel"])
        try:
            message = fanout_payload(received["data"])
        except NotJson as problem:
            self._log_ignored(problem)
            return None
        queue = self._fanout_to_queue.get(exchange)
        if queue is not None:
            self.connection._deliver(message, queue)
        return True

    def _exchange_of(self, channel: bytes) -> str:
        name = channel.decode(errors="replace")
        name = name.partition(".")[2] if name.startswith("/") else name
        return name.split("/", 1)[0]

    def _log_ignored(self, problem: NotJson) -> None:
        self._ignored += 1
        if monotonic() - self._ignored_logged_at > IGNORED_LOG_S:
            log.warning("fan-out messages ignored: %d, the last: %.200s", self._ignored, problem)
            self._ignored, self._ignored_logged_at = 0, monotonic()

    def _lists(self, queues: Iterable[str], steps: Iterable[int] | None = None) -> list[str]:
        names = list(queues)
        return [
            f"{self.global_keyprefix}{self._q_for_pri(name, priority)}"
            for priority in (self.priority_steps if steps is None else steps)
            for name in names
        ]

    def _queue_of(self, list_name: str) -> str:
        name = list_name.removeprefix(self.global_keyprefix)
        return name.rpartition(self.sep)[0] or name

    def _room(self) -> int:
        room = self.qos.can_consume_max_estimate()
        return self.messages_max if room is None else min(room, self.messages_max)

    def leave(self) -> None:
        """Put unsettled messages back. If Redis is unavailable, other consumers do that later."""
        if self._heart is not None:
            self._heart.stop(REPLY_S)
            self._heart = None
        in_flight = self.__dict__.pop("in_flight", None)
        if in_flight is not None and in_flight.is_used:
            try:
                in_flight.leave()
            except RedisError as error:
                log.warning("messages not put back: %s", type(error).__name__)

    def close(self) -> None:
        client = self.__dict__.get("client")
        # The messages of the last take are put back with the others.
        with suppress(RedisError, OSError):
            self._read_replies()
        self._in_poll, self._replies_due = None, 0
        self.leave()
        try:
            super().close()
        except (RedisError, OSError):
            # Its fan-out queues were not deleted; they expire.
            self.auto_delete_queues.clear()
            super().close()
        if client is not None:
            client.connection_pool.disconnect()
