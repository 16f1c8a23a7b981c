"""A command that is sent again gets its first answer again."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, func, select

from card_worker.contracts.commands import Command
from card_worker.contracts.internal import SweptCard
from card_worker.domain.answers import repeated
from card_worker.handler import handle
from card_worker.relay import Relay
from card_worker.sinks import Event
from card_worker.storage import outbox
from card_worker.storage.engine import begin, open_engine, reading
from card_worker.storage.repeats import delete_repeats, first_repeats
from card_worker.storage.tables import repeats
from tests.storage.statements import counting
from tests.storage.test_handler import ACCOUNT, NOW, activate, batch, create, handle_commands, spend


class Sink:
    """A sink that keeps what is published."""

    def __init__(self, stop_after: int) -> None:
        self.published: list[Event] = []
        self._stop_after = stop_after

    def check(self) -> None: ...

    def publish(self, events: Sequence[Event]) -> None:
        self.published += events

    def close(self) -> None: ...

    def is_full(self) -> bool:
        return len(self.published) >= self._stop_after


def published(engine: Engine, events: int) -> list[dict[str, Any]]:
    """Run a relay until it has published so many events; return them."""
    sink = Sink(events)
    Relay(engine, [sink]).run(sink.is_full)
    return [json.loads(event.event) for event in sink.published]


def waiting_repeats(engine: Engine) -> list[str]:
    """Return the command_ids of the repeats that wait."""
    with reading(engine) as connection:
        return list(
            connection.execute(select(repeats.c.command_id).order_by("command_id")).scalars()
        )


def test_the_same_command_gets_its_answer_again_to_the_byte(engine: Engine) -> None:
    (first,) = handle_commands(engine, create("A1"))
    assert waiting_repeats(engine) == []
    sink = Sink(1)
    Relay(engine, [sink]).run(sink.is_full)
    (again,) = handle_commands(engine, create("A1"))
    assert again == first
    assert waiting_repeats(engine) == ["create-A1"]
    sink = Sink(1)
    Relay(engine, [sink]).run(sink.is_full)
    (event,) = sink.published
    assert (event.id, event.type, event.subject) == (first.id, first.type, first.subject)
    assert event.event == first.event
    assert waiting_repeats(engine) == []


def test_a_refusal_is_repeated_too(engine: Engine) -> None:
    handle_commands(engine, activate("A1"))
    handle_commands(engine, activate("A1"))
    first, again = published(engine, 2)
    assert first == again
    assert first["data"]["reason"] == "card_not_found"


def test_a_repeat_is_published_after_the_first_publication(engine: Engine) -> None:
    handle_commands(engine, create("A1"))
    handle_commands(engine, create("A1"))
    with reading(engine) as connection:
        assert first_repeats(connection, 9) == []
    assert [event["correlationid"] for event in published(engine, 2)] == ["create-A1"] * 2


def test_the_same_reference_under_another_command_id_is_answered(engine: Engine) -> None:
    handle_commands(engine, create("A1"), spend("A1", "r1"))
    retry = spend("A1", "r1").model_copy(update={"command_id": "another"})
    handle_commands(engine, retry)
    (first, event) = published(engine, 3)[1:]
    assert event["type"] == "command.repeated"
    assert event["correlationid"] == "another"
    assert event["answer"] is True
    assert event["time"] == first["time"]
    assert event["subject"] == first["subject"] == "A1"
    assert "sequence" not in event
    assert event["data"] == {
        "command": "transactions.create",
        "command_id": "another",
        "account_id": ACCOUNT,
        "event": first,
    }


def test_a_repeated_dry_run_is_still_a_dry_run(engine: Engine) -> None:
    trial = spend("A1", "r1", dry_run=True)
    handle_commands(engine, create("A1"), trial)
    handle_commands(engine, trial.model_copy(update={"command_id": "another"}))
    event = published(engine, 3)[2]
    assert (event["type"], event["data"]["dry_run"]) == ("command.repeated", True)


def test_it_is_the_same_event_each_time(engine: Engine) -> None:
    (_, first) = handle_commands(engine, create("A1"), spend("A1", "r1"))
    events = [repeated(first, "another") for _ in range(2)]
    assert events[0] == events[1]
    assert events[0].id not in (first.id, repeated(first, "a third").id)


def test_what_is_committed_together_with_its_first_needs_no_repeat(engine: Engine) -> None:
    other = spend("A1", "r1").model_copy(update={"command_id": "another"})
    handle_commands(engine, create("A1"), create("A1"), spend("A1", "r1"), spend("A1", "r1"))
    assert waiting_repeats(engine) == []
    handle_commands(engine, create("A2"), spend("A1", "r2"), spend("A1", "r2"))
    assert waiting_repeats(engine) == []
    handle_commands(engine, spend("A2", "r1"), other)
    assert waiting_repeats(engine) == ["another"]


def test_another_command_id_in_the_same_group_is_answered(engine: Engine) -> None:
    other = spend("A1", "r1").model_copy(update={"command_id": "another"})
    handle_commands(engine, create("A1"), spend("A1", "r1"), other)
    assert waiting_repeats(engine) == ["another"]


def test_a_dry_run_is_repeated(engine: Engine) -> None:
    for _ in range(2):
        handle_commands(engine, create("A1", dry_run=True))
    assert waiting_repeats(engine) == ["create-A1"]


def test_a_sweep_that_finds_its_work_done_is_not_answered(engine: Engine) -> None:
    handle_commands(engine, create("A1", expires_at="2026-11-22T10:00:01Z"))
    swept = SweptCard(account_id=ACCOUNT, command_id="expire-1", card_id="A1")
    commands: list[Command] = [swept, swept]
    for _ in range(2):
        handle_commands(engine, *commands, now=NOW)
    assert waiting_repeats(engine) == []


def test_a_storm_of_repeats_adds_one_row_that_goes(engine: Engine) -> None:
    handle_commands(engine, create("A1"))
    for _ in range(20):
        handle_commands(engine, *[create("A1")] * 50)
    assert waiting_repeats(engine) == ["create-A1"]
    assert len(published(engine, 2)) == 2
    with reading(engine) as connection:
        assert connection.execute(select(func.count()).select_from(repeats)).scalar() == 0


def test_a_command_sent_while_its_answer_is_published_is_answered_once_more(
    engine: Engine,
) -> None:
    handle_commands(engine, create("A1"))
    published(engine, 1)
    handle_commands(engine, create("A1"))
    with reading(engine) as connection:
        found = first_repeats(connection, 9)
    handle_commands(engine, create("A1"))
    with begin(engine) as (connection, _):
        delete_repeats(connection, found)
    assert waiting_repeats(engine) == ["create-A1"]
    assert len(published(engine, 1)) == 1


def test_a_repeat_takes_no_more_statements_than_a_first_delivery(engine: Engine) -> None:
    names = [f"A{number}" for number in range(50)]
    handle_commands(engine, batch(*names))
    groups = {
        "activations": [activate(name) for name in names],
        "payments": [spend(name, "r1") for name in names],
        "both": [create("B1"), *(spend(name, "r2") for name in names)],
    }
    for group in groups.values():
        with counting(engine) as first:
            handle_commands(engine, *group)
        with reading(engine) as connection:
            events = outbox.first_unpublished(connection, 500)
        with begin(engine) as (connection, _):
            outbox.mark_published(connection, events)
        with counting(engine) as again:
            handle_commands(engine, *group)
        assert len(again) <= len(first), (first, again)


def test_the_relay_does_not_wait_for_a_command_that_is_being_sent_again(postgres_url: str) -> None:
    """Else the two deadlock: each locks repeats that the other needs."""
    engine = open_engine(postgres_url)
    handle_commands(engine, create("A1"))
    published(engine, 1)
    handle_commands(engine, create("A1"))
    with reading(engine) as connection:
        (repeat,) = first_repeats(connection, 10)
    with begin(engine) as (connection, _):
        handle(connection, [create("A1")], NOW)
        with begin(engine, lock_timeout_ms=100) as (other, _):
            delete_repeats(other, [repeat])
    assert waiting_repeats(engine) == ["create-A1"]
    with reading(engine) as connection:
        (again,) = first_repeats(connection, 10)
    assert again.mark != repeat.mark
    engine.dispose()


def test_commits_with_the_same_repeats_store_them_in_one_order(postgres_url: str) -> None:
    """Whatever the order of the commands is: else they deadlock."""
    engine = open_engine(postgres_url)
    commands = [create(f"A{number}", f"{number:03}") for number in range(200)]
    handle_commands(engine, *commands)
    with counting(engine) as statements:
        handle_commands(engine, *commands)
    assert "ORDER BY idempotency_keys.event_id" in "".join(statements)
    engine.dispose()
