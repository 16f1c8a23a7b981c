"""Commands: the limits of every field, and what makes two of them the same."""

import json
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from card_worker.contracts.batches import CreateBatch
from card_worker.contracts.cards import CreateCard, WithdrawCard
from card_worker.contracts.commands import (
    APPLY,
    CHUNK,
    COMMANDS,
    QUEUES,
    SWEEPS,
    Command,
    InvalidCommand,
    ProducerCommand,
    Queue,
)
from card_worker.contracts.message import UnreadableItem, read_commands

ACCOUNT = "T00000001"
LOAD = {"card_id": "card-01", "amount": 500, "currency": "NOK"}
GOOD: dict[str, dict[str, Any]] = {
    "cards.create": LOAD,
    "cards.activate": LOAD,
    "cards.expire": {"card_id": "card-01"},
    "cards.batch_create": {"cards": [{"card_id": "card-01"}, {"card_id": "card-02"}]},
}
ALL = list(GOOD)
LOADING = ["cards.create", "cards.activate"]
COMMON = {
    "not_after": "2030-01-01T00:00:00Z",
    "created_by": "kari",
    "originated_by": "till 7",
    "dry_run": True,
}


def read(task: str, **changed: Any) -> Command:
    fields = {"account_id": ACCOUNT, "command_id": "c", **GOOD[task], **changed}
    (command,) = read_commands(task, "m", fields)
    assert not isinstance(command, UnreadableItem)
    return command


def accepted(task: str, **changed: Any) -> ProducerCommand:
    command = read(task, **changed)
    assert not isinstance(command, InvalidCommand), command.problems
    assert not isinstance(command, WithdrawCard)
    return command


def refused(task: str, **changed: Any) -> list[str]:
    """Return the fields that are named as problems."""
    command = read(task, **changed)
    assert isinstance(command, InvalidCommand)
    return [problem.field for problem in command.problems]


def test_every_command_is_a_task_that_waits_in_a_queue() -> None:
    assert all(kind.model_fields["command"].default == name for name, kind in COMMANDS.items())
    assert set(QUEUES) == {*COMMANDS, APPLY, CHUNK, *SWEEPS}
    assert QUEUES["cards.activate"] == QUEUES["cards.create"] == Queue.CARDS
    assert QUEUES["cards.batch_create"] == QUEUES[APPLY] == Queue.BULK
    assert QUEUES["cards.expire"] == Queue.SYSTEM


@pytest.mark.parametrize("task", ALL)
def test_what_every_command_takes(task: str) -> None:
    command = accepted(task)
    assert (command.not_after, command.created_by, command.originated_by) == (None, None, None)
    assert command.dry_run is False
    for field, value in COMMON.items():
        accepted(task, **{field: value})


@pytest.mark.parametrize("task", ALL)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("created_by", value) for value in ("x" * 256, 5, "\x00")),
        *(("originated_by", value) for value in ("x" * 256, "", " x", "x\t", 5)),
        *(("dry_run", value) for value in (0, 1, "false", None)),
        *(("not_after", value) for value in ("tomorrow", 0, "2030-01-01T00:00:00")),
        ("unknown", None),
        ("Account_id", ACCOUNT),
        ("command", "cards.expire"),
    ],
)
def test_no_command_takes_these(task: str, field: str, value: object) -> None:
    assert refused(task, **{field: value}) == [field]


@pytest.mark.parametrize("task", ["cards.create", "cards.activate", "cards.expire"])
@pytest.mark.parametrize(
    "card_id", ["", "x" * 256, " x", "x ", "\u00a0x", "x\n", "x\x00y", "x\udfff", 5, None, ["x"]]
)
def test_a_card_id_that_is_none_is_refused(task: str, card_id: object) -> None:
    assert refused(task, card_id=card_id) == ["card_id"]


@pytest.mark.parametrize("task", LOADING)
@pytest.mark.parametrize(
    "amount", ["5", 5.0, True, False, float("nan"), float("inf"), -1, 2**53, 2**63, None, [5]]
)
def test_an_amount_is_a_whole_number_in_bounds(task: str, amount: object) -> None:
    assert refused(task, amount=amount) == ["amount"]


@pytest.mark.parametrize("task", LOADING)
@pytest.mark.parametrize("currency", ["GBP", "nok", "NOK ", "", 578, None])
def test_a_currency_is_one_of_five(task: str, currency: object) -> None:
    assert refused(task, currency=currency) == ["currency"]


def test_a_card_is_a_gift_card_unless_it_is_a_credit_note() -> None:
    command = accepted("cards.create")
    assert isinstance(command, CreateCard)
    assert command.type == "gift_card"
    accepted("cards.create", type="credit_note")
    assert refused("cards.create", type="voucher") == ["type"]
    assert refused("cards.activate", type="gift_card") == ["type"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"cards": []}, "cards"),
        ({"cards": None}, "cards"),
        ({"cards": {"card_id": "a"}}, "cards"),
        ({"cards": "a"}, "cards"),
        ({"cards": [{"card_id": "a"}, "a"]}, "cards.1"),
        ({"cards": [{"card_id": "a"}, {}]}, "cards.1.card_id"),
        ({"cards": [{"card_id": "a"}, {"card_id": " a"}]}, "cards.1.card_id"),
        ({"cards": [{"card_id": "a"}, {"card_id": "b", "type": "voucher"}]}, "cards.1.type"),
        ({"cards": [{"card_id": "a"}, {"card_id": "b", "amount": 5}]}, "cards.1.amount"),
        ({"batch_id": ""}, "batch_id"),
        ({"batch_id": "x" * 256}, "batch_id"),
        ({"type": None}, "type"),
        ({"amount": 5}, "amount"),
    ],
)
def test_a_batch_that_is_none_is_refused(fields: dict[str, Any], named: str) -> None:
    assert refused("cards.batch_create", **fields) == [named]


def test_a_batch_may_be_longer_than_what_it_may_hold() -> None:
    # Its length is refused by the rules, in its place in the order of reasons.
    cards = [{"card_id": f"card-{number}"} for number in range(1001)]
    command = accepted("cards.batch_create", cards=cards)
    assert isinstance(command, CreateBatch)
    assert command.requested == 1001


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ("2030-01-01T00:00:00Z", "2030-01-01T00:00:00.000Z"),
        ("2030-01-01t00:00:00z", "2030-01-01T00:00:00.000Z"),
        ("2030-01-01T00:00:00.5Z", "2030-01-01T00:00:00.500Z"),
        ("2030-01-01T00:00:00.123456789+00:00", "2030-01-01T00:00:00.123Z"),
        ("2030-01-01T00:00:00-09:30", "2030-01-01T09:30:00.000Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999Z"),
        (datetime(2030, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), "2030-01-01T00:00:00.000Z"),
        (datetime(2030, 1, 1, 0, 0, 0, 999, tzinfo=UTC), "2030-01-01T00:00:00.000Z"),
    ],
    ids=str,
)
def test_a_time_has_one_spelling(written: object, read_as: str) -> None:
    said = json.loads(accepted("cards.create", not_after=written).model_dump_json())
    assert said["not_after"] == read_as


@pytest.mark.parametrize(
    "value",
    [
        "",
        "now",
        "2030-01-01",
        "2030-01-01T00:00Z",
        "2030-01-01 00:00:00Z",
        "20300101T000000Z",
        "2030-W01-1T00:00:00Z",
        "2030-01-01T00:00:00",
        "2030-01-01T00:00:00,5Z",
        "2030-01-01T00:00:00.Z",
        "2030-01-01T00:00:00+0100",
        "2030-01-01T00:00:00+25:00",
        "2030-02-29T00:00:00Z",
        "2030-01-01T23:59:60Z",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:59-01:00",
        "2030-01-01T00:00:00Z ",
        "٢٠٣٠-01-01T00:00:00Z",
        0,
        1_893_456_000.0,
        True,
        date(2030, 1, 1),
        datetime(2030, 1, 1),  # noqa: DTZ001
    ],
    ids=repr,
)
def test_what_is_no_time_is_refused(value: object) -> None:
    assert refused("cards.activate", expires_at=value) == ["expires_at"]


def nested(levels: int, *, of: type) -> Any:
    """Return metadata that many levels deep, the object itself included."""
    inner: Any = 1
    for _ in range(levels - 1):
        inner = [inner] if of is list else {"a": inner}
    return {"a": inner}


@pytest.mark.parametrize("of", [list, dict])
def test_metadata_is_at_most_8_deep(of: type) -> None:
    accepted("cards.create", metadata=nested(8, of=of))
    assert refused("cards.create", metadata=nested(9, of=of)) == ["metadata"]


def test_metadata_has_at_most_16_kib_of_utf_8() -> None:
    frame = len('{"a":""}')
    accepted("cards.create", metadata={"a": "x" * (16_384 - frame)})
    assert refused("cards.create", metadata={"a": "x" * (16_385 - frame)}) == ["metadata"]
    accepted("cards.create", metadata={"a": "ø" * ((16_384 - frame) // 2)})
    assert refused("cards.create", metadata={"a": "ø" * 8_200}) == ["metadata"]


@pytest.mark.parametrize(
    "metadata",
    [
        {"dintero_": 1},
        {"dintero_transaction_ids": 1},
        {"a": float("nan")},
        {"a": [{"b": float("-inf")}]},
        {"a": "\ud800"},
        {"\ud800": 1},
        {"a": {"b\x00": 1}},
        {5: 1},
        {"a": {5: 1}},
        {"a": b"bytes"},
        {"a": datetime(2030, 1, 1, tzinfo=UTC)},
        {"a": UUID(int=1)},
        {"a": {1, 2}},
    ],
    ids=repr,
)
def test_metadata_that_is_no_free_json_is_refused(metadata: object) -> None:
    assert refused("cards.create", metadata=metadata) == ["metadata"]


def test_reserved_keys_are_reserved_at_the_top_only_and_one_is_free() -> None:
    accepted("cards.create", metadata={"dintero_transaction_id": "T1", "a": {"dintero_x": 1}})


def test_the_largest_command_within_the_limits_of_its_fields_is_within_its_own() -> None:
    face = "😀"
    accepted(
        "cards.create",
        command_id=face * 64,
        metadata={"a": face * 4094},
        **dict.fromkeys(("card_id", "customer_id", "name", "created_by"), face * 255),
        originated_by=face * 255,
    )


def test_a_command_cannot_be_changed() -> None:
    command: Any = accepted("cards.expire")
    with pytest.raises(ValidationError, match="frozen"):
        command.dry_run = True
