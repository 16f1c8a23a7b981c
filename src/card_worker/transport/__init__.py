"""A kombu transport on Redis that loses nothing and takes many messages at once.

Producers use kombu's own transport: lists, priorities and bindings are the same. Consumers differ:

    take          one script moves waiting messages to the consumer's in-flight hash and returns
                  them; no message is ever known to a process alone
    wait          the server notifies an idle consumer when one of its lists changes
    acknowledge   one HDEL, for one message or for five hundred
    return        every consumer sends heartbeats; the others put the messages of one that has
                  stopped back at the heads of their lists. There is no visibility timeout

A consumer that was only paused may find that its messages were given to another one. So a message
may be processed twice, and processing it twice must do no harm.

    in_flight     what one consumer has taken, as Redis stores it
    liveness      heartbeats, and which other consumers have stopped
    envelope      bytes on a list to what kombu makes a message of
    channel       kombu's channel, quality of service, poller and transport
    access        which commands the user of a connection may run, tried before the start

For Redis from 6.2 on and Valkey; `broker_transport = "card_worker.transport:Transport"`.
"""

from kombu.transport import TRANSPORT_ALIASES

from card_worker.redis_url import SOCKET_TRANSPORT
from card_worker.transport.channel import Channel, Message, QoS, Transport

__all__ = ["TRANSPORT", "Channel", "Message", "QoS", "Transport"]

TRANSPORT = f"{__name__}:Transport"
"""The name of the transport, for `broker_transport`."""
# A URL with a + in its scheme names the transport itself, by an alias.
TRANSPORT_ALIASES[SOCKET_TRANSPORT] = TRANSPORT
