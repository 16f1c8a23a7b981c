"""What is old is deleted, and nothing that a later command or reconcile needs."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, delete, func, select, text, update

from card_worker.contracts.dead_letters import DeadLetterReason
from card_worker.domain.rows import Outcome
from card_worker.handler import handle
from card_worker.relay import Relay
from card_worker.storage import dead_letters, outbox, republishing
from card_worker.storage.engine import begin, open_engine, reading
from card_worker.storage.reconcile import differences
from card_worker.storage.retention import Kind, prune
from card_worker.storage.roles import Role
from card_worker.storage.tables import (
    batches,
    jobs,
    pin_attempts,
    repeats,
    retention,
    transactions,
)
from card_worker.storage.tables import dead_letters as letters
from card_worker.storage.tables import outbox as events
from card_worker.sweeps import SLICE_ROWS, SLICES_MAX, Place, delete_old
from tests import servers
from tests.storage.populated import populate
from tests.storage.test_handler import NOW, create, handle_commands, spend
from tests.storage.test_repeats import Sink, published, waiting_repeats

LATER = NOW + timedelta(days=3650)


def allow(engine: Engine) -> None:
    """Lift the minimum of age; these tests also have events of times to come."""
    with engine.begin() as connection:
        connection.execute(update(retention).values(minimum_s=-(10**9)))


def prune_all(engine: Engine, *kinds: Kind, before: datetime = LATER, rows_max: int = 7) -> int:
    """Delete until nothing is left to delete; return the number of rows."""
    count = 0
    for kind in kinds or Kind:
        while True:
            with begin(engine) as (connection, _):
                rows = prune(connection, kind, before, rows_max)
            assert rows <= rows_max
            count += rows
            if rows == 0:
                break
    return count


def count(engine: Engine, table: Any, *conditions: Any) -> int:
    with reading(engine) as connection:
        statement = select(func.count()).select_from(table).where(*conditions)
        return int(connection.execute(statement).scalar_one())


def publish_all(engine: Engine) -> None:
    with begin(engine) as (connection, _):
        outbox.mark_published(connection, outbox.first_unpublished(connection, 10_000))
        connection.execute(delete(repeats))


IS_PRUNED = events.c.event.not_like('{"specversion"%')


def test_a_pruned_database_still_agrees_with_itself(engine: Engine) -> None:
    populate(engine)
    allow(engine)
    # Half of the events wait to be published: these are kept.
    waiting = count(engine, events) - prune_all(engine, Kind.EVENTS)
    assert 0 < waiting < count(engine, events)
    with reading(engine) as connection:
        assert list(differences(connection)) == []
    publish_all(engine)
    assert prune_all(engine) > waiting
    assert count(engine, events, ~IS_PRUNED) == 0
    assert count(engine, jobs, jobs.c.ended_at.is_not(None)) == 0
    assert count(engine, batches, batches.c.pruned_jobs > 0) > 3
    assert count(engine, pin_attempts, pin_attempts.c.outcome == Outcome.CLEARED) == 0
    assert count(engine, pin_attempts, pin_attempts.c.outcome == Outcome.WRONG) == 5
    with reading(engine) as connection:
        assert list(differences(connection)) == []


def test_jobs_may_be_kept_for_less_time_than_events(engine: Engine) -> None:
    populate(engine)
    allow(engine)
    assert prune_all(engine, Kind.JOBS) > 5
    with reading(engine) as connection:
        assert list(differences(connection)) == []


def test_a_pruned_event_beyond_the_position_is_a_difference(engine: Engine) -> None:
    handle_commands(engine, create("A1"))
    with engine.begin() as connection:
        connection.execute(update(events).values(event='{"command":"cards.create"}'))
    with reading(engine) as connection:
        assert "events_are_json" in {each.check for each in differences(connection)}


def test_a_command_is_never_done_twice(engine: Engine) -> None:
    commands = [create("A1"), spend("A1", "r1"), spend("A1", "r2", dry_run=True), spend("A2", "r3")]
    first = handle_commands(engine, *commands)
    published(engine, 4)
    allow(engine)
    assert prune_all(engine) == 4
    for _ in range(2):
        other = spend("A1", "r1").model_copy(update={"command_id": "another"})
        again = handle_commands(engine, *commands, other)
        told = published(engine, 5)
        assert {answer.event for answer in again} == {
            json.dumps(e, separators=(",", ":")) for e in told
        }
    for event, before in zip(
        map(json.loads, (answer.event for answer in again)), [*first, first[1]], strict=True
    ):
        assert event["type"] == "command.repeated"
        assert event["answer"] is True
        assert event["data"]["event_id"] == str(before.id)
        assert event["subject"] == before.subject
        assert "event" not in event["data"]
        assert "sequence" not in event
    assert again[2].event.count('"dry_run":true') == 1
    assert len({answer.id for answer in [*again, *first]}) == 9
    assert count(engine, transactions) == 2
    assert count(engine, events) == 4
    # The key belongs to the first content still.
    (conflict,) = handle_commands(engine, spend("A1", "r1", amount=7))
    assert conflict.reason == "idempotency_conflict"
    (conflict,) = handle_commands(engine, create("A1", amount=7))
    assert conflict.reason == "idempotency_conflict"
    published(engine, 2)
    assert prune_all(engine) == 2
    (repeated,) = handle_commands(engine, spend("A1", "r1", amount=7))
    assert repeated.type == "command.repeated"
    with reading(engine) as connection:
        assert list(differences(connection)) == []


def test_an_answer_that_waits_to_be_repeated_keeps_its_content(engine: Engine) -> None:
    (first,) = handle_commands(engine, create("A1"))
    published(engine, 1)
    handle_commands(engine, create("A1"))
    allow(engine)
    assert prune_all(engine) == 0
    sink = Sink(1)
    Relay(engine, [sink]).run(sink.is_full)
    assert [event.event for event in sink.published] == [first.event]
    assert waiting_repeats(engine) == []
    assert prune_all(engine) == 1


def test_only_what_is_older_goes(engine: Engine) -> None:
    for number in range(10):
        with begin(engine) as (connection, _):
            handle(connection, [create(f"A{number}")], NOW + timedelta(seconds=number))
    publish_all(engine)
    allow(engine)
    assert prune_all(engine, before=NOW + timedelta(seconds=4)) == 4
    with reading(engine) as connection:
        kept = connection.scalars(select(events.c.subject).where(~IS_PRUNED)).all()
        assert sorted(kept) == [f"A{number}" for number in range(4, 10)]
    with engine.begin() as connection:
        assert republishing.request(connection, republishing.Selection()) == 6


def test_open_dead_letters_stay(engine: Engine) -> None:
    with engine.begin() as connection:
        for number in range(4):
            letter = dead_letters.DeadLetter(
                received_at=NOW,
                queue="cards",
                reason=DeadLetterReason.NOT_A_TASK,
                body=bytes([number]),
            )
            dead_letters.add(connection, letter)
        for id in (1, 2):
            assert dead_letters.resolve(connection, id, NOW, "dropped")
    allow(engine)
    assert prune_all(engine, Kind.DEAD_LETTERS) == 2
    assert count(engine, letters) == 2


def test_a_sweep_deletes_in_slices(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with begin(engine) as (connection, now):
        asked = [create(f"A{number}") for number in range(25)]
        handle(connection, asked, now - timedelta(hours=1))
    publish_all(engine)
    allow(engine)
    monkeypatch.setattr("card_worker.sweeps.SLICE_ROWS", 10)
    kept_s = {"events": 1, "jobs": 1}
    swept, place = [], Place()
    while True:
        changed, following = delete_old(engine, kept_s, place)
        swept.append(changed)
        if following is None:
            break
        place = following
    assert swept == [10, 10, 5]
    assert delete_old(engine, {}) == (0, None)
    assert SLICE_ROWS * SLICES_MAX >= 20_000


def test_workers_delete_nothing_that_is_younger_than_the_minimum(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    handle_commands(engine, create("A1"))
    publish_all(engine)
    urls = servers.role_urls(postgres_url)
    worker = open_engine(urls[Role.WORKER])
    with engine.begin() as connection:
        minimum = text("UPDATE retention SET minimum_s = extract(epoch FROM now() - :at) + 60")
        connection.execute(minimum, {"at": NOW})
    assert prune_all(worker) == 0
    with engine.begin() as connection:
        connection.execute(text("UPDATE retention SET minimum_s = minimum_s - 120"))
    assert prune_all(worker) == 1
    worker.dispose()
    for role in (Role.RELAY, Role.OPERATOR, Role.READER):
        other = open_engine(urls[role])
        with pytest.raises(Exception, match="permission denied for function prune"):
            prune_all(other)
        other.dispose()
    with pytest.raises(Exception, match="query returned no rows"), engine.begin() as connection:
        connection.execute(text("SELECT prune('cards', now(), 1)"))
    engine.dispose()


COMMANDS = 1_000
BYTES_MAX = {"outbox": 350, "idempotency_keys": 300, "cards": 400, "transactions": 420}
"""What a command that makes a card leaves for ever in each table, with the indexes of this."""


def test_what_stays_of_a_command_is_small(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    handle_commands(engine, *(create(f"card-{number:08}") for number in range(COMMANDS)))
    publish_all(engine)
    allow(engine)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        sizes = []
        for _ in range(2):
            for table in BYTES_MAX:
                connection.execute(text(f"VACUUM FULL {table}"))
            size = "SELECT pg_total_relation_size(CAST(:table AS regclass))"
            sizes.append(
                {
                    table: connection.scalar(text(size), {"table": table}) / COMMANDS
                    for table in BYTES_MAX
                }
            )
            prune_all(engine, rows_max=COMMANDS)
    before, after = sizes
    assert {table: size for table, size in after.items() if size > BYTES_MAX[table]} == {}
    assert before["outbox"] > 3 * after["outbox"]
    engine.dispose()
