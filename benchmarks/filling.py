"""Messages for card_worker: byte for byte what a stock Celery client sends, put there quickly."""

import base64
import json
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import uuid4

from celery import Celery
from redis import Redis

from benchmarks.commands import command
from benchmarks.signing import HMAC, signed
from card_worker.contracts.commands import APPLY, Queue

SENT_AT_ONCE = 1_000
COMMANDS_PER_MESSAGE = 1_000

Numbers = Sequence[int]
"""Which commands: they are known by number."""


def send_activations(broker_url: str, numbers: Numbers) -> None:
    """Put activations on their queue, one a message."""
    send_each(broker_url, "cards.activate", Queue.CARDS, numbers)


def send_lists(broker_url: str, numbers: Numbers) -> None:
    """Put activations on the queue for lists, COMMANDS_PER_MESSAGE in each."""
    parts = [
        numbers[start : start + COMMANDS_PER_MESSAGE]
        for start in range(0, len(numbers), COMMANDS_PER_MESSAGE)
    ]
    _send(broker_url, APPLY, Queue.BULK, ({"commands": _listed(part)} for part in parts))


def send_signed(broker_url: str, numbers: Numbers) -> None:
    """Put activations on their queue, one a message, each signed with HMAC."""
    task = "cards.activate"
    _send(broker_url, task, Queue.CARDS, (signed(HMAC, task, command(n)) for n in numbers))


def send_each(broker_url: str, task: str, queue: str, numbers: Numbers) -> None:
    """Put the commands with these numbers on a queue, one a message."""
    _send(broker_url, task, queue, map(command, numbers))


def _listed(numbers: Numbers) -> list[dict[str, Any]]:
    return [{"command": "cards.activate", **command(number)} for number in numbers]


def _send(broker_url: str, task: str, queue: str, asked: Iterable[dict[str, Any]]) -> None:
    """Let a Celery client send one message, and copy it for each that is asked for."""
    with Redis.from_url(broker_url) as redis:
        message = _take_sample(redis, broker_url, task)
        pipeline = redis.pipeline(transaction=False)
        for kwargs in asked:
            pipeline.lpush(queue, _copy(message, queue, kwargs))
            if len(pipeline) == SENT_AT_ONCE:
                pipeline.execute()
        pipeline.execute()


def _take_sample(redis: "Redis", broker_url: str, task: str) -> dict[str, Any]:
    with Celery(broker=broker_url, set_as_current=False) as app:
        app.send_task(task, queue="sample", kwargs={})
    raw = redis.rpop("sample")
    assert isinstance(raw, bytes)
    message: dict[str, Any] = json.loads(raw)
    return message


def _copy(message: dict[str, Any], queue: str, kwargs: dict[str, Any]) -> str:
    args, _, embedded = json.loads(base64.b64decode(message["body"]))
    id = str(uuid4())
    headers = {**message["headers"], "id": id, "root_id": id, "kwargsrepr": repr(kwargs)[:1024]}
    properties = {
        **message["properties"],
        "correlation_id": id,
        "delivery_tag": str(uuid4()),
        "delivery_info": {"exchange": "", "routing_key": queue},
    }
    body = base64.b64encode(json.dumps([args, kwargs, embedded]).encode()).decode()
    return json.dumps({**message, "body": body, "headers": headers, "properties": properties})
