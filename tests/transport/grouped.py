"""A Celery app whose messages are handled in groups, and which fails at some of them."""

import os
from collections.abc import Sequence
from typing import Any

from celery import Celery
from kombu.message import Message as KombuMessage
from redis import Redis

from card_worker.storage.contention import Row
from card_worker.worker import grouping
from card_worker.worker.messages import Answered, Failed, Message, Outcome, QueryAnswered

URL = os.environ["PLAIN_URL"]

app = Celery("grouped", broker=URL, set_as_current=False)
app.conf.update(
    broker_transport="card_worker.transport:Transport",
    broker_transport_options={"strict": True},
    worker_consumer="tests.transport.grouped:Consumer",
    worker_prefetch_multiplier=100,
    task_acks_late=True,
)
redis = Redis.from_url(URL, decode_responses=True)


@app.task
def note(word: str) -> None:
    """Write down a word: by itself, never; see `deliver`."""
    raise AssertionError


def deliver(messages: Sequence[Message], locked: frozenset[Row] = frozenset()) -> list[Outcome]:
    """Write down a group's words as one entry; fail as a whole at one that is bad."""
    words = [message.kwargs["word"] for message in messages]
    if "bad" in words:
        raise ValueError("bad")
    redis.rpush("noted", " ".join(words))
    return [Answered(()) for _ in messages]


class Consumer(grouping.Consumer):
    """Keeps what can't be done in a list."""

    tasks = frozenset([note.name])
    group_max = 50
    group_wait_s = 0.0
    deliver = staticmethod(deliver)

    def dead_letter(self, failed: Sequence[tuple[KombuMessage, Failed]]) -> bool:
        redis.rpush("failed", *(f"{raw.headers.get('id')}: {one.reason}" for raw, one in failed))
        return True

    def result(self, message: Message, outcome: Answered | QueryAnswered) -> Any:
        """There is none."""
