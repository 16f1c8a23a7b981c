"""Client for Python producers: sends typed commands and reads their answers.

Producers in other languages use any Celery client; see docs/reference/contract.md.

with Client("redis://localhost:6379/0") as client:
    after = client.newest()
    client.send(ActivateCard(account_id="P12345678", command_id="sale-4711",
                             card_id="card-01", amount=50000, currency=Currency.NOK))
    answers = client.answers(["sale-4711"], account_id="P12345678", after=after, timeout_s=30)
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
from pathlib import Path
from time import monotonic, time
from typing import Any, TypeAlias
from uuid import uuid4

from celery import Celery
from kombu.connection import Connection
from kombu.pools import producers
from pydantic import BaseModel
from redis import Redis

from card_worker.contracts.commands import (
    APPLY,
    COMMANDS_PER_MESSAGE_MAX,
    QUEUES,
    ProducerCommand,
    Queue,
)
from card_worker.contracts.envelope import ANSWERED, MESSAGE_BYTES_MAX, SENT_AT
from card_worker.contracts.events import SOURCE_PREFIX
from card_worker.contracts.fields import is_account_id
from card_worker.contracts.message import EXTRA_COST_MAX, extra_cost
from card_worker.contracts.queries import QUERY_QUEUES
from card_worker.contracts.signatures import SIGNATURE, SIGNED
from card_worker.contracts.traces import Trace
from card_worker.redis_url import RedisAddress
from card_worker.secrets.sealing import read_recipients, seal_text
from card_worker.secrets.secret import REVEAL
from card_worker.secrets.signing import SigningKey
from card_worker.sinks import connect
from card_worker.transport import TRANSPORT

STREAM = "card-events"
SECRET_FIELDS = frozenset(["token", "pin"])
_QUEUES = QUEUES | QUERY_QUEUES
_COMMANDS_BYTES_MAX = MESSAGE_BYTES_MAX - 16 * 1024
"""Maximum for the commands in a message; the rest is for its envelope."""
_MESSAGES_PER_BATCH = 1_000
_EVENTS_PER_READ = 500
_WAIT_S = 0.5
"""Longest time of one read."""
# An unavailable broker raises an error soon. The caller does not hang.
_RETRY = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.2}

Fields: TypeAlias = dict[str, Any]
"""The keyword arguments of a task, or the headers of a message: JSON."""
Event: TypeAlias = dict[str, Any]
"""An event from the stream: a CloudEvent, decoded from JSON."""


class Client:
    """Sends commands and reads events. Connects on first use; `close` or `with` disconnects.

    `broker_url` is the Redis with the queues, `events_url` the one with the event stream (default:
    the same). A URL has one of the forms that the setting BROKER_URL accepts. Raises ValueError
    for any other: one line that repeats no part of the URL.

    With `key`, a SigningKey or the path of its file, all commands and queries are signed. Raises
    OSError and NotAKey for a file that can't be read.

    With `seal_to`, the age recipients (`age1…`) that belong to the workers' COMMAND_IDENTITIES,
    tokens and PINs are encrypted before they are sent, so that nobody can read them in the broker.
    """

    def __init__(
        self,
        broker_url: str | RedisAddress,
        *,
        events_url: str | RedisAddress | None = None,
        stream: str = STREAM,
        seal_to: Sequence[str] | None = None,
        key: SigningKey | Path | str | None = None,
    ) -> None:
        self._key = SigningKey.read(Path(key)) if isinstance(key, Path | str) else key
        # Its own app and connection: the producer's Celery settings do not apply here, nor does
        # CELERY_BROKER_URL, which Celery would prefer.
        self._app = Celery(set_as_current=False)
        broker = _address(broker_url)
        self._redis: Redis = connect(broker if events_url is None else _address(events_url))
        self._broker = Connection(
            broker.broker_url,
            userid=broker.user,
            password=broker.password,
            ssl=broker.tls_options,
            transport=TRANSPORT,
            transport_options={
                "socket_timeout": 5,
                "socket_connect_timeout": 3,
                # No option of the transport: kombu's pools compare these, but not `ssl`.
                "tls": broker.tls_options,
            },
        )
        self._stream = stream
        self._recipients = None if seal_to is None else read_recipients(seal_to)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._redis.close()
        self._broker.release()
        self._app.close()

    def connect(self) -> None:
        """Connect to the broker. Raises kombu.exceptions.KombuError if it is unavailable."""
        with self._producer() as producer:
            producer.connection.ensure_connection(**_RETRY)

    def send(self, commands: ProducerCommand | Iterable[ProducerCommand]) -> None:
        """Send one command, or many, each as a message of its own to its queue.

        When this returns, the broker has stored all of them. Raises kombu.exceptions.KombuError if
        the broker is unavailable or full; it may have stored some of the commands then. Sending
        the same commands again is always harmless.
        """
        if isinstance(commands, BaseModel):
            self.publish(commands.command, self._fields(commands), message_id=commands.command_id)
            return
        with self._producer() as producer:
            producer.connection.ensure_connection(**_RETRY)
            with producer.batch(_MESSAGES_PER_BATCH):
                for command in commands:
                    self._put(producer, command.command, self._fields(command), command.command_id)

    def send_list(self, commands: Iterable[ProducerCommand]) -> int:
        """Send commands as lists, up to 1,000 in a message; return the number of messages.

        The commands in a message are handled in their order; messages may overtake each other.
        Raises the errors of `send`.
        """
        messages = 0
        for part in sliced(commands, self._fields, is_signed=self._key is not None):
            self.publish(APPLY, {"commands": part})
            messages += 1
        return messages

    def publish(self, task: str, kwargs: Fields, *, message_id: str | None = None) -> None:
        """Send a message for `task` without validating or encrypting `kwargs`.

        The id of a message that is signed is by default its `command_id`, as workers demand of a
        query. Raises KeyError if there is no such task, and the errors of `send`.
        """
        with self._producer() as producer:
            message_id = message_id or (self._key and kwargs.get("command_id")) or str(uuid4())
            self._put(producer, task, kwargs, message_id, retry=True, retry_policy=_RETRY)

    def republish(
        self,
        body: bytes,
        *,
        queue: str | None,
        headers: Fields,
        content_type: str | None,
        content_encoding: str | None,
    ) -> None:
        """Send a message with this body, unchanged, to `queue` (default: `cards`).

        Raises the errors of `send`.
        """
        with self._producer() as producer:
            producer.publish(
                body,
                exchange="",
                routing_key=queue or Queue.CARDS,
                headers=headers,
                content_type=content_type,
                content_encoding=content_encoding,
                retry=True,
                retry_policy=_RETRY,
            )

    def _fields(self, command: ProducerCommand) -> Fields:
        sent = fields(command)
        if self._recipients is not None:
            for name in SECRET_FIELDS & sent.keys():
                if isinstance(sent[name], str):
                    sent[name] = seal_text(self._recipients, sent[name])
        return sent

    def _put(
        self, producer: Any, task: str, kwargs: Fields, message_id: str, **options: Any
    ) -> None:
        if self._key is not None and task in ANSWERED:
            kwargs = _signed(self._key, task, kwargs, message_id)
        # Without `argsrepr` and `kwargsrepr`, Celery would repeat the fields in the headers, which
        # monitoring programs show.
        message = self._app.amqp.as_task_v2(
            message_id, task, kwargs=kwargs, argsrepr="()", kwargsrepr="{}"
        )
        producer.publish(
            message.body,
            exchange="",
            routing_key=_QUEUES[task],
            headers={**message.headers, SENT_AT: time(), **_trace_headers()},
            serializer="json",
            **message.properties,
            **options,
        )

    def _producer(self) -> Any:
        return producers[self._broker].acquire(block=True)

    def newest(self) -> str:
        """Return the id of the last entry of the stream, `0-0` if it has none.

        Call it before sending a command, and pass the id to `answers` or `events`.
        """
        entries: Any = self._redis.xrevrange(self._stream, count=1)
        return str(entries[0][0]) if entries else "0-0"

    def events(self, after: str, *, timeout_s: float | None = None) -> Iterator[Event]:
        """Yield the events after the stream entry `after` in order, then new ones as they come.

        Ends after `timeout_s` seconds, with 0 after one read; with None it never ends. Raises
        redis.RedisError if Redis is unavailable.
        """
        until = inf if timeout_s is None else monotonic() + timeout_s
        while True:
            wait_s = max(0, min(_WAIT_S, until - monotonic()))
            for entry, event in self.read_events(after, wait_s=wait_s):
                after = entry
                yield event
            if monotonic() >= until:
                return

    def read_events(self, after: str, *, wait_s: float) -> list[tuple[str, Event]]:
        """Return the next events after the stream entry `after`, each with the id of its entry.

        Returns up to 500; waits up to `wait_s` seconds for the first, at most 4. Raises
        redis.RedisError if Redis is unavailable.
        """
        # `block` is shorter than the socket's timeout; 0 would wait for ever.
        block_ms = round(min(wait_s, 4) * 1000) or None
        read: Any = self._redis.xread({self._stream: after}, count=_EVENTS_PER_READ, block=block_ms)
        entries = read[0][1] if read else ()
        return [(entry, json.loads(values["event"])) for entry, values in entries]

    def answers(
        self, command_ids: Iterable[str], *, account_id: str, after: str, timeout_s: float
    ) -> dict[str, Event]:
        """Return the answers to these commands of an account by command_id.

        Returns when it has all, or after `timeout_s` seconds with those that have come. `after` is
        what `newest` returned before the commands were sent. Other events about the commands, such
        as the progress of an order, are skipped. Raises TypeError for a text instead of a list,
        ValueError for an account_id of a wrong form, redis.RedisError if Redis is unavailable.
        """
        if isinstance(command_ids, str):
            raise TypeError("command_ids must be a list of ids, not a text")
        if not is_account_id(account_id):
            raise ValueError("account_id must be P or T and eight digits")
        keys = [(account_id, command_id) for command_id in command_ids]
        found = self.answers_of_accounts(keys, after=after, timeout_s=timeout_s)
        return {command_id: answer for (_, command_id), answer in found.items()}

    def answers_of_accounts(
        self, commands: Iterable[tuple[str, str]], *, after: str, timeout_s: float
    ) -> dict[tuple[str, str], Event]:
        """Return the answers to commands of several accounts, as `answers` does for one.

        A command is named by its account_id and command_id. The answers are in the order in which
        they came.
        """
        waiting, found = set(commands), dict[tuple[str, str], Event]()
        events = self.events(after, timeout_s=timeout_s)
        while waiting and (event := next(events, None)):
            key = event["source"].removeprefix(SOURCE_PREFIX), event["correlationid"]
            # A refusal for the sender concerns the producer with that key.
            sender = event["data"].get("key_id")
            is_mine = sender is None or (self._key is not None and sender == self._key.key_id)
            if key in waiting and event.get("answer") and is_mine:
                waiting.remove(key)
                found[key] = event
        return found


def _address(url: str | RedisAddress) -> RedisAddress:
    return RedisAddress.parse(url) if isinstance(url, str) else url


def fields(command: ProducerCommand) -> Fields:
    """Return the keyword arguments that send `command`: the fields that it was given.

    A null that was given is sent: in an update it clears the field.
    """
    return command.model_dump(mode="json", exclude={"command"}, exclude_unset=True, context=REVEAL)


def _trace_headers() -> Fields:
    """Return the trace context of the current span, if the producer uses OpenTelemetry."""
    if "opentelemetry.trace" not in sys.modules:
        return {}
    from opentelemetry.propagate import inject  # noqa: PLC0415  # may not be installed

    carrier: Fields = {}
    inject(carrier)
    # Not its baggage, which may be personal data.
    return {name: carrier[name] for name in Trace._fields if name in carrier}


def _signed(key: SigningKey, task: str, kwargs: Fields, message_id: str) -> Fields:
    """Return the keyword arguments of a signed message. The id of a message is not signed."""
    signed = json.dumps(kwargs if task == APPLY else {"command_id": message_id, **kwargs})
    return {SIGNED: signed, SIGNATURE: key.sign(task, signed)}


def sliced(
    commands: Iterable[ProducerCommand],
    to_fields: Callable[[ProducerCommand], Fields] = fields,
    *,
    is_signed: bool = False,
) -> Iterator[Sequence[Fields]]:
    """Split `commands`, in their order, into lists that each fit into one message."""
    part: list[Fields] = []
    size = extra = 0
    for command in commands:
        item = {"command": command.command, **to_fields(command)}
        text, item_extra = json.dumps(item), extra_cost(command.command, item)
        # What is signed is text in the JSON of the message: its quotes are escaped.
        item_bytes = len(json.dumps(text) if is_signed else text) + 1
        is_full = len(part) == COMMANDS_PER_MESSAGE_MAX or extra + item_extra > EXTRA_COST_MAX
        if part and (is_full or size + item_bytes > _COMMANDS_BYTES_MAX):
            yield part
            part, size, extra = [], 0, 0
        part.append(item)
        size += item_bytes
        extra += item_extra
    if part:
        yield part
