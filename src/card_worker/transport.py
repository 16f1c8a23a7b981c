"""A kombu transport on Redis that loses nothing and takes many messages at once.

For producers it is kombu's own: the same lists, priorities and bindings, and any stock client will
do. What differs is how a consumer comes to its messages:

    take     one script moves waiting messages into the consumer's in-flight hash and hands them
             out: there is no moment at which only a process knows of a message
    wait     a consumer that finds nothing is told by the server when one of its lists changes
    ack      one HDEL, for one message or for five hundred
    return   consumers keep a heartbeat; the living put a dead one's messages back at the head of
             their lists, oldest first. There is no visibility timeout: slow isn't dead

Messages of the lowest priority, 9, are taken one at a time, after all others: while a consumer is
at one, the rest are for whoever is free, and what comes meanwhile goes before them.

A consumer that was only paused, and taken for dead, finds nothing of its own to acknowledge. Its
work has then been given to another as well: doing it twice must do no harm.

For Redis from 6.2 on and Valkey; `broker_transport = "card_worker.transport:Transport"`.
"""

import base64
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from queue import Empty
from threading import Event, Thread
from time import monotonic
from typing import Any
from uuid import uuid4

from kombu.transport import redis as stock
from kombu.transport import virtual
from redis import ConnectionPool, Redis
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import RedisError, ResponseError

from card_worker.contracts.strict_json import NotJson, read_json

BEAT_S = 3.0
DEAD_S = 15.0
"""A consumer that hasn't beaten for so long is dead; within a beat its messages are returned."""
LOOK_S = 5.0
"""A consumer that waits looks for itself so often, lest a word of the server was lost."""
REPLY_S = 5.0
"""A server that doesn't answer for so long is gone."""
STRICT_BYTES_MAX = 3 * 512 * 1024
"""A body of 1 MiB in base64, and room for what is around it."""
STRICT_LEVELS_MAX = 8

# In each script the first write is one that a server at `maxmemory` still accepts; having begun to
# write, a script may go on. So a full broker can be emptied, which is just what it needs.

# KEYS: consumers, in-flight, lists in turn. ARGV: consumer, messages and bytes at most, number, and
# of how many lists, the last ones, no more than one message is taken.
_TAKE = """
local taken, bytes, number, patient = {}, 0, tonumber(ARGV[4]), #KEYS - ARGV[5]
for turn = 3, #KEYS do
  while #taken < 2 * ARGV[2] and bytes < tonumber(ARGV[3]) and patient <= #KEYS do
    local raw = redis.call('RPOP', KEYS[turn])
    if not raw then break end
    local place = string.format('%015d %s', number, KEYS[turn])
    redis.call('HSET', KEYS[2], place, raw)
    taken[#taken + 1], taken[#taken + 2] = place, raw
    bytes, number = bytes + #raw, number + 1
    if turn > patient then patient = #KEYS + 1 end
  end
end
if #taken > 0 then redis.call('ZADD', KEYS[1], redis.call('TIME')[1], ARGV[1]) end
return taken
"""

# A place is a number of 15 digits, a blank, and the list a message came from. A returned message
# gets a blank at its end: JSON doesn't mind, and it tells that somebody has had it before.
_GIVE_BACK = """
local function give_back(inflight, places)
  table.sort(places, function(one, other) return one > other end)
  for _, place in ipairs(places) do
    local raw = redis.call('HGET', inflight, place)
    if raw then
      redis.call('HDEL', inflight, place)
      redis.call('RPUSH', string.sub(place, 17), raw .. ' ')
    end
  end
end
"""

# KEYS: in-flight. ARGV: places; none for all.
_RETURN = f"""{_GIVE_BACK}
give_back(KEYS[1], #ARGV > 0 and ARGV or redis.call('HKEYS', KEYS[1]))
"""

# KEYS: consumers. ARGV: consumer, what in-flight keys begin with, seconds until dead or 0.
_BEAT = f"""{_GIVE_BACK}
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
if ARGV[3] == '0' then return {{}} end
local dead = redis.call('ZRANGE', KEYS[1], '-inf', now - ARGV[3], 'BYSCORE')
for _, consumer in ipairs(dead) do
  give_back(ARGV[2] .. consumer, redis.call('HKEYS', ARGV[2] .. consumer))
  redis.call('ZREM', KEYS[1], consumer)
end
return dead
"""

log = logging.getLogger(__name__)


class InFlight:
    """What one consumer has taken and not acknowledged, as Redis knows it. Usable by any thread."""

    def __init__(self, redis: "Redis", prefix: str, consumer: str | None = None) -> None:
        self._redis = redis
        self.consumer = consumer or uuid4().hex
        self.consumers_key = f"{prefix}inflight.consumers"
        self.hashes = f"{prefix}inflight.of."
        self.key = f"{self.hashes}{self.consumer}"
        self._taken = 0

    def take_command(
        self, lists: Sequence[str], *, messages_max: int, bytes_max: int, patient: int = 0
    ) -> tuple[Any, ...]:
        """Return the command that takes from `lists`, in their order, within both bounds.

        From the last `patient` lists no more than one message is taken.
        """
        keys = (self.consumers_key, self.key, *lists)
        bounds = (messages_max, bytes_max, self._taken, patient)
        return ("EVAL", _TAKE, len(keys), *keys, self.consumer, *bounds)

    def read_taken(self, reply: Sequence[bytes]) -> list[tuple[str, bytes]]:
        """Return (place, raw message) for each that a take command brought."""
        self._taken += len(reply) // 2
        return [(reply[i].decode(), reply[i + 1]) for i in range(0, len(reply), 2)]

    def take_one(self, lists: Sequence[str]) -> tuple[str, bytes] | None:
        """Take one message at once; None when there is none."""
        command = self.take_command(lists, messages_max=1, bytes_max=1)
        taken = self.read_taken(self._redis.execute_command(*command))  # type: ignore[no-untyped-call]
        return taken[0] if taken else None

    def acknowledge(self, places: Sequence[str]) -> int:
        """Be done with messages, in one step; return how many of them were still ours."""
        return int(self._redis.hdel(self.key, *places)) if places else 0

    def give_back(self, places: Sequence[str] = ()) -> None:
        """Put messages back at the head of their lists; all that are in flight if none is named."""
        self._redis.eval(_RETURN, 1, self.key, *places)

    def beat(self, *, dead_after_s: float) -> list[bytes]:
        """Say that we live; return the consumers found dead, whose messages are now returned."""
        dead: Any = self._redis.eval(
            _BEAT, 1, self.consumers_key, self.consumer, self.hashes, int(dead_after_s)
        )
        return list(dead)

    def leave(self) -> None:
        """Give everything back and be no consumer any more."""
        self.give_back()
        self._redis.zrem(self.consumers_key, self.consumer)


class Heart(Thread):
    """Beats for one consumer, in a thread, so that a long task doesn't look like a death.

    It looks for the dead only when it has itself been able to beat for as long as it takes to be
    dead: after an outage of Redis everybody's last beat is old, and nobody has died.
    """

    def __init__(self, in_flight: InFlight) -> None:
        super().__init__(name=f"heart of {in_flight.consumer}", daemon=True)
        self._in_flight = in_flight
        self._stopped = Event()

    def stop(self) -> None:
        self._stopped.set()
        self.join(timeout=REPLY_S)

    def run(self) -> None:
        since = last = monotonic()
        while not self._stopped.wait(BEAT_S):
            now = monotonic()
            if now - last > 2 * BEAT_S:
                since = now
            try:
                dead = self._in_flight.beat(dead_after_s=DEAD_S if now - since >= DEAD_S else 0)
            except RedisError as error:
                log.warning("no heartbeat: %s", type(error).__name__)
            else:
                last = now
                if dead:
                    log.warning("returned the messages of %d dead consumers", len(dead))


class QoS(virtual.QoS):
    """What this channel has delivered and not acknowledged; Redis knows it as well."""

    channel: "Channel"

    def ack(self, delivery_tag: str) -> None:
        self.ack_all([delivery_tag])

    def ack_all(self, delivery_tags: Sequence[str]) -> None:
        """Acknowledge messages in one step."""
        self.channel.in_flight.acknowledge(delivery_tags)
        for tag in delivery_tags:
            super().ack(tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if requeue:
            self.channel.in_flight.give_back([delivery_tag])
            super().ack(delivery_tag)
        else:
            self.ack(delivery_tag)

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
        "strict",
    )
    messages_max = 500
    bytes_max = 1024 * 1024
    strict = False
    # Kombu's own wait for ever, also on a connection that nobody holds the other end of.
    socket_timeout = REPLY_S
    socket_connect_timeout = REPLY_S
    socket_keepalive = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._heart: Heart | None = None
        self._queues_without_ack: set[str] = set()
        self._tracked: object = None  # the socket on which the server tells us of changes
        self._replies_due = 0
        self._waiting_since: float | None = None
        self._told = False
        self._rests_until = 0.0

    @cached_property
    def in_flight(self) -> InFlight:
        return InFlight(Redis(connection_pool=self.pool), self.global_keyprefix)

    @cached_property
    def client(self) -> Any:
        """The connection that takes. In RESP3 the server can tell us of changes on it."""
        like = self.async_pool
        settings = {**like.connection_kwargs, "protocol": 3}
        pool = ConnectionPool(connection_class=like.connection_class, **settings)
        return self.Client(connection_pool=pool)

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        if no_ack:
            self._queues_without_ack.add(queue)
        elif self._heart is None:
            self._heart = Heart(self.in_flight)
            self._heart.start()
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    # The poller calls _brpop_start when the channel has room and isn't waiting for anything, and
    # _brpop_read when there is something to read.

    def _brpop_start(self, timeout: float | None = None) -> None:
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        rests = monotonic() < self._rests_until
        steps = self.priority_steps[:-1] if rests else self.priority_steps
        lists = self._lists(queues, steps)
        connection, commands = self.client.connection, list[tuple[Any, ...]]()
        if self._tracked is not connection._sock:
            connection._parser.set_invalidation_push_handler(self._on_change)
            commands.append(("CLIENT", "TRACKING", "ON", "NOLOOP"))
        # Having asked for these lists, we are told once when one of them changes.
        commands.append(("EXISTS", *lists))
        commands.append(
            self.in_flight.take_command(
                lists,
                messages_max=self._room(),
                bytes_max=self.bytes_max,
                patient=0 if rests else len(queues),
            )
        )
        connection.send_packed_command(connection.pack_commands(commands))
        self._tracked = connection._sock
        self._in_poll, self._brpop_sent_at = connection, monotonic()
        self._replies_due, self._waiting_since, self._told = len(commands), None, False

    def _brpop_read(self, **_: Any) -> bool:
        try:
            taken = self._read_taken()
        except (RedisError, OSError) as error:
            self._hang_up()
            if isinstance(error, ResponseError):
                # Such as READONLY after a failover: as good as a lost connection.
                raise Disconnected(str(error)) from error
            raise
        if not taken:
            raise Empty
        self._deliver(taken)
        return True

    def _read_taken(self) -> list[tuple[str, bytes]]:
        reply: Any = None
        while self._replies_due:
            reply = self.client.connection.read_response()
            self._replies_due -= 1
        taken = self.in_flight.read_taken(reply) if reply else []
        if not taken:
            self._read_told()
        if taken or self._told:
            self._look_again()
        elif self._waiting_since is None:
            self._waiting_since = monotonic()
        return taken

    def _read_told(self) -> None:
        """Read what the server has told us so far, without waiting for more."""
        connection = self.client.connection
        while connection.can_read(0):
            connection.read_response(push_request=True)

    def _on_change(self, _: object) -> None:
        self._told = True

    def _look_again(self) -> None:
        """Take at the poller's next turn."""
        self._in_poll, self._waiting_since, self._replies_due = None, None, 0

    def rest(self, seconds: float) -> None:
        """Take nothing of the lowest priority for so long."""
        self._rests_until = monotonic() + seconds

    def wake(self) -> None:
        """Look for what may be taken now."""
        if self._waiting_since is not None:
            self._look_again()

    def check_wait(self, now: float) -> None:
        """Look for ourselves when nothing has been told for long; give up on a silent server."""
        if self._waiting_since is not None and now - self._waiting_since > LOOK_S:
            self._look_again()
        elif self._replies_due and now - (self._brpop_sent_at or now) > REPLY_S:
            self._hang_up()
            # Celery's loop doesn't ask a transport any more whose connection went without an error.
            raise Disconnected(f"Redis hasn't answered for {REPLY_S:g} s")

    def read_idle(self) -> None:
        """Read what is told to a channel that has no room for messages."""
        try:
            self._read_told()
        except (RedisError, OSError):
            self._hang_up()
            raise

    def _hang_up(self) -> None:
        self._look_again()
        self.client.connection.disconnect()

    def _deliver(self, taken: Sequence[tuple[str, bytes]]) -> None:
        done = []
        for place, raw in taken:
            queue = self._queue_of(place)
            self._queue_cycle.rotate(queue)
            if queue in self._queues_without_ack:
                done.append(place)
            self.connection._deliver(payload(raw, place, queue, strict=self.strict), queue)
        self.in_flight.acknowledge(done)
        if self.connection.on_taken is not None:
            self.connection.on_taken()

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        taken = self.in_flight.take_one(self._lists([queue]))
        if taken is None:
            raise Empty
        return payload(taken[1], taken[0], queue, strict=self.strict)

    def _lists(self, queues: Iterable[str], steps: Iterable[int] | None = None) -> list[str]:
        names = list(queues)
        return [
            f"{self.global_keyprefix}{self._q_for_pri(name, priority)}"
            for priority in (self.priority_steps if steps is None else steps)
            for name in names
        ]

    def _queue_of(self, place: str) -> str:
        name: str = place[16:].removeprefix(self.global_keyprefix).rpartition(self.sep)[0]
        return name or place[16:].removeprefix(self.global_keyprefix)

    def _room(self) -> int:
        room = self.qos.can_consume_max_estimate()
        return self.messages_max if room is None else min(room, self.messages_max)

    def leave(self) -> None:
        """Give back what isn't acknowledged; the living do it if Redis can't be told now."""
        if self._heart is not None:
            self._heart.stop()
            self._heart = None
        in_flight = self.__dict__.pop("in_flight", None)
        if in_flight is not None:
            try:
                in_flight.leave()
            except RedisError as error:
                log.warning("left without a word: %s", type(error).__name__)

    def close(self) -> None:
        client = self.__dict__.get("client")
        if not self._replies_due:
            self._in_poll = None
        self.leave()
        super().close()
        if client is not None:
            client.connection_pool.disconnect()


def payload(raw: bytes, delivery_tag: str, queue: str, *, strict: bool = False) -> dict[str, Any]:
    """Return what kombu makes a message of. Bytes that are no message become the body of one.

    `delivery_info` says why they aren't (`malformed`), and of any message, on which `queue` it lay
    and how often it had come back to it (`returns`).
    """
    try:
        read = _well_formed(_read_strictly(raw) if strict else json.loads(raw))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        why = str(error) if isinstance(error, NotJson) else "the parts of a message are missing"
        read = {
            "body": raw,
            "headers": {},
            "content-type": "application/octet-stream",
            "content-encoding": "binary",
            "properties": {"delivery_info": {"malformed": why}},
        }
    properties, returns = read["properties"], len(raw) - len(raw.rstrip(b" "))
    properties["delivery_tag"] = delivery_tag
    about = properties["delivery_info"]
    about |= {"queue": queue, "returns": returns, "redelivered": returns > 0}
    for name, instead in (("exchange", ""), ("routing_key", queue)):
        if not isinstance(about.get(name), str):
            about[name] = instead
    return read


def _read_strictly(raw: bytes) -> Any:
    read = read_json(raw, bytes_max=STRICT_BYTES_MAX, levels_max=STRICT_LEVELS_MAX)
    if b"\\u" in raw:
        # Half a surrogate pair is no text, though JSON can spell it. UnicodeEncodeError says so.
        json.dumps(read, ensure_ascii=False).encode()
    return read


def _well_formed(read: Any) -> dict[str, Any]:
    """Return `read` if kombu can make a message of it without failing."""
    match read:
        case {"properties": {"delivery_info": dict(), "body_encoding": "base64"}}:
            base64.b64decode(read["body"], validate=True)
        case {"properties": {"delivery_info": dict(), **properties}}:
            if properties.get("body_encoding"):
                raise ValueError("an encoding that kombu doesn't know")
            read["body"].encode()
        case _:
            raise ValueError("not a message")
    headers = read.get("headers") or {}
    if not isinstance(headers, dict):
        raise TypeError("headers without names")
    return {**read, "headers": headers}


class Poller(stock.MultiChannelPoller):
    """Kombu's poller, for channels that are told of changes also when they have no room."""

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
            channel.check_wait(now)


class Transport(stock.Transport):
    """The transport to name in `broker_transport`."""

    Channel = Channel

    on_taken: Callable[[], None] | None = None
    """Called when all messages of one take have been delivered."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()

    def rest(self, seconds: float) -> None:
        """Let no channel take messages of the lowest priority for so long."""
        for channel in self.cycle._channels:
            channel.rest(seconds)

    def wake(self) -> None:
        """Let channels that wait look for what they may take now."""
        for channel in self.cycle._channels:
            channel.wake()
