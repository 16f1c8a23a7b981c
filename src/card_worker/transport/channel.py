"""Kombu's channel on Redis, with messages taken by script and settled many at a time.

Where kombu says BRPOP, this channel takes. Any error of the server, also a refusal such as
READONLY, counts as a lost connection: what is in flight goes back, and the consumer connects anew.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from queue import Empty
from time import monotonic
from typing import Any

from kombu.exceptions import OperationalError
from kombu.transport import redis as stock
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from redis import ConnectionPool, Redis
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import OutOfMemoryError, RedisError

from card_worker.contracts.strict_json import NotJson
from card_worker.transport.envelope import described, fanout_payload, payload
from card_worker.transport.in_flight import ENTRY_BYTES_MAX, InFlight, script
from card_worker.transport.liveness import Heart, Watch

POLL_S = 5.0
"""Poll interval while idle, in case a notification was lost."""
REPLY_S = 5.0
"""A server that doesn't reply within so many seconds counts as gone."""
IGNORED_LOG_S = 10.0
"""Messages of a fan-out channel that are ignored are logged at most so often."""
BIND = script("bind")

# By server, database and prefix.
_watches: defaultdict[tuple[object, ...], Watch] = defaultdict(Watch)

log = logging.getLogger(__name__)


class QoS(virtual.QoS):
    """The messages that this channel has delivered and not settled; Redis stores them as well.

    Settling never fails here. When the server doesn't do it, the channel drops its connection, and
    all that it has in flight goes back: nothing stays unsettled, and no room is lost.
    """

    channel: "Channel"

    def append(self, message: Any, delivery_tag: str) -> None:
        message.delivered_at = self.channel.taken_at
        super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        self.ack_all([delivery_tag])

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if requeue:
            self.requeue_all([delivery_tag])
        else:
            self.ack_all([delivery_tag])

    def ack_all(self, delivery_tags: Sequence[str]) -> None:
        """Acknowledge messages in one step."""
        self._settle(self.channel.in_flight.acknowledge, delivery_tags)

    def requeue_all(self, delivery_tags: Sequence[str]) -> None:
        """Put messages back at the heads of their lists, in their order, in one step."""
        self._settle(self.channel.in_flight.give_back, delivery_tags)

    def _settle(self, how: Callable[[Sequence[str]], object], tags: Sequence[str]) -> None:
        if not tags or self.channel.closed:
            return
        try:
            how(tags)
        except (RedisError, OSError) as error:
            self.channel.drop(error)
        for tag in tags:
            super().ack(tag)

    def oldest(self) -> float | None:
        """Return when the oldest unsettled message was delivered, by the monotonic clock."""
        self._flush()
        for message in self._delivered.values():
            return float(message.delivered_at)
        return None

    def restore_unacked_once(self, stderr: object = None) -> None:
        self.channel.leave()

    def restore_visible(self, *_: object, **__: object) -> None:
        """Do nothing: no message is given to another because it takes long."""


class Message(stock.Channel.Message):
    """Kombu's message; but a strict channel leaves the body as it came, also when compressed."""

    def __init__(self, payload: dict[str, Any], channel: "Channel", **kwargs: Any) -> None:
        compression = payload["headers"].pop("compression", None) if channel.strict else None
        super().__init__(payload, channel=channel, **kwargs)
        if compression is not None:
            self.headers["compression"] = compression


class Channel(stock.Channel):
    """Takes, waits and delivers. Where it names BRPOP, that is kombu's name for taking."""

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
    # Kombu's own defaults wait for ever, also on a connection whose other end is gone.
    socket_timeout = REPLY_S
    socket_connect_timeout = REPLY_S
    socket_keepalive = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.asked_at = self.taken_at = monotonic()
        """When the server last replied to a take, and to one that brought messages."""
        self._heart: Heart | None = None
        self._queues_without_ack: set[str] = set()
        self._tracked: object = None  # the socket on which the server notifies us of changes
        self._replies_due = 0
        self._waiting_since: float | None = None
        self._notified = False
        self._rests_until = 0.0
        self._failure: Exception | None = None
        self._ignored, self._ignored_logged_at = 0, float("-inf")

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        """Return redis-py's arguments. For a socket, kombu takes the login from the URL only."""
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
        """The connection that takes. With RESP3 the server can send notifications on it."""
        like = self.async_pool
        settings = {**like.connection_kwargs, "protocol": 3}
        pool = ConnectionPool(connection_class=like.connection_class, **settings)
        return self.Client(connection_pool=pool)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        if queue in self._expires or self.typeof(exchange).type == "fanout":
            # Only who publishes through the exchange needs this binding, and adds it again.
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
        """Return this process's watch on the consumers of this server."""
        info = self.connection.client
        return _watches[(info.hostname, info.port, info.virtual_host, self.global_keyprefix)]

    # The poller calls _brpop_start when the channel has room and isn't waiting for anything, and
    # _brpop_read when there is something to read.

    def _brpop_start(self, timeout: float | None = None) -> None:
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        rests = monotonic() < self._rests_until
        lowest = self._lists(queues, self.priority_steps[-1:])
        others = self._lists(queues, self.priority_steps[:-1])
        connection, commands = self.client.connection, list[tuple[Any, ...]]()
        if self._tracked is not connection._sock:
            connection._parser.set_invalidation_push_handler(self._on_change)
            commands.append(("CLIENT", "TRACKING", "ON", "NOLOOP"))
        commands.append(
            self.in_flight.take_command(
                [*others, self.in_flight.aside, *(() if rests else lowest)],
                messages_max=self._room(),
                bytes_max=self.bytes_max,
                single=0 if rests else len(lowest),
                entry_bytes_max=self.entry_bytes_max,
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
        self.asked_at = monotonic()
        if reply:
            self.taken_at = self.asked_at
        return self.in_flight.read_taken(reply)

    def _read_notifications(self) -> None:
        """Read what the server has sent so far, without waiting for more."""
        connection = self.client.connection
        while connection.can_read(0):
            connection.read_response(push_request=True)

    def _on_change(self, _: object) -> None:
        self._notified = True

    def _take_again(self) -> None:
        """Take at the poller's next turn."""
        self._in_poll, self._waiting_since, self._replies_due = None, None, 0

    def rest(self, seconds: float) -> None:
        """Take nothing of the lowest priority for so long."""
        self._rests_until = monotonic() + seconds

    def wake(self) -> None:
        """Take at the poller's next turn what may be taken now."""
        if self._waiting_since is not None:
            self._take_again()

    def drop(self, error: Exception) -> None:
        """Let the poller raise at its next turn, so that the consumer connects anew."""
        self._failure = error

    def check(self, now: float) -> None:
        """Take again when no notification has come for long.

        Raises Disconnected when the server is silent, or has refused to settle messages.
        """
        if self._failure is not None:
            raise Disconnected(f"messages not settled: {self._failure}") from self._failure
        if self._waiting_since is not None and now - self._waiting_since > POLL_S:
            self._take_again()
        elif self._replies_due and now - (self._brpop_sent_at or now) > REPLY_S:
            self._hang_up()
            # Celery's loop asks no connection any more that was lost without an error.
            raise Disconnected(f"Redis has not replied for {REPLY_S:g} s")

    def read_idle(self) -> None:
        """Read the notifications to a channel that has no room for messages."""
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
            # What was set aside may come from a queue that others consume.
            consumed = queue if queue in self._active_queues else self._active_queues[0]
            self._queue_cycle.rotate(consumed)
            if consumed in self._queues_without_ack:
                unacknowledged.append(place)
            self.connection._deliver(message, consumed)
        try:
            self.in_flight.acknowledge(unacknowledged)
        except (RedisError, OSError) as error:
            self.drop(error)
        if self.connection.on_taken is not None:
            self.connection.on_taken()

    def _payload(self, place: str, raw: bytes) -> dict[str, Any]:
        list_name = place[16:]
        aside = self.in_flight.aside
        if list_name == aside and (about := described(raw, place, f"{aside}.of.")) is not None:
            info = about["properties"]["delivery_info"]
            info["queue"] = self._queue_of(info["queue"])
            return about
        return payload(raw, place, self._queue_of(list_name), strict=self.strict)

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        taken = self.in_flight.take_one(self._lists([queue]))
        if taken is None:
            raise Empty
        self.taken_at = monotonic()
        return self._payload(*taken)

    def _receive_one(self, c: Any) -> bool | None:
        """Deliver one message of a fan-out channel, unless it could do harm."""
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
        """Give back what isn't acknowledged; other consumers do it if Redis is away now."""
        if self._heart is not None:
            self._heart.stop(REPLY_S)
            self._heart = None
        in_flight = self.__dict__.pop("in_flight", None)
        if in_flight is not None:
            try:
                in_flight.leave()
            except RedisError as error:
                log.warning("messages not given back: %s", type(error).__name__)

    def close(self) -> None:
        client = self.__dict__.get("client")
        # What a last take brings is given back with the rest, and not delivered any more.
        with suppress(RedisError, OSError):
            self._read_replies()
        self._in_poll, self._replies_due = None, 0
        self.leave()
        try:
            super().close()
        except (RedisError, OSError):
            # It couldn't delete its fan-out queues, which expire by themselves.
            self.auto_delete_queues.clear()
            super().close()
        if client is not None:
            client.connection_pool.disconnect()


class Poller(stock.MultiChannelPoller):
    """Kombu's poller, for channels that read notifications also when they have no room."""

    def on_poll_start(self) -> None:
        self.maybe_check_brpop_health()
        super().on_poll_start()

    def on_readable(self, fileno: int) -> Any:
        channel, kind = self._fd_to_chan.get(fileno, (None, None))
        if kind == "BRPOP" and not channel._in_poll and not channel.qos.can_consume():
            return channel.read_idle()
        return super().on_readable(fileno)

    def maybe_check_brpop_health(self) -> None:
        now = monotonic()
        for channel in self._channels:
            channel.check(now)


class Transport(stock.Transport):
    """The transport to name in `broker_transport`."""

    Channel = Channel
    # A server that refuses is as good as a lost connection: wait, and connect anew.
    connection_errors = (*stock.Transport.connection_errors, RedisError, OperationalError)

    on_taken: Callable[[], None] | None = None
    """Called when all messages of one take have been delivered."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()
        self._forget_loop: Callable[[], None] = lambda: None

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        before = set(loop.on_tick)
        super().register_with_event_loop(connection, loop)
        ours = loop.on_tick - before
        # Kombu leaves them behind: one more for each connection that is lost.
        self._forget_loop = lambda: loop.on_tick.difference_update(ours)

    def close_connection(self, connection: Any) -> None:
        self._forget_loop()
        super().close_connection(connection)

    def health(self) -> tuple[float, float | None]:
        """Return when the server last replied to a take, and when the oldest message that isn't
        settled yet was delivered (None: there is none), by the monotonic clock."""
        channels = [channel for channel in self.channels if channel._active_queues]
        oldest = [at for at in (channel.qos.oldest() for channel in channels) if at is not None]
        asked = [channel.asked_at for channel in channels if not channel._queues_without_ack]
        return min(asked, default=float("-inf")), min(oldest, default=None)

    def rest(self, seconds: float) -> None:
        """Let no channel take messages of the lowest priority for so long."""
        for channel in self.cycle._channels:
            channel.rest(seconds)

    def wake(self) -> None:
        """Let idle channels take what they may take now."""
        for channel in self.cycle._channels:
            channel.wake()
