"""Events: CloudEvents that say what the contract promises, the same however they are read."""

import json
import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from pydantic import TypeAdapter

from card_worker.contracts.commands import event_id
from card_worker.contracts.enums import EventType, Reason
from card_worker.contracts.events import Envelope, write
from card_worker.contracts.fields import read_time
from card_worker.contracts.json_text import write_time
from tests.domain.stories_of_codes import STORIES as CODES
from tests.domain.stories_of_money import STORIES as MONEY
from tests.domain.stories_of_orders import STORIES as ORDERS
from tests.domain.story import ACCOUNT, Story

STORY = """
    batch     B1: A1 A2                    -> batch.completed
    activate  A1 500 NOK expires=+1h       -> card.activated
    activate  A1 500 NOK                   -> command.rejected card_already_active
    create    A3 0 EUR                     -> card.created
    create    A4 -5 EUR                    -> command.rejected invalid
    dry create A5 5 EUR                    -> card.created
    batch     B2: A6 A6                    -> command.rejected duplicate_in_batch
    wait      1h
    expire    A1                           -> card.expired
    """
ANSWERS = [one.answer for one in Story().run(STORY).told]
TOLD = [
    *ANSWERS,
    *(event for story in (MONEY | CODES | ORDERS).values() for event in Story().run(story).events),
]
ENVELOPE = TypeAdapter(Envelope)
TYPES = sorted({one.type for one in TOLD})
EVENTS = {type: [one.event for one in TOLD if one.type is type] for type in TYPES}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def about(subject: str, type: str) -> Any:
    """Return the last event of this type that is about `subject`."""
    said = [json.loads(answer.event) for answer in ANSWERS]
    return [one for one in said if (one["subject"], one["type"]) == (subject, type)][-1]


def test_every_type_of_event_is_looked_at() -> None:
    # Tested in tests/storage: test_orders.py, test_repeats.py.
    by_themselves = {
        EventType.BATCH_PROGRESSED,
        EventType.BATCH_RECALLED,
        EventType.BATCH_CONFIRMED,
        EventType.COMMAND_REPEATED,
    }
    assert {one.type for one in TOLD} == set(EventType) - by_themselves


@pytest.mark.parametrize("type", TYPES)
def test_an_event_is_a_cloud_event(type: EventType) -> None:
    for event in EVENTS[type]:
        said = json.loads(event)
        read = JSONFormat().read(CloudEvent, event)
        assert (read.get_specversion(), read.get_id()) == ("1.0", said["id"])
        assert (read.get_type(), read.get_subject()) == (said["type"], said["subject"])
        assert read.get_source() == f"/card-worker/{ACCOUNT}"
        assert read.get_datacontenttype() == "application/json"
        assert read.get_time() == read_time(said["time"])
        assert read.get_data() == said["data"]
        assert read.get_extension("partitionkey") == f"{ACCOUNT}/{said['subject']}"
        assert read.get_extension("correlationid") == said["data"]["command_id"]
        assert read.get_extension("sequence") == said.get("sequence")


@pytest.mark.parametrize("type", TYPES)
def test_an_event_read_and_written_says_the_same(type: EventType) -> None:
    for event in EVENTS[type]:
        assert json.loads(write(ENVELOPE.validate_json(event))) == json.loads(event)


@pytest.mark.parametrize("type", TYPES)
def test_an_event_says_what_it_is_in_this_order(type: EventType) -> None:
    for event in EVENTS[type]:
        names = [name for name in json.loads(event) if name not in ("sequence", "answer")]
        assert names == [
            *("specversion", "id", "source", "type", "subject", "time", "datacontenttype"),
            *("partitionkey", "correlationid", "data"),
        ]


@pytest.mark.parametrize("type", TYPES)
def test_every_time_in_an_event_is_utc_with_milliseconds(type: EventType) -> None:
    for event in EVENTS[type]:
        said = json.loads(event)
        card = said["data"].get("card") or {}
        row = said["data"].get("transaction") or {}
        times = [said["time"], *(card.get(f"{name}_at") for name in ("created", "expires"))]
        times += [card.get("active_from"), row.get("created_at")]
        assert all(TIME.fullmatch(time) for time in times if time is not None)


@pytest.mark.parametrize("type", TYPES)
def test_only_what_took_a_place_in_a_cards_life_has_a_sequence(type: EventType) -> None:
    for event in EVENTS[type]:
        said = json.loads(event)
        placed = (
            said["type"].startswith(("card.", "hold.", "token.")) and "dry_run" not in said["data"]
        )
        assert ("sequence" in said) is placed
        if placed:
            assert said["sequence"] == f"{said['data']['version']:020}"


def test_the_id_of_an_event_is_the_one_of_its_key() -> None:
    said = [json.loads(answer.event) for answer in ANSWERS]
    keys = [
        f"{'dry/' if 'dry_run' in one['data'] else ''}id/{one['data']['command_id']}"
        for one in said
    ]
    assert [UUID(one["id"]) for one in said] == [event_id(ACCOUNT, key) for key in keys]


def test_an_activation_tells_the_card_and_its_money() -> None:
    data = about("A1", "card.activated")["data"]
    assert set(data) == {
        *("command", "command_id", "account_id", "card_id", "version", "card", "transaction")
    }
    card, row = data["card"], data["transaction"]
    assert (card["status"], card["currency"], card["amount"]) == ("unused", "NOK", 50_000)
    amounts = {name: value for name, value in card.items() if name.startswith("amount_")}
    assert amounts == {
        "amount_funds": 50_000,
        "amount_drawdown": 0,
        "amount_balance": 50_000,
        "amount_pending": 0,
        "amount_reserved": 0,
        "amount_available": 50_000,
    }
    assert (card["tokens"], card["pin"]) == ([], None)
    assert (row["type"], row["debit"], row["credit"]) == ("fund", "issuer", "card")
    assert (row["amount"], row["balance_before"], row["balance_after"]) == (50_000, 0, 50_000)
    assert row["version"] == card["version"] == data["version"] == 2


def test_what_moves_no_money_has_no_transaction() -> None:
    assert about("A3", "card.created")["data"]["transaction"] is None
    assert about("A1", "card.expired")["data"]["transaction"] is None


def test_a_card_is_shown_as_it_is_at_the_time_of_its_event() -> None:
    assert about("A1", "card.expired")["data"]["card"]["status"] == "expired"
    assert about("A1", "card.activated")["data"]["card"]["status"] == "unused"


def test_a_refusal_says_why_and_has_no_version() -> None:
    data = about("A1", "command.rejected")["data"]
    assert data == {
        "command": "cards.activate",
        "command_id": "c2",
        "account_id": ACCOUNT,
        "card_id": "A1",
        "reason": "card_already_active",
        "message": Reason.CARD_ALREADY_ACTIVE.text,
        "status": "unused",
    }


def test_a_refused_field_is_named() -> None:
    data = about("A4", "command.rejected")["data"]
    assert [problem["field"] for problem in data["problems"]] == ["amount"]
    assert all(set(problem) == {"field", "message"} for problem in data["problems"])


@pytest.mark.parametrize(
    ("time", "written"),
    [
        (datetime(2026, 11, 22, 10, tzinfo=UTC), "2026-11-22T10:00:00.000Z"),
        (datetime(2026, 11, 22, 10, 0, 0, 999_999, tzinfo=UTC), "2026-11-22T10:00:00.999Z"),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00.000Z"),
        (datetime.max.replace(tzinfo=UTC), "9999-12-31T23:59:59.999Z"),
    ],
    ids=str,
)
def test_a_time_is_written_so_that_it_sorts(time: datetime, written: str) -> None:
    assert write_time(time) == written
    assert len(written) == len("2026-11-22T10:00:00.000Z")
