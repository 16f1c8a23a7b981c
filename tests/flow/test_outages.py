"""Workers during outages: living ones do not count as dead, and paused ones delay nobody long."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg

from tests.flow.processes import until
from tests.flow.system import System, card

SESSIONS = """
    SELECT pid, state, wait_event_type FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'card_worker'
"""


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


def test_a_worker_paused_in_its_commit_delays_others_only_for_a_while(
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
