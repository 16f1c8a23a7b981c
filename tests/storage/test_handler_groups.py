"""Handling groups of commands: idempotency, dry runs, and the same result in any groups."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, select

from card_worker.contracts.commands import Command
from card_worker.contracts.message import UnreadableItem, read_commands
from card_worker.domain.answers import Answer
from card_worker.handler import handle
from card_worker.storage.engine import begin
from card_worker.storage.reconcile import differences
from card_worker.storage.tables import batches, cards, idempotency_keys, outbox, transactions
from tests.storage.statements import counting, slices_of

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
ACCOUNT = "T00000001"


def command(task: str, command_id: str, **fields: Any) -> Command:
    (read,) = read_commands(task, command_id, {"account_id": ACCOUNT, **fields})
    assert not isinstance(read, UnreadableItem)
    return read


def batch(*card_ids: str, command_id: str = "batch") -> Command:
    return command("cards.batch_create", command_id, cards=[{"card_id": id} for id in card_ids])


def activate(card_id: str, *, command_id: str | None = None, **fields: Any) -> Command:
    asked = {"amount": 50_000, "currency": "NOK", **fields}
    return command("cards.activate", command_id or f"activate-{card_id}", card_id=card_id, **asked)


def answers(engine: Engine, *commands: Command) -> list[Answer]:
    with begin(engine) as (connection, _):
        return handle(connection, commands, NOW)


def types(given: Sequence[Answer]) -> list[str]:
    return [answer.type.value for answer in given]


def rows(connection: Connection, account: str) -> dict[str, list[tuple[Any, ...]]]:
    """All that an account has, but for the outbox's positions, which other accounts draw too."""
    tables = {
        "cards": (cards, cards.c.card_id),
        "transactions": (transactions, transactions.c.id),
        "batches": (batches, batches.c.batch_id),
        "idempotency_keys": (idempotency_keys, idempotency_keys.c.key),
        "outbox": (outbox, outbox.c.position),
    }
    return {
        name: [
            tuple(row)
            for row in connection.execute(
                select(*(c for c in table.c if c.name != "position"))
                .where(table.c.account_id == account)
                .order_by(order)
            )
        ]
        for name, (table, order) in tables.items()
    }


def test_a_batch_is_made_and_a_card_activated_in_one_group(engine: Engine) -> None:
    made = answers(engine, batch("A1", "A2"), activate("A1"))
    assert types(made) == ["batch.completed", "card.activated"]


def test_a_key_has_one_effect_and_one_answer(engine: Engine) -> None:
    first = answers(engine, batch("A1"), activate("A1"))
    with begin(engine) as (connection, _):
        before = rows(connection, ACCOUNT)
    again = answers(engine, batch("A1"), activate("A1"))
    assert [answer.event for answer in again] == [answer.event for answer in first]
    with begin(engine) as (connection, _):
        assert rows(connection, ACCOUNT) == before


def test_a_command_twice_in_a_group_has_one_effect(engine: Engine) -> None:
    made = answers(engine, batch("A1"), activate("A1"), activate("A1"))
    assert made[1] == made[2]
    with begin(engine) as (connection, _):
        assert len(rows(connection, ACCOUNT)["transactions"]) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"amount": 50_001},
        {"currency": "SEK"},
        {"card_id": "A2"},
        {"name": "For Kari"},
        {"metadata": {"till": 7}},
        {"created_by": "kari"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_key_with_other_content_is_refused(engine: Engine, changed: dict[str, Any]) -> None:
    (_, first) = answers(engine, batch("A1", "A2"), activate("A1"))
    with begin(engine) as (connection, _):
        before = rows(connection, ACCOUNT)
    other = activate(**{"card_id": "A1", "command_id": "activate-A1", **changed})
    (refused,) = answers(engine, other)
    assert refused.type == "command.rejected"
    assert '"idempotency_conflict"' in refused.event
    assert refused.id != first.id
    assert answers(engine, other)[0].event == refused.event
    with begin(engine) as (connection, _):
        after = rows(connection, ACCOUNT)
    assert after["cards"] == before["cards"]
    assert len(after["outbox"]) == len(before["outbox"]) + 1
    assert answers(engine, activate("A1"))[0].event == first.event


def test_a_refusal_is_repeated_after_its_cause_has_ended(engine: Engine) -> None:
    (refused,) = answers(engine, activate("A1"))
    assert '"card_not_found"' in refused.event
    answers(engine, batch("A1"))
    assert answers(engine, activate("A1"))[0].event == refused.event


def test_a_refusal_does_not_affect_other_commands(engine: Engine) -> None:
    made = answers(
        engine, batch("A1", "A2"), activate("A1"), activate("A9"), activate("A2", amount=-1)
    )
    assert types(made)[1:] == ["card.activated", "command.rejected", "command.rejected"]


def test_a_dry_run_stores_only_its_answer(engine: Engine) -> None:
    answers(engine, batch("A1"))
    (would,) = answers(engine, activate("A1", dry_run=True))
    assert would.type == "card.activated"
    assert '"dry_run":true' in would.event
    assert '"sequence"' not in would.event
    with begin(engine) as (connection, _):
        assert rows(connection, ACCOUNT)["transactions"] == []
    assert types(answers(engine, activate("A1"))) == ["card.activated"]


def test_the_number_of_statements_does_not_grow_with_the_group(engine: Engine) -> None:
    names = [f"A{number}" for number in range(501)]
    answers(engine, batch(*names))
    with begin(engine) as (connection, _), counting(engine) as one:
        handle(connection, [activate(names[0])], NOW)
    with begin(engine) as (connection, _), counting(engine) as many:
        handle(connection, [activate(name) for name in names[1:]], NOW)
    assert len(many) == len(one) - 1 + slices_of(engine, len(names) - 1)
    assert 0 < len(one) <= 7


def test_events_of_a_card_are_written_in_the_order_of_its_versions(engine: Engine) -> None:
    answers(engine, batch("A1", "A2"))
    answers(engine, activate("A2", expires_at="2026-11-22T10:00:01Z"), activate("A1"))
    later = datetime(2026, 11, 22, 11, tzinfo=UTC)
    with begin(engine) as (connection, _):
        handle(connection, [command("cards.expire", "expire-A2", card_id="A2")], later)
    with begin(engine) as (connection, _):
        about = select(outbox.c.event).where(outbox.c.subject == "A2").order_by(outbox.c.position)
        events = list(connection.execute(about).scalars())
    assert ['"version":2' in events[0], '"version":3' in events[1]] == [True, True]


CARD_IDS = st.sampled_from(["A1", "A2", "A3", "A4"])
COMMANDS = st.one_of(
    st.tuples(st.just("cards.batch_create"), st.lists(CARD_IDS, min_size=1, max_size=3)),
    st.tuples(st.just("cards.create"), CARD_IDS, st.integers(0, 500)),
    st.tuples(st.just("cards.activate"), CARD_IDS, st.integers(-1, 500)),
    st.tuples(st.just("cards.expire"), CARD_IDS),
)


def _drawn(account: str, number: int, drawn: tuple[Any, ...]) -> Command:
    task, named, *amount = drawn
    fields: dict[str, Any] = {"account_id": account}
    if task == "cards.batch_create":
        fields["cards"] = [{"card_id": card_id} for card_id in named]
    else:
        fields["card_id"] = named
    if amount:
        fields |= {"amount": amount[0], "currency": "NOK"}
        if amount[0] % 3 == 0:
            fields["expires_at"] = "2026-11-22T10:00:00.001Z"
    # Few ids, so that some are used twice, for the same command or for another.
    (read,) = read_commands(task, f"c{number % 7}", fields)
    assert not isinstance(read, UnreadableItem)
    return read


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(COMMANDS, max_size=14), st.sets(st.integers(0, 14)))
def test_commands_have_the_same_result_in_any_groups(
    engine: Engine, drawn: list[tuple[Any, ...]], cuts: set[int]
) -> None:
    bounds = sorted({0, len(drawn), *(cut for cut in cuts if cut < len(drawn))})
    ways = {
        "at once": [(0, len(drawn))],
        "one by one": [(place, place + 1) for place in range(len(drawn))],
        "in groups": list(pairwise(bounds)),
    }
    seen = []
    for groups in ways.values():
        # Each way on a database of its own would be slow; rolled back, it leaves none behind.
        with engine.connect() as connection, connection.begin() as commit:
            commands = [_drawn(ACCOUNT, number, one) for number, one in enumerate(drawn)]
            given_answers = [
                answer.event
                for start, end in groups
                for answer in handle(connection, commands[start:end], NOW)
            ]
            assert list(differences(connection)) == []
            seen.append((given_answers, rows(connection, ACCOUNT)))
            commit.rollback()
    assert seen[0] == seen[1]
    assert seen[0] == seen[2]
