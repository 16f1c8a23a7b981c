"""Settling messages: kombu's quality of service, for many messages in one step."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from kombu.transport import virtual
from redis.exceptions import RedisError

if TYPE_CHECKING:
    from card_worker.transport.channel import Channel


class QoS(virtual.QoS):
    """The messages that a channel has delivered and not settled; Redis stores them as well.

    Settling never raises. If the server fails, the channel drops its connection and all messages in
    flight are returned: none stays unsettled or occupies room.
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

    def requeue_all(self, delivery_tags: Sequence[str], *, died: bool = False) -> None:
        """Put messages back at the heads of their lists, in their order, in one step.

        `died` says that the process which handled them died.
        """
        self._settle(partial(self.channel.in_flight.give_back, died=died), delivery_tags)

    def _settle(self, settle: Callable[[Sequence[str]], object], tags: Sequence[str]) -> None:
        if not tags or self.channel.closed:
            return
        try:
            settle(tags)
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
        """Do nothing: there is no visibility timeout."""
