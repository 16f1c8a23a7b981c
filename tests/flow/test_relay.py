"""The relay publishes every event, in order per card, whatever fails."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Engine, select
from tenacity import Retrying, retry_if_exception, stop_after_delay
from typer.testing import CliRunner

from card_worker.cli import app
from card_worker.contracts.message import UnreadableItem, read_commands
from card_worker.embedded.valkey import Valkey
from card_worker.handler import handle
from card_worker.redis_url import RedisAddress
from card_worker.relay import LEASE, Relay
from card_worker.sinks import RedisStream
from card_worker.storage import leases, outbox
from card_worker.storage.engine import begin, open_engine, reading
from card_worker.storage.errors import is_retryable
from card_worker.storage.tables import outbox as events
from tests.flow.processes import WAIT_S, until
from tests.flow.system import ACCOUNT, STREAM, System

THEN = datetime(2026, 11, 22, 10, tzinfo=UTC)


def write(engine: Engine, *card_ids: str, now: datetime = THEN) -> None:
    """Commit the three events of each card's life: made, activated, expired."""
    for card_id in card_ids:
        _handle(engine, now, "cards.batch_create", f"b-{card_id}", cards=[{"card_id": card_id}])
        expires_at = (now + timedelta(hours=1)).isoformat()
        asked = {"card_id": card_id, "amount": 1, "currency": "NOK", "expires_at": expires_at}
        _handle(engine, now, "cards.activate", f"a-{card_id}", **asked)
        _handle(engine, now + timedelta(days=1), "cards.expire", f"e-{card_id}", card_id=card_id)


def _handle(engine: Engine, now: datetime, task: str, command_id: str, **fields: Any) -> None:
    (command,) = read_commands(task, command_id, {"account_id": ACCOUNT, **fields})
    assert not isinstance(command, UnreadableItem)
    # Of those who wait for SQLite one may come last again and again.
    for attempt in Retrying(retry=retry_if_exception(is_retryable), stop=stop_after_delay(WAIT_S)):
        with attempt, begin(engine) as (connection, _):
            (answer,) = handle(connection, [command], now)
            assert answer.reason is None


@contextmanager
def relays(database_url: str, broker_url: str, *, number: int = 1) -> Iterator[None]:
    """Let relays run meanwhile, each in a thread; raise what one of them raised."""
    stop = Event()

    def run() -> None:
        engine = open_engine(database_url)
        sink = RedisStream(
            RedisAddress.parse(broker_url), STREAM, entries_max=1_000_000, keep_s=604_800
        )
        try:
            Relay(engine, [sink]).run(stop.is_set)
        finally:
            sink.close()
            engine.dispose()

    with ThreadPoolExecutor() as threads:
        running = [threads.submit(run) for _ in range(number)]
        try:
            yield
        finally:
            stop.set()
        for one in running:
            one.result(WAIT_S)


def unpublished(engine: Engine) -> int:
    with engine.connect() as connection:
        return len(outbox.first_unpublished(connection, 10_000))


def on_stream(redis: Redis) -> list[dict[str, str]]:
    entries: Any = redis.xrange(STREAM)
    return [fields for _, fields in entries]


def assert_complete(engine: Engine, redis: Redis) -> list[dict[str, str]]:
    """The stream has every event, per card in order; what is there twice is the same twice."""
    until(lambda: unpublished(engine) == 0, "the last event")
    entries = on_stream(redis)
    first: dict[str, dict[str, str]] = {}
    for entry in entries:
        assert first.setdefault(entry["id"], entry) == entry
    with engine.connect() as connection:
        rows = connection.execute(select(events.c.id, events.c.event)).all()
    assert {id: entry["event"] for id, entry in first.items()} == {
        str(row.id): row.event for row in rows
    }
    assert_in_order(list(first.values()))
    return entries


def assert_in_order(entries: Sequence[dict[str, str]]) -> None:
    versions: dict[str, list[int]] = {}
    for event in (json.loads(entry["event"]) for entry in entries):
        if "sequence" in event:
            versions.setdefault(event["partitionkey"], []).append(int(event["sequence"]))
        elif event["type"] == "batch.completed":
            for card in event["data"]["cards"]:
                versions.setdefault(f"{ACCOUNT}/{card['card_id']}", []).append(1)
    assert versions
    for seen in versions.values():
        assert seen == list(range(1, len(seen) + 1))


def test_every_event_is_published_once_and_in_order(
    engine: Engine, database_url: str, broker_url: str, redis_client: Redis
) -> None:
    cards = [f"card-{number}" for number in range(50)]
    with relays(database_url, broker_url):
        write(engine, *cards)
        assert len(assert_complete(engine, redis_client)) == 3 * len(cards)


def test_two_relays_publish_each_event_once(
    engine: Engine, database_url: str, broker_url: str, redis_client: Redis
) -> None:
    with relays(database_url, broker_url, number=2):
        for start in range(0, 60, 20):
            write(engine, *(f"card-{number}" for number in range(start, start + 20)))
        assert len(assert_complete(engine, redis_client)) == 180


def test_several_writers_are_published_in_order_per_card(
    engine: Engine, database_url: str, broker_url: str, redis_client: Redis
) -> None:
    with relays(database_url, broker_url), ThreadPoolExecutor(4) as writers:
        each = [[f"card-{writer}-{number}" for number in range(20)] for writer in range(4)]
        list(writers.map(lambda cards: write(engine, *cards), each))
        assert len(assert_complete(engine, redis_client)) == 240


@pytest.mark.parametrize("kind", ["sqlite_url", "postgres_url"])
def test_a_commit_wakes_the_relay(kind: str, request: pytest.FixtureRequest) -> None:
    engine = open_engine(request.getfixturevalue(kind))
    with outbox.watching(engine) as wait, ThreadPoolExecutor() as threads:
        waiting = threads.submit(wait, 10 * WAIT_S)
        write(engine, "card")
        waiting.result(WAIT_S)
    engine.dispose()


def test_an_idle_relay_publishes_new_events(
    engine: Engine, database_url: str, broker_url: str, redis_client: Redis
) -> None:
    with relays(database_url, broker_url):
        for number in range(3):
            write(engine, f"card-{number}")
            assert_complete(engine, redis_client)
    assert redis_client.xlen(STREAM) == 9


def test_the_relay_waits_for_redis_and_then_publishes_in_order(
    engine: Engine, database_url: str, own_broker: Valkey
) -> None:
    with relays(database_url, own_broker.url), Redis.from_url(own_broker.url) as redis:
        write(engine, "before")
        until(lambda: unpublished(engine) == 0, "the first events")
        redis.close()
        own_broker.kill()
        write(engine, "meanwhile", "meanwhile too")
        own_broker.start()
        with Redis.from_url(own_broker.url, decode_responses=True) as again:
            assert len(assert_complete(engine, again)) >= 9


def test_a_redis_without_memory_loses_nothing_and_no_order(
    engine: Engine, database_url: str, own_broker: Valkey
) -> None:
    with Redis.from_url(own_broker.url, decode_responses=True) as redis:
        write(engine, "before")
        with relays(database_url, own_broker.url):
            until(lambda: unpublished(engine) == 0, "the first events")
            redis.config_set("maxmemory", 1)
            write(engine, *(f"card-{number}" for number in range(20)))
            until(lambda: _refused(redis), "a refusal")
            assert redis.xlen(STREAM) == 3
            redis.config_set("maxmemory", 0)
            assert len(assert_complete(engine, redis)) == 63


def _refused(redis: Redis) -> int:
    stats: Any = redis.info("errorstats")
    return int(stats.get("errorstat_OOM", {}).get("count", 0))


def test_when_the_active_relay_is_killed_the_other_takes_over(own: System) -> None:
    killed = own.start("relay")
    until(lambda: own.cli("relay", "--check").exit_code == 0, "the first relay")
    other = own.start("relay")
    other.says("relay started")
    write(own.engine, "before")
    own.publishes(3)
    killed.kill9()
    write(own.engine, "after")
    # It had the lease, so nobody else publishes until that has run out.
    entries = assert_complete(own.engine, own.redis)
    # The one it was at when it was killed may be there twice.
    assert len({entry["id"] for entry in entries}) == 6
    assert other.runs


def test_a_relay_that_is_killed_at_work_leaves_no_gap(own: System) -> None:
    cards = [f"card-{number}" for number in range(100)]
    write(own.engine, *cards)
    for _ in range(3):
        relay = own.start("relay")
        own.publishes(int(str(own.redis.xlen(STREAM))) + 1)
        relay.kill9()
        own.sql("DELETE FROM leases")  # as if its time had passed
        own.sql(
            "INSERT INTO unpublished SELECT position FROM outbox WHERE position > 150"
            " ON CONFLICT DO NOTHING"
        )
    own.start("relay")
    assert len(assert_complete(own.engine, own.redis)) >= 300


def test_a_relay_that_was_paused_past_its_lease_changes_no_order(own: System) -> None:
    paused = own.start("relay")
    write(own.engine, "before")
    own.publishes(3)
    other = own.start("relay")
    other.says("relay started")
    # Paused at work: what it has read is published by the other one meanwhile, and then by it.
    write(own.engine, *(f"card-{number}" for number in range(50)))
    paused.pause()
    write(own.engine, *(f"later-{number}" for number in range(50)))
    until(lambda: unpublished(own.engine) == 0, "the other relay")
    paused.resume()
    write(own.engine, "after")
    assert len(assert_complete(own.engine, own.redis)) >= 306
    # It has noticed that the lease isn't its own any more, and stands by.
    assert other.stop() == 0
    write(own.engine, "last")
    assert len(assert_complete(own.engine, own.redis)) >= 309
    assert paused.stop() == 0


def test_a_stopped_consumer_delays_no_other_and_misses_no_event(
    engine: Engine, database_url: str, broker_url: str, redis_client: Redis
) -> None:
    for group in ("stopped", "at work"):
        redis_client.xgroup_create(STREAM, group, id="0", mkstream=True)
    with relays(database_url, broker_url):
        write(engine, "before")
        assert_complete(engine, redis_client)
        begun = _read(redis_client, "stopped", 2)
        for number in range(10):
            write(engine, f"card-{number}")
            assert_complete(engine, redis_client)
            assert len(_read(redis_client, "at work", 100)) == (3 if number else 6)
    # It had taken two and died over them; these come again to it, and then all others.
    again = _read(redis_client, "stopped", 100, after="0")
    missed = _read(redis_client, "stopped", 100)
    assert again == begun
    assert [*again, *missed] == on_stream(redis_client)
    assert len(missed) == 31


def _read(redis: Redis, group: str, entries: int, after: str = ">") -> list[dict[str, str]]:
    found: Any = redis.xreadgroup(group, "one", {STREAM: after}, count=entries)
    ((_, read),) = found
    return [fields for _, fields in read]


def test_a_stopped_relay_releases_its_lease(own: System) -> None:
    first = own.start("relay")
    write(own.engine, "before")
    own.publishes(3)
    second = own.start("relay")
    second.says("relay started")
    assert first.stop() == 0
    write(own.engine, "after")
    assert len(assert_complete(own.engine, own.redis)) == 6
    assert second.stop() == 0
    assert own.cli("relay", "--check").exit_code == 1


@pytest.mark.parametrize(
    "away",
    [{"BROKER_URL": "redis://127.0.0.1:1/0"}, {"DATABASE_URL": "postgresql://127.0.0.1:1/cards"}],
    ids=["broker", "database"],
)
def test_a_waiting_relay_can_be_stopped(away: dict[str, str], own: System) -> None:
    relay = own.start("relay", **away)
    relay.says("database or sink unavailable, retrying")
    assert relay.stop() == 0


def test_check_reports_whether_a_relay_is_active(engine: Engine, database_url: str) -> None:
    def check() -> tuple[int, str]:
        done = CliRunner().invoke(
            app, ["relay", "--check"], env={"CARD_WORKER_DATABASE_URL": database_url}
        )
        return done.exit_code, done.output

    assert check() == (1, "card-worker: no relay is at work\n")
    with holding_the_lease(database_url):
        assert check() == (0, "the relay is at work\n")
        write(engine, "new", now=datetime.now(UTC) - timedelta(seconds=20))
        assert check()[0] == 0
        with engine.begin() as connection:
            connection.execute(events.update().values(created_at=THEN))
        code, words = check()
        assert (code, words) == (
            1,
            "card-worker: an event has waited since 2026-11-22T10:00:00+00:00\n",
        )
    # Its holder is gone without releasing it.
    with engine.connect() as connection:
        assert leases.find(connection, LEASE) is not None
    assert check() == (1, "card-worker: no relay is at work\n")


@contextmanager
def holding_the_lease(database_url: str) -> Iterator[None]:
    """Count up the relay's lease meanwhile, as its holder does."""
    gone = Event()

    def hold() -> None:
        engine = open_engine(database_url)
        while not gone.wait(0.05):
            with begin(engine) as (connection, _):
                leases.take(connection, LEASE, "someone", at=0.0)
        engine.dispose()

    with ThreadPoolExecutor() as threads:
        holder = threads.submit(hold)
        until(lambda: _held(database_url), "the lease")
        try:
            yield
        finally:
            gone.set()
        holder.result(WAIT_S)


def _held(database_url: str) -> leases.Lease | None:
    engine = open_engine(database_url)
    with reading(engine) as connection:
        held = leases.find(connection, LEASE)
    engine.dispose()
    return held
