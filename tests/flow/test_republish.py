"""Events of the outbox are published again: to the stream by the relay, to another one directly."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from redis import Redis
from sqlalchemy import Engine, select
from typer.testing import CliRunner, Result

from card_worker.cli import app
from card_worker.storage.tables import outbox
from tests.flow.processes import until
from tests.flow.system import ACCOUNT, STREAM, System, card
from tests.flow.test_relay import THEN, assert_complete, on_stream, relays, unpublished, write


class Republish(NamedTuple):
    """The command, and a relay for it."""

    database_url: str
    broker_url: str

    def __call__(self, *options: str) -> Result:
        urls = {"DATABASE_URL": self.database_url, "BROKER_URL": self.broker_url}
        settings = {f"CARD_WORKER_{name}": url for name, url in urls.items()}
        return CliRunner().invoke(app, ["events", "republish", *options], env=settings)

    def relay(self) -> AbstractContextManager[None]:
        return relays(self.database_url, self.broker_url)


@pytest.fixture
def republish(database_url: str, broker_url: str) -> Republish:
    return Republish(database_url, broker_url)


def stored(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(select(outbox.c.event).order_by(outbox.c.position)))


def published(redis: "Redis", stream: str = STREAM) -> list[str]:
    entries: Any = redis.xrange(stream)
    return [fields["event"] for _, fields in entries]


def test_a_running_relay_publishes_all_again_in_order(
    engine: Engine, republish: Republish, redis_client: "Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("card_worker.relay.SLICE_EVENTS", 7)
    with republish.relay():
        write(engine, *(f"card-{number}" for number in range(20)))
        assert len(assert_complete(engine, redis_client)) == 60
        redis_client.flushdb()
        assert republish("--all").stdout == "60 events for the relay to publish\n"
        write(engine, "newer")
        assert_complete(engine, redis_client)
    assert published(redis_client) == stored(engine)


def test_events_are_selected(engine: Engine, republish: Republish, redis_client: "Redis") -> None:
    with republish.relay():
        write(engine, "one", "two", now=THEN)
        write(engine, "three", now=THEN + timedelta(days=30))
        assert_complete(engine, redis_client)
    every = on_stream(redis_client)
    (first,) = [each for each in every if each["subject"] == "b-one"]
    cases = {
        ("--all",): 9,
        ("--since", "2026-12-22T00:00:00Z"): 3,
        ("--account", ACCOUNT): 9,
        ("--account", "T99999999"): 0,
        ("--account", ACCOUNT, "--card", "one"): 2,
        ("--type", "card.expired", "--type", "card.activated"): 6,
        ("--type", "card.expired", "--account", ACCOUNT, "--card", "two"): 1,
        ("--id", first["id"]): 1,
    }
    for number, (options, count) in enumerate(cases.items()):
        done = republish(*options, "--stream", f"copy-{number}")
        assert done.exit_code == 0, done.output
        copied = published(redis_client, f"copy-{number}")
        assert len(copied) == count, options
        assert copied == [event for event in stored(engine) if event in copied]
        assert unpublished(engine) == 0


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--all", "--account", ACCOUNT),
        ("--card", "one"),
        ("--since", "yesterday"),
        ("--type", "card.burnt"),
        ("--id", "1"),
        ("--all", "--stream", ""),
    ],
)
def test_an_invalid_selection_publishes_nothing(options: tuple[str, ...], sqlite_url: str) -> None:
    settings = {"CARD_WORKER_DATABASE_URL": sqlite_url}
    done = CliRunner().invoke(app, ["events", "republish", *options], env=settings)
    assert done.exit_code == 2
    assert done.stderr


def sell(system: System, numbers: Iterable[int]) -> None:
    for number in numbers:
        system.send("cards.create", f"sale-{number}", **card(f"card-{number}"))


def test_a_lost_redis_is_rebuilt(own: System) -> None:
    relay = own.start("relay")
    own.start("worker")
    sell(own, range(100))
    own.publishes(20)
    own.redis.flushall()
    sell(own, range(100, 150))
    own.publishes(1)
    assert relay.stop() == 0
    # Whoever has no answer sends again.
    sell(own, range(150))
    until(lambda: own.rows()["cards"] == 150 and own.waiting() == 0, "the last card")
    own.redis.delete(STREAM)
    assert own.cli("events", "republish", "--all").exit_code == 0
    own.start("relay")
    until(lambda: unpublished(own.engine) == 0, "the last event")
    own.answers(*(f"sale-{number}" for number in range(150)))
    assert list(dict.fromkeys(published(own.redis))) == stored(own.engine)
    assert own.cli("reconcile").exit_code == 0
