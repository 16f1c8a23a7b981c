"""A kombu transport on Redis that loses no message and takes many messages at once.

Producers use kombu's own transport: lists, priorities and bindings are the same. Consumers differ:

    take          one script moves messages from their lists to the consumer's in-flight hash and
                  returns them; Redis holds each message until it is settled
    wait          the server notifies an idle consumer when one of its lists changes
    acknowledge   one HDEL, for one message or for five hundred
    return        every consumer sends heartbeats; if one stops, the others put its messages back
                  at the heads of their lists. There is no visibility timeout

A consumer that was only paused may find that its messages were given to another one. So a message
may be handled twice, and handling must be idempotent.

    in_flight        the messages that one consumer has taken, as Redis stores them
    liveness         heartbeats, and which other consumers are dead
    envelope         entries of a list to kombu's payloads
    qos              settling messages
    channel          kombu's channel: takes, waits, delivers
    kombu_transport  kombu's transport and poller
    access           checks before the start which commands the Redis user may run

For Redis from 6.2 on and Valkey; `broker_transport = "card_worker.transport:Transport"`.
"""

from kombu.transport import TRANSPORT_ALIASES

from card_worker.redis_url import SOCKET_TRANSPORT
from card_worker.transport.channel import Channel, Message
from card_worker.transport.kombu_transport import Transport
from card_worker.transport.qos import QoS

__all__ = ["TRANSPORT", "Channel", "Message", "QoS", "Transport"]

TRANSPORT = f"{__name__}:Transport"
"""The name of the transport, for `broker_transport`."""
# A URL with a + in its scheme names its transport by an alias.
TRANSPORT_ALIASES[SOCKET_TRANSPORT] = TRANSPORT
