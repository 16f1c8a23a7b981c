"""Celery's default queue, `celery`: a command whose producer names no queue lands there.

Another application may use the same queue on the same Redis, so it is not consumed by default.
"""

import json
from collections.abc import Collection
from typing import Any

import structlog
from kombu.entity import Exchange
from kombu.entity import Queue as KombuQueue
from kombu.transport.redis import PRIORITY_STEPS, Channel
from redis import Redis
from redis.exceptions import RedisError

from card_worker.contracts.commands import Queue

DEFAULT_QUEUE = "celery"
INSPECTED_MAX = 25
"""How many messages of each priority are inspected, the oldest."""

log = structlog.get_logger(__name__)


def count_ours(redis: Redis, tasks: Collection[str]) -> int:
    """Return how many of the oldest messages on the default queue name one of `tasks`.

    Raises RedisError.
    """
    lower = [f"{DEFAULT_QUEUE}{Channel.sep}{step}" for step in PRIORITY_STEPS if step]
    lists = [DEFAULT_QUEUE, *lower]
    found: Any = [raw for name in lists for raw in redis.lrange(name, -INSPECTED_MAX, -1)]
    return sum(_task(raw) in tasks for raw in found)


def warn_of_ours(redis: Redis, tasks: Collection[str]) -> None:
    """Log a warning if commands wait on the default queue."""
    try:
        count = count_ours(redis, tasks)
    except RedisError:  # such as a user without access to that key
        return
    if count:
        log.warning(
            "commands on a queue that is not consumed",
            queue=DEFAULT_QUEUE,
            commands=count,
            remedy="name the queue in the producer, or set CARD_WORKER_ALSO_CONSUME=celery",
        )


def consume_too(queues: Any) -> None:
    """Let a worker that consumes `cards` consume the default queue too, whatever -Q says."""
    if Queue.CARDS in queues.consume_from:
        queues.select_add(KombuQueue(DEFAULT_QUEUE, Exchange(DEFAULT_QUEUE), DEFAULT_QUEUE))


def _task(raw: bytes | str) -> str | None:
    try:
        name = json.loads(raw)["headers"]["task"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return name if isinstance(name, str) else None
