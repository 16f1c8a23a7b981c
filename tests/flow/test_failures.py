"""What fails on the way: servers that go and come back, locks, defects, workers that stop."""

from pathlib import Path

import pytest
from sqlalchemy import text

from card_worker.embedded.valkey import Valkey, valkey
from card_worker.storage.engine import open_engine, reading
from tests import servers
from tests.flow import defects
from tests.flow.processes import until
from tests.flow.system import System, card, envelope, note_starts, system

# The database hasn't missed a dead worker's session yet, which holds locks.
END_HUNG = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event = 'PgSleep'
"""
BUSY = [f"busy-{number}" for number in range(200)]
# So that they are many commits, between which something can happen.
GROUP_MAX = "5"


@pytest.fixture
def running(own: System) -> System:
    own.start("worker", GROUP_MAX=GROUP_MAX)
    own.start("relay")
    return own


def assert_done_once(done: System, card_ids: list[str]) -> None:
    """Each card was made once, is told once, and an event that is there twice is the same."""
    assert set(done.types(*card_ids)) == {"card.created"}
    rows = done.rows()
    assert (rows["cards"], rows["transactions"], rows["outbox"]) == (len(card_ids),) * 3
    by_id = {entry["id"]: entry for entry in done.stream()}
    assert len([one for one in by_id.values() if one["subject"] in set(card_ids)]) == len(card_ids)
    assert all(entry == by_id[entry["id"]] for entry in done.stream())
    assert done.cli("reconcile").exit_code == 0


def test_terminated_sessions_lose_nothing(running: System) -> None:
    kill = text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND application_name = 'card_worker'"
    )
    watcher = open_engine(running.database_url)
    with watcher.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for start in range(0, len(BUSY), 20):
            running.create(*BUSY[start : start + 20])
            until(lambda: connection.execute(kill).scalar_one(), "a session to end")
            running.publishes(start + 1)
    watcher.dispose()
    assert_done_once(running, BUSY)
    assert all(part.runs for part in running.parts.all)


def test_a_crash_of_the_database_loses_nothing(
    tmp_path: Path, own_postgres: servers.Postgres, own_broker: Valkey
) -> None:
    with system(tmp_path, database_url=own_postgres.url, broker_url=own_broker.url) as running:
        worker = running.start("worker", GROUP_MAX=GROUP_MAX)
        relay = running.start("relay")
        running.create(*BUSY)
        running.answers(BUSY[0])
        own_postgres.crash()
        running.create("meanwhile")  # the others may all be done
        worker.says("database unavailable, retrying")
        relay.says("database or sink unavailable, retrying")
        own_postgres.start()
        assert_done_once(running, [*BUSY, "meanwhile"])
        assert (worker.stop(), relay.stop()) == (0, 0)


def test_a_message_returns_when_the_worker_stops_without_a_database(
    tmp_path: Path, own_postgres: servers.Postgres, own_broker: Valkey
) -> None:
    with system(tmp_path, database_url=own_postgres.url, broker_url=own_broker.url) as running:
        worker = running.start("worker")
        worker.says("ready.")
        own_postgres.stop()
        running.create("waits", "waits too")
        running.push(envelope("cards.explode", "unreadable"))
        worker.says("database unavailable, retrying")
        assert worker.stop() == 0
        assert (running.redis.llen("cards"), running.held()) == (3, 0)
        # One that is started while the database is away waits for it.
        second = running.start("worker")
        relay = running.start("relay")
        second.says("database unavailable, retrying")
        own_postgres.start()
        assert running.types("waits", "waits too") == ["card.created", "card.created"]
        assert running.letter("unreadable").reason == "task_unknown"
        assert (second.stop(), relay.stop()) == (0, 0)


def test_a_command_waits_for_a_lock_however_long_it_is_held(running: System) -> None:
    running.create("locked")
    running.answers("locked")
    held = text("SELECT * FROM cards WHERE card_id = 'locked' FOR UPDATE")
    with running.engine.begin() as connection:
        connection.execute(held)
        running.send("cards.activate", "waits", card_id="locked", amount=1, currency="NOK")
        running.parts.all[0].says("rows locked by another session")
        assert running.rows()["outbox"] == 1
    assert running.types("waits") == ["card_already_active"]
    assert running.letters() == []


def test_messages_in_a_killed_redis_are_answered(running: System, own_broker: Valkey) -> None:
    worker, relay = running.parts.all
    running.create(*BUSY)
    running.answers(BUSY[0])
    own_broker.kill()
    worker.says("broker unavailable, retrying")
    own_broker.start()
    # What the worker had taken before lies aside until it counts as lost.
    running.catches_up()
    running.give_back()
    until(lambda: running.waiting() == 0, "the end of the queue")
    assert_done_once(running, BUSY)
    assert (worker.runs, relay.runs) == (True, True)


def test_a_defect_is_started_five_times_and_then_kept_with_its_traceback(
    running: System,
) -> None:
    defects.plant(running.engine)
    running.create("before", "defect", "after")
    letter = running.letter("defect")
    assert letter.reason == "defect"
    assert letter.detail is not None
    assert "Traceback" in letter.detail
    assert "planted" in letter.detail
    assert defects.starts(running.engine) == 5
    assert running.types("before", "after") == ["card.created", "card.created"]
    assert running.parts.all[0].runs
    with running.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM starts")).scalar_one() == 0


def test_starts_that_killed_the_worker_count(own: System) -> None:
    defects.plant(own.engine)
    own.start("relay")
    own.create("defect-hangs")
    for killed in (1, 2):
        worker = own.start("worker")
        defects.await_starts(own.engine, killed)
        worker.kill9()
        own.sql(END_HUNG)
        assert own.give_back() == 1
    # From now on it fails instead of hanging: three starts are left.
    defects.hang_no_longer(own.engine)
    own.start("worker")
    assert own.letter("defect-hangs").reason == "defect"
    assert defects.starts(own.engine) == 5


def test_a_message_is_not_started_after_its_last_start(running: System) -> None:
    defects.plant(running.engine)
    asked = {"account_id": "T00000001", "card_id": "defect", "amount": 1, "currency": "NOK"}
    message = envelope("cards.create", "spent", asked)
    note_starts(running, message, 4)
    running.push(message, returns=2)
    assert running.letter("spent").reason == "starts_exhausted"
    assert defects.starts(running.engine) == 0


def test_a_message_delivered_again_and_done_is_not_counted_any_more(running: System) -> None:
    asked = {"account_id": "T00000001", "card_id": "fine", "amount": 1, "currency": "NOK"}
    for returns in range(1, 8):
        running.push(envelope("cards.create", "fine", asked), returns=returns)
    running.catches_up()
    assert running.types("fine") == ["card.created"]
    assert running.letters() == []


def test_a_worker_that_is_stopped_under_load_loses_nothing(own: System) -> None:
    own.start("relay")
    own.create(*BUSY)
    for answered in (1, 70):
        worker = own.start("worker", GROUP_MAX=GROUP_MAX)
        own.publishes(answered)
        assert worker.stop() == 0
        assert own.held() == 0
        assert own.rows()["outbox"] + int(str(own.redis.llen("cards"))) == len(BUSY)
    own.start("worker")
    assert_done_once(own, BUSY)


def test_a_paused_worker_that_counts_as_dead_does_no_harm(running: System) -> None:
    running.create("before")
    running.answers("before")
    (paused,) = [part for part in running.parts.all if part.log.name.endswith("worker.log")]
    with running.engine.begin() as connection:
        connection.execute(text("SELECT FROM cards WHERE card_id = 'before' FOR UPDATE"))
        running.push(envelope("cards.activate", "asked", card("before")))
        until(lambda: _waits_for_a_lock(running), "the worker at the locked card")
        # In the midst of its commit, which has claimed the key already.
        paused.pause()
    assert running.give_back() == 1
    other = running.start("worker", "--hostname=other@%h")
    assert running.types("asked") == ["card_already_active"]
    paused.resume()
    running.create("after-1", "after-2")
    running.answers("after-1", "after-2")
    until(lambda: running.waiting() == 0, "the end")
    # It may have published the stored answer again.
    assert (
        len({e["event"] for e in running.stream() if '"correlationid":"asked"' in e["event"]}) == 1
    )
    assert paused.runs
    assert other.runs


def test_an_unavailable_result_backend_costs_no_answer(own: System, tmp_path: Path) -> None:
    with valkey(tmp_path / "results") as results:
        url = results.url
    worker = own.start("worker", RESULT_BACKEND_URL=url)
    own.start("relay")
    own.create("first", "second")
    own.answers("first", "second")
    worker.says("results not stored")
    until(lambda: own.waiting() == 0, "the acknowledgement")
    own.create("third")
    own.answers("third")
    assert own.letters() == []
    assert worker.runs


def _waits_for_a_lock(running: System) -> bool:
    asked = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'card_worker' AND wait_event_type = 'Lock'"
    )
    with reading(running.engine) as connection:
        return bool(connection.execute(asked).scalar_one())


def test_a_letter_that_the_table_refuses_is_stored_in_part(running: System) -> None:
    running.sql("ALTER TABLE dead_letters ADD CONSTRAINT planted CHECK (message_id IS NULL)")
    running.push(envelope("cards.explode", "refused by the table"))
    running.push(b"nonsense")
    running.create("after")
    running.answers("after")
    until(lambda: len(running.letters()) == 2, "the letters")
    kept = {str(letter.reason): letter for letter in running.letters()}
    bare = kept.pop("stored_in_part")
    assert (bare.body, bare.queue, bare.headers) == (b"[[], {}, {}]", "cards", None)
    (other,) = kept.values()
    assert other.body == b"nonsense"
