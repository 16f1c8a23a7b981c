"""A Celery app that has never heard of cards, as any user of the transport might have it."""

import os

from celery import Celery, Task
from redis import Redis

URL = os.environ["PLAIN_URL"]
NOTED, GO = "noted", "go"

app = Celery("plain", broker=URL, backend=URL, set_as_current=False)
app.conf.update(
    broker_transport="card_worker.transport:Transport",
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=16,
)
# Not over the wire that a test may cut.
redis = Redis.from_url(os.environ["PLAIN_NOTES"], decode_responses=True)


@app.task
def note(word: str) -> str:
    """Write down a word."""
    redis.rpush(NOTED, word)
    return word


@app.task
def join(words: list[str]) -> str:
    """Write down many words as one."""
    redis.rpush(NOTED, "+".join(sorted(words)))
    return "joined"


@app.task(bind=True)
def insist(self: Task, word: str) -> None:
    """Write down a word, at the third try."""
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    redis.rpush(NOTED, word)


@app.task
def wait(word: str) -> None:
    """Write down a word once there is something in the list GO."""
    redis.rpush("begun", word)
    redis.blpop([GO])
    redis.rpush(NOTED, word)
