"""Messages of kombu's, with the messages of ours that were read from them."""

from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from kombu.message import Message as KombuMessage

from card_worker.contracts.envelope import Call
from card_worker.worker.messages import Message


@dataclass(frozen=True, slots=True)
class Received:
    """A message of kombu's, and the message that was read from it."""

    raw: KombuMessage
    message: Message
    taken_at: float
    """A time of the monotonic clock."""


def receive(raw: KombuMessage, call: Call) -> Received:
    """Return a valid message of kombu's with the call in it."""
    info = raw.delivery_info
    redelivered = int(bool(info.get("redelivered")))
    message = Message(
        task=raw.headers["task"],
        id=raw.headers["id"],
        queue=queue_of(raw),
        kwargs=call.kwargs,
        body=raw.body,
        headers=raw.headers,
        conditions=call.conditions,
        signature=call.signature,
        returns=info.get("returns", redelivered),
        deaths=info.get("deaths", redelivered),
    )
    return Received(raw, message, monotonic())


def postpone(received: Received) -> Received:
    """Return a message that waits for locked rows."""
    raw: Any = received.raw
    # The health check counts from now on: a message that waits for a lock is not stuck.
    raw.delivered_at = monotonic()
    return replace(received, message=replace(received.message, is_waiting=True))


def queue_of(raw: KombuMessage) -> str | None:
    """Return the queue of a message; with another transport, the routing key in the message."""
    info = raw.delivery_info
    queue = info.get("queue", info.get("routing_key"))
    return queue if isinstance(queue, str) else None
