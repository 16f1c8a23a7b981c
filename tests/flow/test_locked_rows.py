"""A row that another session locks delays only the messages that need it, and keeps their order."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pytest
from sqlalchemy import text

from card_worker.storage.engine import LOCK_TIMEOUT_MS
from tests.flow.processes import until
from tests.flow.system import System, card, envelope, system

MONEY = {"amount": 10, "currency": "NOK"}


@pytest.fixture
def own(tmp_path: Path, postgres_url: str, broker_url: str) -> Iterator[System]:
    with system(tmp_path, database_url=postgres_url, broker_url=broker_url) as made:
        made.start("relay")
        yield made


@contextmanager
def held(own: System, statement: str) -> Iterator[None]:
    """Hold in a session of its own what `statement` locks."""
    with own.engine.begin() as connection:
        connection.execute(text(statement))
        yield


def draw(own: System, card_id: str, *refs: str) -> None:
    for ref in refs:
        own.send("transactions.create", f"{card_id}-{ref}", card_id=card_id, ref_id=ref, **MONEY)


def left(own: System, *command_ids: str) -> list[int]:
    """Return what was left on the card after each of these commands."""
    told = own.answers(*command_ids)
    return [told[id]["data"]["card"]["amount_balance"] for id in command_ids]


@pytest.mark.parametrize("pool", [(), ("--pool=processes", "--concurrency=2")])
def test_a_locked_card_delays_no_other(own: System, pool: Sequence[str]) -> None:
    own.start("worker", *pool)
    names = [f"card-{number}" for number in range(20)]
    own.create("locked", *names)
    own.answers("locked", *names)
    with held(own, "SELECT FROM cards WHERE card_id = 'locked' FOR UPDATE"):
        draw(own, "locked", "r1")
        first = own.parts.all[1]
        first.says("rows locked by another session")
        before = len(first.said)
        for turn in range(3):
            for name in names:
                draw(own, name, f"r{turn}")
            draw(own, "locked", f"r{turn + 2}")
            own.answers(*(f"{name}-r{turn}" for name in names))
        # None of these commits waited for the lock until the timeout.
        took_ms = re.findall(r"group committed .* ms=([\d.]+)", first.said[before:])
        assert median(map(float, took_ms)) < LOCK_TIMEOUT_MS / 2
        assert [event["subject"] for event in own.events()].count("locked") == 1
    # What was kept back is done, in its order.
    assert left(own, *(f"locked-r{turn}" for turn in range(1, 5))) == [490, 480, 470, 460]
    until(lambda: own.waiting() == 0, "the end")


def test_more_messages_wait_than_a_worker_has_room_for(own: System) -> None:
    own.start("worker", GROUP_MAX="5")
    own.create("locked", "free")
    own.answers("locked", "free")
    with held(own, "SELECT FROM cards WHERE card_id = 'locked' FOR UPDATE"):
        draw(own, "locked", *(f"r{number:02}" for number in range(40)))
        draw(own, "free", "r1")
        assert left(own, "free-r1") == [490]
    ids = [f"locked-r{number:02}" for number in range(40)]
    assert left(own, *ids) == [490 - 10 * number for number in range(40)]


def test_commands_on_a_card_stay_behind_one_that_waits(own: System) -> None:
    own.start("worker")
    own.create("locked", "shared", "free")
    own.answers("locked", "shared", "free")
    with held(own, "SELECT FROM cards WHERE card_id = 'locked' FOR UPDATE"):
        own.send("cards.transfer", "move", card_id="locked", to_card_id="shared", ref_id="m")
        draw(own, "shared", "after")
        draw(own, "free", "r1")
        own.answers("free-r1")
    move, after = own.answers("move", "shared-after").values()
    assert (after["data"]["card"]["amount_balance"], int(after["sequence"])) == (990, 3)
    assert move["data"]["card"]["amount_balance"] == 0


def test_a_key_claimed_by_another_session_delays_only_its_command(own: System) -> None:
    own.start("worker")
    own.create("before")
    own.answers("before")
    claim = (
        "INSERT INTO idempotency_keys (account_id, key, digest, event_id, created_at) VALUES"
        " ('T00000001', 'id/claimed', 'x', gen_random_uuid(), now())"
    )
    with held(own, claim):
        own.create("claimed", "free")
        own.answers("free")
        draw(own, "claimed", "r1")
        draw(own, "free", "r1")
        own.answers("free-r1")
    assert own.types("claimed") == ["idempotency_conflict"]
    assert own.types("claimed-r1") == ["card_not_found"]


def test_what_waits_for_another_row_than_a_card_s_lets_the_others_stay_together(
    own: System,
) -> None:
    worker = own.start("worker")
    own.send("cards.batch_create", "first", batch_id="B", cards=[{"card_id": "in-batch"}])
    own.answers("first")
    with held(own, "SELECT FROM batches WHERE batch_id = 'B' FOR UPDATE"):
        own.send("cards.batch_create", "second", batch_id="B", cards=[{"card_id": "other"}])
        worker.says("rows locked by another session")
        commits = worker.said.count("group committed")
        names = [f"card-{number}" for number in range(50)]
        # Pushed at once, so that they are taken together.
        messages = [json.dumps(envelope("cards.create", name, card(name))) for name in names]
        own.redis.lpush("cards", *messages)
        own.answers(*names)
        assert worker.said.count("group committed") - commits <= 2
    assert own.types("second") == ["batch_state"]


def test_a_locked_table_delays_all_and_loses_nothing(own: System) -> None:
    worker = own.start("worker")
    own.create("before")
    own.answers("before")
    with held(own, "LOCK TABLE cards IN ACCESS EXCLUSIVE MODE"):
        own.create("a", "b")
        draw(own, "a", "r1")
        worker.says("rows locked by another session")
    assert own.types("a", "b", "a-r1") == ["card.created", "card.created", "card.drawn_down"]
    until(lambda: own.waiting() == 0, "the end")
    assert own.letters() == []


def test_a_message_that_waits_goes_back_when_its_worker_stops(own: System) -> None:
    worker = own.start("worker")
    own.create("locked")
    own.answers("locked")
    with held(own, "SELECT FROM cards WHERE card_id = 'locked' FOR UPDATE"):
        for _ in range(6):  # more often than a message may be started
            draw(own, "locked", "r1")
            worker.says("rows locked by another session")
            assert worker.stop() == 0
            assert own.held() == 0
            worker = own.start("worker")
    assert left(own, "locked-r1") == [490]
    assert own.letters() == []
