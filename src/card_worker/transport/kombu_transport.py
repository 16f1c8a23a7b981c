"""Kombu's transport and poller, for channels that take many messages at once."""

from collections.abc import Callable
from time import monotonic
from typing import Any

from kombu.exceptions import OperationalError
from kombu.transport import redis as stock
from redis.exceptions import RedisError

from card_worker.transport.channel import Channel


class Poller(stock.MultiChannelPoller):
    """Kombu's poller; channels read notifications also when they have no room for messages."""

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
    # A refusal by the server counts as a lost connection: wait and reconnect.
    connection_errors = (*stock.Transport.connection_errors, RedisError, OperationalError)

    on_taken: Callable[[], None] | None = None
    """Called when all messages that were taken together have been delivered."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()
        self._remove_callbacks: Callable[[], None] = lambda: None

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        before = set(loop.on_tick)
        super().register_with_event_loop(connection, loop)
        ours = loop.on_tick - before
        # Kombu leaves these callbacks behind: one more for each lost connection.
        self._remove_callbacks = lambda: loop.on_tick.difference_update(ours)

    def close_connection(self, connection: Any) -> None:
        self._remove_callbacks()
        super().close_connection(connection)

    def health(self) -> tuple[float, float | None]:
        """Return when the server last replied to a take, and when the oldest unsettled message was
        delivered (None if there is none), in seconds of the monotonic clock."""
        channels = [channel for channel in self.channels if channel._active_queues]
        oldest = [at for at in (channel.qos.oldest() for channel in channels) if at is not None]
        replied = [channel.replied_at for channel in channels if not channel._queues_without_ack]
        return min(replied, default=float("-inf")), min(oldest, default=None)

    def throttle_low_priority(self, seconds: float) -> None:
        """Take no messages of the lowest priority for so many seconds, on all channels."""
        for channel in self.cycle._channels:
            channel.throttle_low_priority(seconds)

    def wake(self) -> None:
        """Let idle channels take messages at the next turn of the poller."""
        for channel in self.cycle._channels:
            channel.wake()
