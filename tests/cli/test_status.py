"""`card-worker status`: what the database and Redis say of all processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Engine

from card_worker.contracts.dead_letters import DeadLetterReason
from card_worker.storage import dead_letters, leases
from card_worker.storage.dead_letters import DeadLetter
from card_worker.storage.engine import begin, open_engine
from card_worker.transport.access import lists_of
from card_worker.transport.in_flight import InFlight
from card_worker.transport.liveness import Heart, Watch
from tests.cli.commands import lines_of_json, run

NOBODY = "redis://127.0.0.1:1/0"


@contextmanager
def working(engine: Engine, redis: Redis) -> Iterator[InFlight]:
    """Let a relay renew its lease and a worker send heartbeats, as they do."""
    stopped = Event()

    def take() -> None:
        with begin(engine) as (connection, _):
            leases.take(connection, leases.RELAY, "relay-1", at=monotonic())

    def renew() -> None:
        while not stopped.wait(0.2):
            take()

    take()

    thread, in_flight = Thread(target=renew), InFlight(redis, "")
    heart = Heart(in_flight, Watch())
    thread.start()
    heart.start()
    try:
        yield in_flight
    finally:
        stopped.set()
        thread.join()
        heart.stop(9)


def status(database_url: str, broker_url: str) -> dict[str, Any]:
    done = run("status", "--json", DATABASE_URL=database_url, BROKER_URL=broker_url)
    assert done.exit_code == 0, done.output
    (view,) = lines_of_json(done)
    return dict(view)


@pytest.fixture
def redis_of_bytes(broker_url: str) -> Iterator[Redis]:
    with Redis.from_url(broker_url) as redis:
        redis.flushdb()
        yield redis


def test_it_shows_what_waits_and_who_works(
    engine: Engine, database_url: str, broker_url: str, redis_of_bytes: Redis
) -> None:
    redis = redis_of_bytes
    high, *_, low = lists_of("cards")
    redis.lpush(high, "a", "b"), redis.lpush(low, "c"), redis.lpush("cards.bulk", "d")
    redis.xadd("card-events", {"event": "{}"})
    with begin(engine) as (connection, now):
        letter = DeadLetter(
            received_at=now, queue="cards", reason=DeadLetterReason.DEFECT, body=b"x"
        )
        dead_letters.add(connection, letter)
    with working(engine, redis) as in_flight:
        assert in_flight.take_one(["cards"])
        view = status(database_url, broker_url)
    broker, base = view["broker"], view["database"]
    assert broker["waiting"] == {"cards": 2, "cards.bulk": 1, "cards.system": 0}
    assert (broker["in_flight"], broker["workers"], broker["workers_working"]) == (1, 1, 1)
    assert broker["unmoved_s"]["cards"] >= 0
    assert (base["relay"], base["relay_works"]) == ("relay-1", True)
    assert base["dead_letters"] == {"defect": 1}
    assert (base["schema"], view["stream"]["entries"]) == (base["schema_needed"], 1)
    shown = run("status", DATABASE_URL=database_url, BROKER_URL=broker_url).stdout
    # Both have ended since.
    for words in (
        "0 working, 1 silent for 5 s",
        "relay-1, silent for 5 s",
        "1 defect",
        "1 entries",
    ):
        assert words in shown


@pytest.mark.parametrize("away", ["database", "broker"])
def test_a_server_that_is_away_is_named_and_the_rest_is_shown(
    away: str, sqlite_url: str, broker_url: str
) -> None:
    nowhere = "postgresql://card_worker@127.0.0.1:1/cards"
    urls = {"DATABASE_URL": nowhere if away == "database" else sqlite_url}
    urls |= {"BROKER_URL": NOBODY if away == "broker" else broker_url, "EVENTS_URL": broker_url}
    done = run("status", "--json", **urls)
    assert done.exit_code == 1
    (view,) = lines_of_json(done)
    assert [name for name, part in view.items() if "error" in part] == [away]
    assert f"card-worker: {away}: " in done.stderr
    shown = run("status", **urls)
    assert shown.exit_code == 1
    assert "card-events: " in shown.stdout


def test_a_schema_of_another_version_is_named(tmp_path: Any, broker_url: str) -> None:
    url = f"sqlite:///{tmp_path}/empty.db"
    open_engine(url).connect().close()
    shown = run("status", DATABASE_URL=url, BROKER_URL=broker_url)
    assert shown.exit_code == 0
    assert "schema empty, but" in shown.stdout
