"""The sweep of holds: each hold that is due is released once, with an event."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, func, select

from card_worker.contracts.commands import Command
from card_worker.contracts.enums import EventType
from card_worker.contracts.internal import SweptHold
from card_worker.contracts.message import UnreadableItem, read_commands
from card_worker.domain.rows import Hold
from card_worker.handler import handle
from card_worker.storage.due import After, due_holds
from card_worker.storage.engine import begin, open_engine, reading
from card_worker.storage.reconcile import differences
from card_worker.storage.tables import cards, holds, outbox
from card_worker.sweeps import SLICES_MAX
from tests.flow.processes import until
from tests.flow.sweeping import expire_holds
from tests.flow.system import ACCOUNT, System, envelope

THEN = datetime(2026, 1, 1, tzinfo=UTC)
AN_HOUR = 3600
LOAD = {"amount": 500, "currency": "NOK"}


def create_cards_with_holds(
    engine: Engine, *card_ids: str, hold_expires_in: int | None = AN_HOUR
) -> None:
    """Create cards of 5.00 at THEN, with a hold of 2.00 on each."""
    commands: list[Command] = []
    for card_id in card_ids:
        about: dict[str, Any] = {"account_id": ACCOUNT, "card_id": card_id}
        hold = {"ref_id": "r", "pending": True, "amount": 200, "currency": "NOK"}
        if hold_expires_in is not None:
            hold["hold_expires_in"] = hold_expires_in
        for task, fields in (("cards.create", LOAD), ("transactions.create", hold)):
            (command,) = read_commands(task, f"{task} {card_id}", {**about, **fields})
            assert not isinstance(command, UnreadableItem)
            commands.append(command)
    with begin(engine) as (connection, _):
        assert {answer.reason for answer in handle(connection, commands, THEN)} == {None}


def cards_with_holds(engine: Engine) -> Sequence[str]:
    """Return the ids of cards with a reserved amount."""
    with reading(engine) as connection:
        asked = select(cards.c.card_id).where(cards.c.amount_reserved > 0)
        return connection.execute(asked.order_by(cards.c.card_id)).scalars().all()


def count_expiry_events(engine: Engine) -> int:
    with reading(engine) as connection:
        asked = select(func.count()).where(outbox.c.type == EventType.HOLD_EXPIRED)
        return int(connection.execute(asked.select_from(outbox)).scalar_one())


def test_only_holds_that_are_due_are_released(engine: Engine) -> None:
    create_cards_with_holds(engine, "due", "due too")
    create_cards_with_holds(engine, "never", hold_expires_in=None)
    with begin(engine) as (connection, now):
        later = int((now - THEN).total_seconds()) + AN_HOUR
    create_cards_with_holds(engine, "later", hold_expires_in=later)
    assert expire_holds(engine) == count_expiry_events(engine) == 2
    assert cards_with_holds(engine) == ["later", "never"]
    assert expire_holds(engine) == 0
    with reading(engine) as connection:
        assert list(differences(connection)) == []


def test_a_sweep_of_holds_is_limited_and_the_next_continues(engine: Engine) -> None:
    create_cards_with_holds(engine, *(f"card-{number}" for number in range(SLICES_MAX + 2)))
    assert expire_holds(engine, slice_rows=1) == SLICES_MAX
    assert expire_holds(engine, slice_rows=1) == 2
    assert cards_with_holds(engine) == []


def holds_of(engine: Engine) -> list[UUID]:
    """Return the ids of all holds, the longest past first."""
    with reading(engine) as connection:
        found = connection.execute(select(holds.c.id).order_by(holds.c.expires_at, holds.c.id))
        return list(found.scalars())


def ask(engine: Engine, *commands: Command) -> None:
    """Let commands be refused as long ago as THEN."""
    with begin(engine) as (connection, _):
        assert None not in {answer.reason for answer in handle(connection, commands, THEN)}


def test_producers_cannot_use_the_idempotency_keys_of_sweeps(engine: Engine) -> None:
    create_cards_with_holds(engine, "one", "two")
    for hold in holds_of(engine):
        asked = {"account_id": ACCOUNT, "transaction_id": str(hold)}
        (taken,) = read_commands("holds.expire", f"expire-{hold}", asked)
        assert not isinstance(taken, UnreadableItem)
        ask(engine, taken)
    assert expire_holds(engine) == count_expiry_events(engine) == 2


@pytest.mark.parametrize("slice_rows", [1, 7, 1_000])
def test_rows_that_cannot_be_changed_are_skipped(engine: Engine, slice_rows: int) -> None:
    create_cards_with_holds(engine, *(f"stuck-{number}" for number in range(SLICES_MAX + 3)))
    stuck = holds_of(engine)
    for hold in stuck:
        about: dict[str, Any] = {"account_id": ACCOUNT, "transaction_id": hold}
        ask(engine, SweptHold(command_id=f"expire-{hold}", originated_by="sweep", **about))
    create_cards_with_holds(engine, "due", "due too", hold_expires_in=2 * AN_HOUR)
    assert expire_holds(engine, slice_rows=slice_rows) == count_expiry_events(engine) == 2
    assert len(cards_with_holds(engine)) == len(stuck)


def test_a_slice_begins_after_the_last_row_of_the_previous_one(engine: Engine) -> None:
    create_cards_with_holds(engine, "one", "two", "three")
    with begin(engine) as (connection, now):
        first = due_holds(connection, now, 2)
        last = due_holds(connection, now, 2, place_of(first[-1]))
        assert [hold.id for hold in (*first, *last)] == holds_of(engine)
        assert due_holds(connection, now, 2, place_of(last[-1])) == []


def place_of(hold: Hold) -> After:
    assert hold.expires_at is not None
    return hold.expires_at, hold.id


def test_all_holds_of_a_card_that_are_released_together_are_counted(engine: Engine) -> None:
    create_cards_with_holds(engine, "one")
    asked = {"account_id": ACCOUNT, "card_id": "one", "amount": 100, "currency": "NOK"}
    asked |= {"ref_id": "r2", "pending": True, "hold_expires_in": 2 * AN_HOUR}
    (command,) = read_commands("transactions.create", "again", asked)
    assert not isinstance(command, UnreadableItem)
    with begin(engine) as (connection, _):
        handle(connection, [command], THEN)
    assert expire_holds(engine) == count_expiry_events(engine) == 2


def test_a_hold_on_a_locked_card_is_left_for_the_next_sweep(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    create_cards_with_holds(engine, "free", "held")
    with begin(engine) as (connection, _):
        connection.execute(select(cards).where(cards.c.card_id == "held").with_for_update())
        assert expire_holds(engine) == 1
        assert cards_with_holds(engine) == ["held"]
    assert expire_holds(engine) == 1
    engine.dispose()


def test_a_locked_hold_is_skipped(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    create_cards_with_holds(engine, "free", "held")
    with begin(engine) as (connection, _):
        held = select(cards.c.id).where(cards.c.card_id == "held").scalar_subquery()
        connection.execute(select(holds).where(holds.c.card == held).with_for_update())
        assert expire_holds(engine) == 1
        assert cards_with_holds(engine) == ["held"]
    assert expire_holds(engine) == 1
    engine.dispose()


@pytest.mark.parametrize("done", ["transactions.capture", "transactions.void"])
def test_captured_and_voided_holds_are_not_due(engine: Engine, done: str) -> None:
    create_cards_with_holds(engine, "done")
    with reading(engine) as connection:
        hold = connection.execute(select(holds.c.id)).scalar_one()
    asked = {"account_id": ACCOUNT, "transaction_id": str(hold), "ref_id": "done"}
    (command,) = read_commands(done, "done", asked)
    assert not isinstance(command, UnreadableItem)
    with begin(engine) as (connection, _):
        (answer,) = handle(connection, [command], THEN)
    assert answer.reason is None
    assert (expire_holds(engine), count_expiry_events(engine)) == (0, 0)


def test_a_worker_releases_holds_when_beat_requests_a_sweep(own: System) -> None:
    own.start("worker")
    own.start("relay")
    create_cards_with_holds(own.engine, "due")
    own.push(envelope("sweeps.expire_holds", "sweep", queue="cards.system"), "cards.system")
    until(lambda: own.events_of("hold.expired"), "the word of it")
    assert cards_with_holds(own.engine) == []
