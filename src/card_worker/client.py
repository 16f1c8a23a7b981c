"""For Python producers: typed commands out, answers back. Any other Celery client does as well.

with Client("redis://localhost:6379/0") as client:
    client.send(ActivateCard(account_id="P12345678", command_id="sale-4711",
                             card_id="card-01", amount=50000, currency=Currency.NOK))
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic
from types import TracebackType
from typing import Any
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
from card_worker.contracts.envelope import MESSAGE_BYTES_MAX
from card_worker.contracts.message import EXTRA_COST_MAX, extra_cost
from card_worker.contracts.queries import QUERY_QUEUES
from card_worker.redis_url import RedisAddress
from card_worker.secrets.sealing import read_recipients, seal_text
from card_worker.secrets.secret import REVEAL
from card_worker.sinks import connect
from card_worker.transport import TRANSPORT

STREAM = "card-events"
_QUEUES = QUEUES | QUERY_QUEUES
# Room for what the envelope adds around the commands.
SLICE_BYTES_MAX = MESSAGE_BYTES_MAX - 16 * 1024
SECRETS = frozenset(["token", "pin"])
SENT_TOGETHER = 1_000
READ_EVENTS = 500
# A broker that is away is an error here and now, not a caller that hangs.
RETRY = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.2}

Answer = dict[str, Any]
"""An event as it stands on the stream: the CloudEvent's JSON, read."""


class Client:
    """Sends commands and reads their answers. Connections are made when first used.

    With `seal_to`, the age recipients of the workers' COMMAND_IDENTITIES, tokens and PINs leave
    sealed, so that nobody reads them in the broker, its memory or its files.

    A URL may have every form that the setting BROKER_URL may have. Raises ValueError, one line that
    repeats no part of the URL, for any other.
    """

    def __init__(
        self,
        broker_url: str | RedisAddress,
        *,
        events_url: str | RedisAddress | None = None,
        stream: str = STREAM,
        seal_to: Sequence[str] | None = None,
    ) -> None:
        # An app and a connection of its own: a producer's Celery settings, and CELERY_BROKER_URL,
        # which Celery puts before them, never meet ours.
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

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of connections."""
        self._redis.close()
        self._broker.release()
        self._app.close()

    def send(self, commands: ProducerCommand | Iterable[ProducerCommand]) -> None:
        """Put each command on its queue, as a message of its own; of many, a thousand at a time.

        The broker has them all when this returns. Raises kombu.exceptions.KombuError when it is
        away or full, and may then have some of them; sending the same commands again is harmless
        then and always.
        """
        if isinstance(commands, BaseModel):
            self.publish(commands.command, self._fields(commands), message_id=commands.command_id)
            return
        with self._producer() as producer:
            producer.connection.ensure_connection(**RETRY)
            with producer.batch(SENT_TOGETHER):
                for one in commands:
                    self._put(producer, one.command, self._fields(one), one.command_id)

    def send_list(self, commands: Iterable[ProducerCommand]) -> int:
        """Put `commands` on the queue for lists, many in a message; return how many messages.

        Commands in one message are handled in their order. Messages may overtake one another.
        """
        messages = 0
        for part in sliced(commands, self._fields):
            self.publish(APPLY, {"commands": part})
            messages += 1
        return messages

    def publish(self, task: str, kwargs: Answer, *, message_id: str | None = None) -> None:
        """Put a message on its queue as it is, read or unreadable."""
        with self._producer() as producer:
            message_id = message_id or str(uuid4())
            self._put(producer, task, kwargs, message_id, retry=True, retry_policy=RETRY)

    def republish(
        self,
        body: bytes,
        *,
        queue: str | None,
        headers: Answer,
        content_type: str | None,
        content_encoding: str | None,
    ) -> None:
        """Put a message on its queue again, byte for byte as it came."""
        with self._producer() as producer:
            producer.publish(
                body,
                exchange="",
                routing_key=queue or Queue.CARDS,
                headers=headers,
                content_type=content_type,
                content_encoding=content_encoding,
                retry=True,
                retry_policy=RETRY,
            )

    def _fields(self, command: ProducerCommand) -> Answer:
        asked = fields(command)
        if self._recipients is not None:
            for name in SECRETS & asked.keys():
                if isinstance(asked[name], str):
                    asked[name] = seal_text(self._recipients, asked[name])
        return asked

    def _put(
        self, producer: Any, task: str, kwargs: Answer, message_id: str, **options: Any
    ) -> None:
        # No repr of the fields beside them: headers are read by more programs than bodies are.
        message = self._app.amqp.as_task_v2(
            message_id, task, kwargs=kwargs, argsrepr="()", kwargsrepr="{}"
        )
        producer.publish(
            message.body,
            exchange="",
            routing_key=_QUEUES[task],
            headers=message.headers,
            serializer="json",
            **message.properties,
            **options,
        )

    def _producer(self) -> Any:
        return producers[self._broker].acquire(block=True)

    def newest(self) -> str:
        """Return the id of the newest entry on the stream: where to read on from."""
        entries: Any = self._redis.xrevrange(self._stream, count=1)
        return str(entries[0][0]) if entries else "0-0"

    def events(self, after: str, *, timeout_s: float | None = None) -> Iterator[Answer]:
        """Yield what is on the stream after entry `after`, then what comes.

        Ends after `timeout_s`; None goes on for ever.
        """
        until = None if timeout_s is None else monotonic() + timeout_s
        while until is None or monotonic() < until:
            # Shorter than the time after which the connection counts as dead.
            read: Any = self._redis.xread({self._stream: after}, count=READ_EVENTS, block=500)
            for entry, values in read[0][1] if read else ():
                after = entry
                yield json.loads(values["event"])

    def answers(
        self, command_ids: Iterable[str], *, after: str, timeout_s: float
    ) -> dict[str, Answer]:
        """Return the answers to these commands by command_id, as far as they came in time.

        What else is told of a command, before its answer or after it, is passed over. `after` is
        what `newest` returned before the commands were sent.
        """
        wanted, found = set(command_ids), dict[str, Answer]()
        for event in self.events(after, timeout_s=timeout_s):
            command_id = event["correlationid"]
            if command_id in wanted and is_answer(event):
                found.setdefault(command_id, event)
                if len(found) == len(wanted):
                    break
        return found


def _address(url: str | RedisAddress) -> RedisAddress:
    return RedisAddress.parse(url) if isinstance(url, str) else url


def is_answer(event: Answer) -> bool:
    """Say whether an event answers its command, and doesn't tell what else came of that."""
    data = event["data"]
    match event["type"]:
        case "batch.progressed" | "batch.recalled" | "batch.confirmed":
            return False
        case "batch.completed":  # of a list that was made at once
            return "cards" in data
        case "batch.cancelled":
            return bool(data["command"] == "batches.cancel")
        case "hold.expired":
            return bool(data["command"] == "holds.expire")
    return True


def fields(command: ProducerCommand) -> Answer:
    """Return what a message carries of `command`: its fields that aren't left at their default."""
    return command.model_dump(
        mode="json", exclude={"command"}, exclude_defaults=True, context=REVEAL
    )


def sliced(
    commands: Iterable[ProducerCommand], written: Callable[[ProducerCommand], Answer] = fields
) -> Iterator[Sequence[Answer]]:
    """Yield `commands` as the lists that fit into one message each, in their order."""
    part: list[Answer] = []
    size = extra = 0
    for command in commands:
        one = {"command": command.command, **written(command)}
        bytes_more, extra_more = len(json.dumps(one)) + 1, extra_cost(command.command, one)
        is_full = len(part) == COMMANDS_PER_MESSAGE_MAX or extra + extra_more > EXTRA_COST_MAX
        if part and (is_full or size + bytes_more > SLICE_BYTES_MAX):
            yield part
            part, size, extra = [], 0, 0
        part.append(one)
        size += bytes_more
        extra += extra_more
    if part:
        yield part
