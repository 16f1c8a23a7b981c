"""The transport serves an app that isn't card_worker, with all that Celery offers."""

import gc
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery import Celery, chord
from kombu import pools
from kombu.utils.url import parse_url
from redis import Redis

from tests.flow.processes import Part, until
from tests.proxy import Proxy, proxy

ROOT = Path(__file__).parents[2]
TASKS = "tests.transport.plain"
GROUPED = "tests.transport.grouped"
NOTED, GO = "noted", "go"

# There is no other worker to ask what it knows, so it doesn't spend a second on asking.
ALONE = ("--without-mingle", "--without-gossip")

Start = Callable[..., Part]


@pytest.fixture
def redis(broker_url: str) -> Iterator[Redis]:
    with Redis.from_url(broker_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def producer(broker_url: str) -> Iterator[Celery]:
    """A client on the transport that Celery brings along."""
    with Celery(broker=broker_url, backend=broker_url, set_as_current=False) as celery:
        yield celery
        # While the server is there: results wave goodbye, and would wait for it for minutes.
        gc.collect()
        celery.backend.result_consumer.stop()
        celery.backend.client.connection_pool.disconnect()
        pools.reset()


@pytest.fixture
def start(tmp_path: Path, broker_url: str) -> Iterator[Start]:
    started: list[Part] = []

    def worker(*options: str, url: str = broker_url, app: str = TASKS) -> Part:
        environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT)}
        environment |= {"PLAIN_URL": url, "PLAIN_NOTES": broker_url}
        number = len(started)
        command = ("-m", "celery", "-A", app, "worker", *ALONE)
        name = f"--hostname=worker{number}@%h"
        part = Part(tmp_path / f"{number}.log", (*command, name, *options), environment, tmp_path)
        started.append(part)
        return part

    yield worker
    for part in started:
        part.kill9()
        sys.stderr.write(f"--- {part.log.name}\n{part.tail}\n")


def send(producer: Celery, task: str, word: str, **options: object) -> None:
    producer.send_task(f"{TASKS}.{task}", [word], ignore_result=True, **options)


def noted(redis: Redis, words: int) -> list[str]:
    """Return what has been written down, once it is so many words."""
    until(lambda: int(str(redis.llen(NOTED))) >= words, f"{words} words")
    return [str(word) for word in redis.lrange(NOTED, 0, -1)]


def in_flight(redis: Redis) -> int:
    return sum(int(str(redis.hlen(key))) for key in redis.scan_iter("inflight.of.*"))


POOLS = {"solo": ("--pool=solo",), "prefork": ("--pool=prefork", "--concurrency=2")}


# Celery's own result backend calls it, for the chord.
@pytest.mark.filterwarnings("ignore:Call to deprecated setex")
@pytest.mark.parametrize("pool", POOLS)
def test_what_celery_offers_works(pool: str, start: Start, producer: Celery, redis: Redis) -> None:
    start(*POOLS[pool])
    words = [f"word-{number}" for number in range(100)]
    results = [producer.send_task(f"{TASKS}.note", [word]) for word in words]
    send(producer, "note", "packed", compression="gzip")
    send(producer, "note", "first", priority=9)
    send(producer, "note", "later", countdown=0.5)
    send(producer, "insist", "third")
    parts = [producer.signature(f"{TASKS}.note", args=(word,)) for word in "abc"]
    chord(parts, app=producer)(producer.signature(f"{TASKS}.join"))
    expected = [*words, "packed", "first", "later", "third", "a", "b", "c", "a+b+c"]
    assert Counter(noted(redis, len(expected))) == Counter(expected)
    assert [result.get(timeout=60) for result in results] == words
    until(lambda: in_flight(redis) == 0, "the last acknowledgement")


def test_a_monitor_can_ask_and_steer(start: Start, producer: Celery, redis: Redis) -> None:
    start("--pool=solo")
    send(producer, "note", "up")
    noted(redis, 1)
    (answer,) = producer.control.ping(timeout=60, limit=1)
    assert list(answer.values()) == [{"ok": "pong"}]


@pytest.mark.parametrize("pool", POOLS)
def test_what_a_killed_worker_had_is_done_by_another(
    pool: str, start: Start, producer: Celery, redis: Redis
) -> None:
    words = [f"word-{number}" for number in range(10)]
    for word in words:
        send(producer, "wait", word)
    first = start(*POOLS[pool])
    until(lambda: redis.llen("begun"), "the first task")
    assert in_flight(redis) == len(words)
    first.kill9()
    redis.rpush(GO, *words, *words)
    start(*POOLS[pool])
    assert Counter(noted(redis, len(words))) == Counter(words)
    until(lambda: in_flight(redis) == 0, "the last acknowledgement")


def test_what_a_stopped_worker_had_not_begun_goes_back_in_its_order(
    start: Start, producer: Celery, redis: Redis
) -> None:
    words = [f"word-{number}" for number in range(10)]
    for word in words:
        send(producer, "wait", word)
    first = start("--pool=prefork", "--concurrency=1")
    until(lambda: redis.llen("begun"), "the first task")
    first.ask_to_stop()
    first.says("Warm shutdown")
    redis.rpush(GO, words[0])
    assert first.ended() == 0
    assert noted(redis, 1) == [words[0]]
    assert (in_flight(redis), redis.llen("celery")) == (0, 9)
    redis.rpush(GO, *words[1:])
    start("--pool=solo")
    assert noted(redis, 10) == words


def test_a_connection_that_goes_silent_is_noticed(
    start: Start, producer: Celery, redis: Redis, broker_url: str
) -> None:
    server = parse_url(broker_url)
    with proxy(server["port"]) as between:
        start("--pool=solo", url=_through(broker_url, between))
        send(producer, "note", "before")
        noted(redis, 1)
        between.pause()
        before = between.accepted
        until(lambda: between.accepted > before, "a new connection")
        between.resume()
        words = [f"word-{number}" for number in range(10)]
        for word in words:
            send(producer, "note", word)
        assert set(noted(redis, 11)) == {"before", *words}


def _through(url: str, between: Proxy) -> str:
    return url.replace(f":{parse_url(url)['port']}", f":{between.port}")


@pytest.mark.parametrize("pool", POOLS)
def test_groups_of_another_app_fail_and_succeed_alone(
    pool: str, start: Start, producer: Celery, redis: Redis
) -> None:
    words = [f"word-{number}" for number in range(120)]
    words[60] = "bad"
    for number, word in enumerate(words):
        producer.send_task(
            f"{GROUPED}.note",
            kwargs={"word": word},
            task_id=f"id-{number}",
            queue="celery",
            ignore_result=True,
        )
    redis.lpush("celery", "nonsense")
    start(*POOLS[pool], app=GROUPED)
    until(lambda: int(str(redis.llen("failed"))) >= 2, "what failed")
    until(lambda: not redis.exists("celery") and in_flight(redis) == 0, "the end")
    assert sorted(redis.lrange("failed", 0, -1)) == [
        "None: entry_malformed",
        "id-60: defect",
    ]
    groups = [group.split() for group in redis.lrange("noted", 0, -1)]
    assert sorted(len(group) for group in groups) == [*([1] * 49), 20, 50]
    assert Counter(word for group in groups for word in group) == Counter(words) - Counter(["bad"])
