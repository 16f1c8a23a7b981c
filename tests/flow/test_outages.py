"""Workers through an outage: who lives isn't taken for dead, and who is paused holds nobody up."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from card_worker.cli.embedded import Valkey
from tests.flow.processes import Part, until
from tests.flow.system import IN_FLIGHT, System, card, system
from tests.proxy import Proxy, proxy

OUTAGE_S = 20.0
"""Longer than it takes to be found dead."""
SESSIONS = """
    SELECT pid, state, wait_event_type FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'card_worker'
"""


@pytest.fixture
def to_broker(own_broker: Valkey) -> Iterator[Proxy]:
    with proxy(own_broker.port) as running:
        yield running


@pytest.fixture
def apart(
    tmp_path: Path, postgres_url: str, own_broker: Valkey, to_broker: Proxy
) -> Iterator[System]:
    """A system whose parts reach the broker through a proxy, and the test past it."""
    with system(tmp_path, database_url=postgres_url, broker_url=own_broker.url) as made:
        made.parts.settings["CARD_WORKER_BROKER_URL"] = f"redis://127.0.0.1:{to_broker.port}/0"
        yield made


class Session(NamedTuple):
    """A session of a part, as PostgreSQL shows it."""

    pid: int
    state: str | None
    wait_event_type: str | None


@contextmanager
def beside(running: System) -> Iterator["psycopg.Connection[Any]"]:
    """Open a session that isn't one of the parts'."""
    with psycopg.connect(running.database_url, autocommit=True) as connection:
        yield connection


def sessions(running: System) -> list[Session]:
    running.engine.dispose()  # which has sessions under the same name
    with beside(running) as connection:
        return [Session(*row) for row in connection.execute(SESSIONS)]


@contextmanager
def locked(running: System, *card_ids: str) -> Iterator[None]:
    """Hold the rows of cards."""
    with beside(running) as connection, connection.transaction():
        locking = "SELECT FROM cards WHERE card_id = ANY(%s) FOR UPDATE"
        assert connection.execute(locking, [list(card_ids)]).rowcount == len(card_ids)
        yield


def held(running: System) -> dict[str, frozenset[str]]:
    """Return which messages each consumer has, by the key of its hash."""
    keys = [str(key) for key in running.redis.scan_iter(IN_FLIGHT)]
    found: dict[str, Any] = {key: running.redis.hvals(key) for key in keys}
    return {key: frozenset(values) for key, values in found.items() if values}


def busy_worker(running: System, number: int) -> Part:
    """Start a worker and give it a message about a locked card."""
    worker = running.start("worker", f"--hostname=w{number}@%h")
    worker.says(" ready.")
    before = held(running)
    running.send("cards.activate", f"asked-{number}", **card(f"card-{number}"))
    until(lambda: len(held(running)) > len(before), f"message {number} with its worker")
    return worker


def test_after_an_outage_of_the_broker_only_the_dead_are_dead(
    apart: System, to_broker: Proxy
) -> None:
    names = [f"card-{number}" for number in range(3)]
    first = apart.start("worker", "--hostname=first@%h")
    apart.start("relay")
    apart.create(*names)
    apart.answers(*names)
    first.stop()
    with locked(apart, *names):
        # All are at a commit that waits, so none of them looks after its connection meanwhile.
        *living, dead = (busy_worker(apart, number) for number in range(3))
        at_first = held(apart)
        (last,) = [key for key in at_first if any("asked-2" in raw for raw in at_first[key])]
        to_broker.pause()
        dead.kill9()
        silent(apart, OUTAGE_S)
        to_broker.resume()
        # It comes back, so somebody has looked for the dead; nobody else's message does.
        until(lambda: apart.redis.llen("cards"), "the message of the dead worker")
        lying: Any = apart.redis.lrange("cards", 0, -1)
        assert [raw.strip() for raw in lying] == [raw.strip() for raw in at_first[last]]
        assert {key: raws for key, raws in at_first.items() if key != last} == held(apart)
    asked = [f"asked-{number}" for number in range(3)]
    assert set(apart.types(*asked)) == {"card_already_active"}
    assert all(worker.runs for worker in living)


def silent(running: System, seconds: float) -> None:
    """Let an outage last: by the clock of the server, which counts heartbeats."""

    def clock() -> float:
        told: Any = running.redis.time()
        return float(told[0])

    began = clock()
    until(lambda: clock() - began > seconds, "the end of the outage")


def test_a_worker_that_is_paused_in_its_commit_holds_the_others_up_for_a_while_only(
    own: System,
) -> None:
    paused = own.start("worker", "--hostname=paused@%h")
    own.start("relay")
    own.create("card", "other")
    own.answers("card", "other")
    with locked(own, "card"):
        own.send("cards.activate", "asked", **card("card"))
        until(lambda: any(one.wait_event_type == "Lock" for one in sessions(own)), "the commit")
        paused.pause()
    # The database gives it the lock now, and nobody is there to go on.
    until(lambda: _idle(own), "the commit in which nothing happens")
    before = _idle(own)
    own.start("worker", "--hostname=second@%h")
    own.send("cards.block", "second", card_id="card", reason="because")
    assert own.types("second") == ["card.blocked"]
    # The database itself has ended it.
    assert not before & {one.pid for one in sessions(own)}
    assert own.types("asked") == ["card_already_active"]
    assert paused.runs
    paused.resume()
    own.send("cards.unblock", "third", card_id="card", reason="because")
    assert own.types("third") == ["card.unblocked"]
    until(lambda: own.waiting() == 0, "the end")
    assert [event["correlationid"] for event in own.events()].count("asked") == 1


def _idle(running: System) -> set[int]:
    return {one.pid for one in sessions(running) if one.state == "idle in transaction"}
