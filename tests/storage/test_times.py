"""The times of a card never go back, even if a clock does, as after a failover."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from sqlalchemy import Engine, select

from card_worker.contracts.commands import Command, event_id
from card_worker.contracts.fields import read_time
from card_worker.contracts.json_text import write_time
from card_worker.contracts.message import read_query
from card_worker.contracts.queries import GetCard
from card_worker.contracts.transactions import CreateTransaction
from card_worker.domain.answers import Answer
from card_worker.handler import handle
from card_worker.query_handler import answer_card_query
from card_worker.storage.engine import begin, reading
from card_worker.storage.pin_attempts import store_pin_attempts
from card_worker.storage.queries import find_transactions
from card_worker.storage.reconcile import differences
from card_worker.storage.tables import outbox, pin_attempts, tokens
from tests.codes import PIN, SEAL_TO, VAULT, WRONG_PIN, plain_issuer
from tests.orders import CODES, Orders
from tests.storage.test_handler import (
    ACCOUNT,
    NOW,
    activate,
    answer_types,
    batch,
    command,
    create,
    follow_up,
    spend,
    stored_card,
    transfer,
)

HOUR, MS = timedelta(hours=1), timedelta(milliseconds=1)


def handle_commands(engine: Engine, now: datetime, *commands: Command) -> list[Answer]:
    """Handle commands in a commit whose clock shows `now`."""
    with begin(engine) as (connection, _):
        store_pin_attempts(connection, commands, now)
        return handle(connection, commands, now, plain_issuer())


def times(engine: Engine) -> dict[str, list[tuple[datetime, str]]]:
    """Return the times of what was done to each card, in order."""
    seen = defaultdict(list)
    with reading(engine) as connection:
        events = connection.execute(select(outbox.c.event).order_by(outbox.c.position)).scalars()
        for event in map(json.loads, events):
            if "sequence" in event:
                seen[event["subject"]].append((read_time(event["time"]), event["type"]))
    return seen


@pytest.fixture(autouse=True)
def never_back(engine: Engine) -> Iterator[None]:
    """Prove, after each test, that the events and rows of no card go back in time."""
    yield
    for card_id, events in times(engine).items():
        assert events == sorted(events, key=lambda event: event[0])
        card = stored_card(engine, card_id)
        with reading(engine) as connection:
            rows = [row.created_at for row in find_transactions(connection, card)]
            assert list(differences(connection)) == []
        assert all(one <= other for one, other in pairwise(rows))
        assert card.changed_at == events[-1][0] >= max([card.created_at, *rows])


@pytest.mark.parametrize("back", [MS, HOUR], ids=["a millisecond", "an hour"])
@pytest.mark.parametrize("begun", ["created", "activated", "replaced"])
def test_a_new_card_can_be_spent_at_once(engine: Engine, back: timedelta, begun: str) -> None:
    ways: dict[str, Sequence[Command]] = {
        "created": [create("A1")],
        "activated": [batch("A1"), activate("A1")],
        "replaced": [
            create("A0"),
            command("cards.replace", "r", card_id="A0", new_card_id="A1", reason="lost"),
        ],
    }
    handle_commands(engine, NOW, *ways[begun])
    assert stored_card(engine, "A1").active_from is None
    assert answer_types(handle_commands(engine, NOW - back, spend("A1", "r1"))) == [
        "card.drawn_down"
    ]


def test_a_card_with_active_from_starts_then(engine: Engine) -> None:
    handle_commands(engine, NOW, create("A1", active_from=write_time(NOW + HOUR)))
    assert answer_types(handle_commands(engine, NOW + HOUR - MS, spend("A1", "r1"))) == [
        "card_not_started"
    ]
    assert answer_types(handle_commands(engine, NOW + HOUR, spend("A1", "r2"))) == [
        "card.drawn_down"
    ]
    # It has started once and for all.
    assert answer_types(handle_commands(engine, NOW, spend("A1", "r3"))) == ["card.drawn_down"]


def test_a_token_is_usable_from_its_creation(engine: Engine) -> None:
    handle_commands(engine, NOW, create("A1"))
    serves = {"expires_in": 60, "expires_after_transaction": False}
    made = command("tokens.create", "t", card_id="A1", ref_id="t", **serves, **SEAL_TO)
    handle_commands(engine, NOW + HOUR, made)
    paid = {"token": "TOKEN-0", "amount": 1, "currency": "NOK"}
    pay = [command("transactions.create", ref, ref_id=ref, **paid) for ref in ("r1", "r2")]
    assert answer_types(handle_commands(engine, NOW, pay[0])) == ["card.drawn_down"]
    assert answer_types(handle_commands(engine, NOW + HOUR + timedelta(seconds=60), pay[1])) == [
        "card_not_usable"
    ]


def test_each_card_of_a_group_has_its_own_time(engine: Engine) -> None:
    handle_commands(engine, NOW, create("A1"))
    handle_commands(engine, NOW + HOUR, create("A2"))
    group = [spend("A1", "r"), spend("A2", "r"), create("A3"), spend("A4", "r")]
    answers = handle_commands(engine, NOW + HOUR / 2, *group)
    minutes = [(answer.created_at - NOW) // timedelta(minutes=1) for answer in answers]
    assert minutes == [30, 60, 30, 30]
    for answer in answers:
        assert json.loads(answer.event)["time"] == write_time(answer.created_at)


def test_a_transfer_comes_after_both_cards_and_releases_what_is_due_then(engine: Engine) -> None:
    handle_commands(
        engine, NOW, create("A2"), spend("A2", "hold", pending=True, hold_expires_in=60)
    )
    handle_commands(engine, NOW + HOUR, create("A1"))
    (moved,) = handle_commands(engine, NOW, transfer("A1", "A2"))
    assert moved.created_at == NOW + HOUR
    kinds = [kind for _, kind in times(engine)["A2"]]
    assert kinds == ["card.created", "hold.placed", "hold.expired", "card.transferred_in"]
    assert answer_types(handle_commands(engine, NOW, spend("A2", "all", amount=501))) == [
        "card.drawn_down"
    ]


@pytest.mark.parametrize("what", ["capture", "void"])
def test_an_ended_hold_stays_ended(engine: Engine, what: str) -> None:
    held = spend("A1", "hold", pending=True, hold_expires_in=60)
    handle_commands(engine, NOW, create("A1"), held)
    handle_commands(engine, NOW + HOUR, spend("A1", "r1"))
    assert answer_types(handle_commands(engine, NOW, follow_up(what, held))) == ["hold_closed"]


def test_an_expired_card_stays_expired(engine: Engine) -> None:
    handle_commands(engine, NOW, create("A1", expires_at=write_time(NOW + HOUR)))
    update = command("cards.update", "u", card_id="A1", name="Kari")
    (shown,) = handle_commands(engine, NOW + HOUR, update)
    assert json.loads(shown.event)["data"]["card"]["status"] == "expired"
    assert answer_types(handle_commands(engine, NOW, spend("A1", "r"))) == ["card_expired"]
    assert answer_types(
        handle_commands(engine, NOW, command("cards.expire", "e", card_id="A1"))
    ) == ["card.expired"]


def test_an_activation_can_be_reversed_within_its_window_on_any_clock(engine: Engine) -> None:
    handle_commands(engine, NOW, create("A1"), create("A2"))
    reverse = [command("cards.reverse_activation", id, card_id=id) for id in ("A1", "A2")]
    assert answer_types(handle_commands(engine, NOW - HOUR, reverse[0])) == [
        "card.activation_reversed"
    ]
    assert answer_types(handle_commands(engine, NOW + 25 * HOUR, reverse[1])) == ["not_reversible"]


def test_a_dry_run_has_the_time_of_its_card(engine: Engine) -> None:
    handle_commands(engine, NOW, create("A1"))
    group = [spend("A1", "dry", dry_run=True), spend("A1", "real")]
    assert [answer.created_at for answer in handle_commands(engine, NOW - HOUR, *group)] == [
        NOW,
        NOW,
    ]


def test_pin_attempts_and_queries_use_the_time_of_the_card(engine: Engine) -> None:
    handle_commands(engine, NOW, create("A1", card_token={"expires_in": 600}, pin={}, **SEAL_TO))
    handle_commands(engine, NOW + HOUR / 4, command("cards.update", "u", card_id="A1", name="Kari"))
    paid = {"token": "TOKEN-0", "amount": 1, "currency": "NOK"}
    wrong = command("transactions.create", "w", ref_id="w", **paid, pin=WRONG_PIN)
    assert isinstance(wrong, CreateTransaction)
    with begin(engine) as (connection, _):
        store_pin_attempts(connection, [wrong], NOW)
        noted = connection.execute(select(pin_attempts.c.created_at)).scalar_one()
    assert noted == NOW + HOUR / 4
    for number, named in enumerate(({"card_id": "A1"}, {"token": "TOKEN-0"})):
        fields = {"account_id": ACCOUNT, **named, "pin": PIN}
        query = read_query("cards.get", f"q{number}", fields, VAULT)
        assert isinstance(query, GetCard)
        with begin(engine) as (connection, _):
            store_pin_attempts(connection, [query], NOW)
            seen = answer_card_query(connection, query, NOW)
        # In the time of the card, that of the token is up.
        if "token" in named:
            assert seen["reason"] == "card_not_usable"
        else:
            assert seen["card"]["tokens"] == []


def test_cards_of_an_order_are_no_older_than_their_tokens(engine: Engine) -> None:
    orders = Orders(engine)
    orders.order(3, **CODES)
    orders.work()
    with reading(engine) as connection:
        made = set(connection.execute(select(tokens.c.created_at)).scalars())
    assert {stored_card(engine, name).changed_at for name in orders.names()} == made
    (moved,) = handle_commands(engine, NOW, activate("B1-0001"))
    assert made == {moved.created_at}
    assert moved.created_at > NOW


def test_derived_times_are_based_on_the_time_of_the_card(engine: Engine) -> None:
    handle_commands(engine, NOW, create("A1"))
    held = spend("A1", "hold", pending=True, hold_expires_in=60)
    (answer,) = handle_commands(engine, NOW - HOUR, held)
    hold = json.loads(answer.event)["data"]["hold"]
    assert hold["expires_at"] == write_time(NOW + timedelta(seconds=60))
    assert hold["id"] == str(event_id(ACCOUNT, held.key))
