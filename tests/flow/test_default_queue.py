"""Commands on the queue `celery`, where they arrive if a producer names no queue."""

import json

import pytest
from fakeredis import FakeRedis
from redis import Redis

from card_worker.worker.default_queue import DEFAULT_QUEUE, INSPECTED_MAX, count_ours
from tests.flow.system import System, card, envelope

TASKS = {"cards.create"}
WARNING = "commands on a queue that is not consumed"


def put(system: System) -> None:
    fields = {"command_id": "lost", **card("lost")}
    system.push(envelope("cards.create", "lost", fields, queue=DEFAULT_QUEUE), DEFAULT_QUEUE)


@pytest.fixture
def redis() -> Redis:
    return FakeRedis()


def test_only_our_tasks_are_counted_of_every_priority(redis: Redis) -> None:
    ours = json.dumps(envelope("cards.create", "a"))
    entries: list[tuple[str, str | bytes]] = [
        ("celery", ours),
        ("celery\x06\x163", ours),
        ("celery", json.dumps(envelope("reports.build", "b"))),
        ("celery", b"\xff"),
        ("celery", "[" * 100_000),
        *(("celery", raw) for raw in ("{", "[]", "7", '{"headers": {"task": ["cards.create"]}}')),
    ]
    for list_, raw in entries:
        redis.lpush(list_, raw)
    assert count_ours(redis, TASKS) == 2


def test_a_long_queue_is_not_read_as_a_whole(redis: Redis) -> None:
    ours = json.dumps(envelope("cards.create", "a"))
    redis.lpush("celery", *[ours] * (INSPECTED_MAX + 5))
    assert count_ours(redis, TASKS) == INSPECTED_MAX


def test_a_worker_warns_of_them_and_leaves_them_alone(own: System) -> None:
    put(own)
    worker = own.start("worker")
    worker.says(WARNING)
    own.start("relay")
    own.create("found")
    own.answers("found")
    assert own.redis.llen(DEFAULT_QUEUE) == 1


def test_a_worker_consumes_them_with_the_setting(own: System) -> None:
    put(own)
    worker = own.start("worker", "--queues=cards", ALSO_CONSUME="celery")
    own.start("relay")
    assert own.types("lost") == ["card.created"]
    assert own.redis.llen(DEFAULT_QUEUE) == 0
    assert WARNING not in worker.said


def test_a_worker_of_other_queues_does_not_consume_them(own: System) -> None:
    put(own)
    own.start("worker", "--queues=cards.system", ALSO_CONSUME="celery")
    own.start("relay")
    own.catches_up("cards.system")
    assert own.redis.llen(DEFAULT_QUEUE) == 1
