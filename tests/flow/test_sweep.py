"""The sweep of cards: each card that is due is expired once, in slices of limited size."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, update
from sqlalchemy.exc import OperationalError

from card_worker.contracts.commands import Command
from card_worker.contracts.enums import EventType
from card_worker.contracts.internal import SweptCard
from card_worker.contracts.message import UnreadableItem, read_commands
from card_worker.domain.ids import card_uuid
from card_worker.domain.rows import State
from card_worker.handler import handle
from card_worker.storage.engine import begin, open_engine, try_lock
from card_worker.storage.reconcile import differences
from card_worker.storage.tables import cards, outbox
from card_worker.sweeps import SLICE_ROWS, SLICES_MAX
from tests.flow.processes import until
from tests.flow.sweeping import expire_cards
from tests.flow.system import ACCOUNT, System, envelope

THEN = datetime(2026, 1, 1, tzinfo=UTC)
PAST = THEN + timedelta(days=1)
FAR = datetime(2999, 1, 1, tzinfo=UTC)


def create_cards(engine: Engine, *card_ids: str, expires_at: datetime | None = PAST) -> None:
    """Make cards as long ago as THEN."""
    commands: list[Command] = []
    for card_id in card_ids:
        asked = {"account_id": ACCOUNT, "card_id": card_id, "amount": 100, "currency": "NOK"}
        if expires_at is not None:
            asked["expires_at"] = expires_at.isoformat()
        (command,) = read_commands("cards.create", card_id, asked)
        assert not isinstance(command, UnreadableItem)
        commands.append(command)
    with begin(engine) as (connection, _):
        handle(connection, commands, THEN)


def names(number: int) -> list[str]:
    return [f"card-{number}" for number in range(number)]


def expired(engine: Engine) -> Sequence[str]:
    with engine.connect() as connection:
        asked = select(cards.c.card_id).where(cards.c.state == State.EXPIRED)
        return connection.execute(asked.order_by(cards.c.card_id)).scalars().all()


def count_expiry_events(engine: Engine) -> int:
    with engine.connect() as connection:
        asked = select(func.count()).where(outbox.c.type == EventType.CARD_EXPIRED)
        return int(connection.execute(asked.select_from(outbox)).scalar_one())


def test_only_cards_that_are_due_are_expired(engine: Engine) -> None:
    create_cards(engine, "due", "due too")
    create_cards(engine, "later", expires_at=FAR)
    create_cards(engine, "never", expires_at=None)
    assert expire_cards(engine) == 2
    assert expired(engine) == ["due", "due too"]
    with engine.connect() as connection:
        assert list(differences(connection)) == []


def test_a_second_sweep_changes_nothing(engine: Engine) -> None:
    create_cards(engine, *names(5))
    assert [expire_cards(engine), expire_cards(engine)] == [5, 0]
    assert count_expiry_events(engine) == 5


@pytest.mark.parametrize("sweeps", [2, 4])
def test_concurrent_sweeps_expire_each_card_once(
    sweeps: int, engine: Engine, database_url: str
) -> None:
    create_cards(engine, *names(100))
    start = Barrier(sweeps)

    def sweep(_: int) -> int:
        own = open_engine(database_url)
        try:
            start.wait()
            return expire_cards(own, slice_rows=10)
        finally:
            own.dispose()

    with ThreadPoolExecutor(sweeps) as threads:
        swept = list(threads.map(sweep, range(sweeps)))
    assert sum(swept) + expire_cards(engine) == 100
    assert count_expiry_events(engine) == len(expired(engine)) == 100


def test_a_sweep_is_limited_and_the_next_continues(engine: Engine) -> None:
    create_cards(engine, *names(SLICES_MAX + 5))
    assert expire_cards(engine, slice_rows=1) == SLICES_MAX
    assert expire_cards(engine, slice_rows=1) == 5


def test_slices_end_neatly_when_the_last_one_is_full(engine: Engine) -> None:
    create_cards(engine, *names(20))
    assert expire_cards(engine, slice_rows=10) == 20


def test_the_card_that_expired_first_is_swept_first(engine: Engine) -> None:
    create_cards(engine, "newer", expires_at=PAST + timedelta(days=1))
    create_cards(engine, "older", expires_at=PAST)
    expire_cards(engine)
    with engine.connect() as connection:
        order = select(outbox.c.subject).where(outbox.c.type == EventType.CARD_EXPIRED)
        subjects = connection.execute(order.order_by(outbox.c.position)).scalars().all()
    assert subjects == ["older", "newer"]


def test_a_locked_card_is_left_for_the_next_sweep(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    create_cards(engine, "free", "held")
    with begin(engine) as (connection, _):
        connection.execute(select(cards).where(cards.c.card_id == "held").with_for_update())
        assert expire_cards(engine) == 1
        assert expired(engine) == ["free"]
    assert expire_cards(engine) == 1
    engine.dispose()


def test_a_sweep_fails_while_the_sqlite_file_is_locked(sqlite_url: str) -> None:
    engine = open_engine(sqlite_url)
    create_cards(engine, "due")
    with begin(engine), pytest.raises(OperationalError, match="locked"):
        expire_cards(engine)
    assert expire_cards(engine) == 1
    engine.dispose()


def handle_commands(engine: Engine, *commands: Command) -> list[str]:
    """Handle commands as long ago as THEN; return the types of their answers."""
    with begin(engine) as (connection, _):
        return [answer.type.value for answer in handle(connection, commands, THEN)]


def swept(card_id: str, command_id: str) -> SweptCard:
    return SweptCard(account_id=ACCOUNT, card_id=card_id, command_id=command_id)


def test_producers_cannot_use_the_idempotency_keys_of_sweeps(engine: Engine) -> None:
    create_cards(engine, *names(3))
    for card_id in names(3):
        command_id = f"expire-{card_uuid(ACCOUNT, card_id)}-1"
        asked = {"account_id": ACCOUNT, "card_id": card_id}
        (taken,) = read_commands("cards.expire", command_id, asked)
        assert not isinstance(taken, UnreadableItem)
        assert handle_commands(engine, taken) == ["command.rejected"]
    assert expire_cards(engine) == count_expiry_events(engine) == 3


# A sweep of the past that was refused, and one whose key another card has.
@pytest.mark.parametrize("stuck_by", ["itself", "another"])
@pytest.mark.parametrize("slice_rows", [1, 7, 1_000])
def test_rows_that_cannot_be_changed_are_skipped(
    engine: Engine, slice_rows: int, stuck_by: str
) -> None:
    stuck = names(SLICES_MAX + 3)
    create_cards(engine, *stuck)
    create_cards(engine, "due", "due too", expires_at=PAST + timedelta(days=1))
    for card_id in stuck:
        named = card_id if stuck_by == "itself" else "nobody"
        command = swept(named, f"expire-{card_uuid(ACCOUNT, card_id)}-1")
        command = command.model_copy(update={"originated_by": "sweep"})
        assert handle_commands(engine, command) == ["command.rejected"]
    assert expire_cards(engine, slice_rows=slice_rows) == 2
    assert expired(engine) == ["due", "due too"]


DEFECT = {
    "postgresql": "CREATE FUNCTION defect() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN RAISE EXCEPTION 'planted'; END $$; CREATE TRIGGER defect BEFORE UPDATE ON cards"
    " FOR EACH ROW WHEN (NEW.card_id LIKE 'defect%%') EXECUTE FUNCTION defect()",
    "sqlite": "CREATE TRIGGER defect BEFORE UPDATE ON cards WHEN NEW.card_id LIKE 'defect%'"
    " BEGIN SELECT RAISE(ABORT, 'planted'); END",
}


@pytest.mark.parametrize("slice_rows", [1, 3, 1_000])
def test_a_row_that_fails_the_commit_is_skipped(engine: Engine, slice_rows: int) -> None:
    create_cards(engine, "defect-1", "due", "defect-2")
    create_cards(engine, "due too", expires_at=PAST + timedelta(days=1))
    with engine.begin() as connection:
        connection.exec_driver_sql(DEFECT[engine.dialect.name])
    assert expire_cards(engine, slice_rows=slice_rows) == 2
    assert expired(engine) == ["due", "due too"]


def test_cards_changed_meanwhile_are_not_expired(engine: Engine) -> None:
    create_cards(engine, "prolonged", "due")
    with engine.begin() as connection:
        prolonged = update(cards).where(cards.c.card_id == "prolonged")
        connection.execute(prolonged.values(expires_at=FAR))
    assert expire_cards(engine) == 1
    assert expired(engine) == ["due"]


def test_a_blocked_card_expires_too(engine: Engine) -> None:
    create_cards(engine, "blocked")
    with engine.begin() as connection:
        connection.execute(update(cards).values(blocked=True))
    assert expire_cards(engine) == 1


def test_one_process_at_a_time_sweeps(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    create_cards(engine, "due")
    with begin(engine) as (connection, _):
        assert try_lock(connection, "cards")
        assert expire_cards(engine) == 0
    assert expire_cards(engine) == 1
    engine.dispose()


def test_the_slices_of_a_sweep_have_the_lowest_priority(own: System) -> None:
    due = 2 * SLICE_ROWS + 1
    create_cards(own.engine, *names(due))
    sweep = envelope("sweeps.expire_cards", "sweep", queue="cards.system")
    own.push(sweep, "cards.system")
    own.create("till")
    worker = own.start("worker")
    own.start("relay")
    assert own.types("till") == ["card.created"]
    until(lambda: len(expired(own.engine)) == due, "the end of the sweep")
    # The command waited for no slice, though the sweep was taken together with it.
    with own.engine.connect() as connection:
        asked = select(outbox.c.subject).order_by(outbox.c.position.desc())
        last = connection.execute(asked.limit(due + 1)).scalars().all()
    assert last[-1] == "till"
    worker.says("swept", times=3)
    assert own.redis.llen(LAST) == 0


LAST = "cards.system\x06\x169"
"""The list of the lowest priority."""


def test_a_sweep_with_invalid_arguments_is_a_dead_letter(own: System) -> None:
    own.start("worker")
    wrong: list[dict[str, Any]] = [{"swept": -1}, {"id": "x"}, {"other": 1}]
    for number, fields in enumerate(wrong):
        id = f"odd-{number}"
        own.push(envelope("sweeps.expire_cards", id, fields, queue="cards.system"), "cards.system")
        assert own.letter(id).reason == "sweep_invalid"


def test_beat_and_a_worker_expire_a_card_in_time(own: System) -> None:
    beats = [own.start("beat", SWEEP_INTERVAL_S="0.5") for _ in range(2)]
    worker, relay = own.start("worker"), own.start("relay")
    own.create("short", "long", expires_at=FAR.isoformat())
    assert own.types("short", "long") == ["card.created"] * 2
    with own.engine.begin() as connection:
        short = update(cards).where(cards.c.card_id == "short")
        connection.execute(short.values(expires_at=datetime.now(UTC)))
    until(lambda: own.events_of("card.expired"), "the expiry")
    # One more round of both beats changes nothing.
    worker.says("swept")
    swept = worker.said.count("swept")
    until(lambda: all(beat.said.count("sweep requested") > 5 for beat in beats), "more sweeps")
    own.catches_up("cards.system")
    (event,) = own.events_of("card.expired")
    assert event["subject"] == "short"
    assert event["data"]["card"]["status"] == "expired"
    assert event["sequence"] == "00000000000000000002"
    assert worker.said.count("swept") == swept == 1
    assert [part.stop() for part in (*beats, worker, relay)] == [0, 0, 0, 0]
