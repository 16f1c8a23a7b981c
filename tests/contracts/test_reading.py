"""What a message may say, field by field, and what becomes of one that says otherwise."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from card_worker.contracts.cards import ActivateCard, CreateCard
from card_worker.contracts.commands import Command, InvalidCommand, digest_of
from card_worker.contracts.dead_letters import Unreadable
from card_worker.contracts.envelope import read_envelope
from card_worker.contracts.message import UnreadableItem, read_commands
from tests.codes import OWNER, VAULT

ACCOUNT = "T00000001"
GOOD = {"account_id": ACCOUNT, "card_id": "card-01", "amount": 500, "currency": "NOK"}
PAYMENT = {"ref_id": "r", "amount": 500, "currency": "NOK"}
TASKS = frozenset(["cards.activate", "commands.apply"])


def read(**changed: Any) -> Command:
    fields = {name: value for name, value in {**GOOD, **changed}.items() if value is not ...}
    (command,) = read_commands("cards.activate", "message-1", fields)
    assert not isinstance(command, UnreadableItem)
    return command


def deep(levels: int) -> Any:
    return 1 if levels == 0 else {"a": deep(levels - 1)}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("account_id", value) for value in ("P12345678", "T00000000")),
        *(("card_id", value) for value in ("x", "x" * 255, "a b", "kort-æøå")),
        *(("amount", value) for value in (0, 1, 2**53 - 1)),
        *(("currency", value) for value in ("NOK", "SEK", "DKK", "EUR", "USD")),
        *(("command_id", value) for value in ("x", "x" * 64)),
        *(("name", value) for value in ("", "x" * 255, None)),
        ("customer_id", "x" * 255),
        ("expires_at", "2030-01-01T00:00:00+01:00"),
        ("expires_at", datetime(2030, 1, 1, tzinfo=UTC)),
        ("dry_run", True),
        ("metadata", {"dintero_transaction_id": "T1", "a": [1, 2.5, None, True, "x"]}),
        ("metadata", deep(8)),
    ],
)
def test_a_field_within_its_limits_is_read(field: str, value: object) -> None:
    assert isinstance(read(**{field: value}), ActivateCard)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("card_id", value) for value in ("", "x" * 256, " x", "x ", "a\x00b", "\ud800", 5, ...)),
        *(("amount", value) for value in (-1, 2**53, "5", 5.0, True, float("nan"), None, ...)),
        *(("currency", value) for value in ("GBP", "nok", "", 578, ...)),
        *(("command_id", value) for value in ("", "x" * 65, 5, "a\x00b")),
        *(("name", value) for value in ("x" * 256, 5)),
        *(("customer_id", value) for value in ("", " x", "x" * 256)),
        *(("originated_by", value) for value in ("", "x " * 1, 5)),
        *(("expires_at", value) for value in ("2030-01-01", "2030-01-01T00:00:00", 1893456000, "")),
        ("expires_at", "2030-02-30T00:00:00Z"),
        ("expires_at", datetime(2030, 1, 1)),  # noqa: DTZ001
        ("active_from", "0001-01-01T00:00:00+23:00"),
        *(("dry_run", value) for value in ("true", 1, None)),
        ("metadata", []),
        ("metadata", "x"),
        ("metadata", {"dintero_x": 1}),
        ("metadata", {"a": float("inf")}),
        ("metadata", {"a": "x" * 16_400}),
        ("metadata", deep(9)),
        ("metadata", {"a\x00": 1}),
        ("unknown", 1),
        ("command", "cards.activate"),
        # An activation only says how long tokens serve.
        ("pin", {"format": {"length": 4}}),
        ("card_token", {"format": {}}),
        ("card_token", {"expires_in": 0}),
        ("card_token", {"expires_after_transaction": 1}),
    ],
)
def test_a_field_out_of_its_limits_is_named_and_its_sender_answered(
    field: str, value: object
) -> None:
    command = read(**{field: value})
    assert isinstance(command, InvalidCommand)
    assert [problem.field.partition(".")[0] for problem in command.problems] == [field]
    assert command.command_id == "message-1"


MAKES_TOKEN: dict[str, Any] = {"card_token": {}}
MAKES_PIN: dict[str, Any] = {"pin": {}}


@pytest.mark.parametrize(
    ("task", "fields", "wanted"),
    [
        ("cards.create", {**GOOD, **MAKES_TOKEN}, {"card_token": "TOKEN_PEPPERS"}),
        ("cards.create", {**GOOD, **MAKES_PIN}, {"pin": "PIN_PEPPERS"}),
        (
            "cards.batch_create",
            {"cards": [{"card_id": "a"}], "options": MAKES_TOKEN | MAKES_PIN},
            {"options.card_token": "TOKEN_PEPPERS", "options.pin": "PIN_PEPPERS"},
        ),
        (
            "tokens.create",
            {"card_id": "a", "ref_id": "r", "expires_in": 60},
            {"format": "TOKEN_PEPPERS"},
        ),
        ("cards.rotate_pin", {"card_id": "a", **MAKES_PIN}, {"pin": "PIN_PEPPERS"}),
        (
            "transactions.create",
            {**PAYMENT, "token": "1", "pin": "2"},
            {"token": "TOKEN_PEPPERS", "pin": "PIN_PEPPERS"},
        ),
    ],
)
def test_a_worker_without_peppers_says_which_it_misses(
    task: str, fields: dict[str, Any], wanted: dict[str, str]
) -> None:
    asked = {"account_id": ACCOUNT, **fields}
    (command,) = read_commands(task, "m", asked)
    assert isinstance(command, InvalidCommand)
    said = {problem.field: problem.message for problem in command.problems}
    assert said == {
        field: f"is not supported: the worker has no {setting}" for field, setting in wanted.items()
    }
    assert not isinstance(read_commands(task, "m", asked, VAULT)[0], InvalidCommand)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({}, ["token"]),
        ({"card_id": "a", "token": "b"}, ["token"]),
        ({"token": ""}, ["token"]),
        ({"token": "x" * 256}, ["token"]),
        ({"token": 4711}, ["token"]),
        ({"card_id": "a", "pin": 4711}, ["pin"]),
        ({"card_id": "a", "pin": "4711", "dry_run": True}, ["pin"]),
    ],
)
def test_a_token_and_a_pin_are_text_and_name_one_card(
    fields: dict[str, Any], wrong: list[str]
) -> None:
    asked = {"account_id": ACCOUNT, **PAYMENT, **fields}
    (command,) = read_commands("transactions.create", "m", asked, VAULT)
    assert isinstance(command, InvalidCommand)
    assert [problem.field for problem in command.problems] == wrong


@pytest.mark.parametrize(
    "seal_to",
    [[], ["age1"], [OWNER.recipient] * 2, "age1", [OWNER.identity], [OWNER.recipient, 5]],
)
def test_who_may_open_is_a_list_of_recipients(seal_to: Any) -> None:
    asked = {**GOOD, **MAKES_TOKEN, "seal_to": seal_to}
    (command,) = read_commands("cards.create", "m", asked, VAULT)
    assert isinstance(command, InvalidCommand)
    assert {problem.field.partition(".")[0] for problem in command.problems} == {"seal_to"}
    assert OWNER.identity not in str(command)


@pytest.mark.parametrize("field", ["count", "card_id_pattern", "options", "needs_approval"])
def test_a_batch_s_fields_are_what_they_are_to_be(field: str) -> None:
    asked = {"account_id": ACCOUNT, "cards": [{"card_id": "a"}], field: [1]}
    (command,) = read_commands("cards.batch_create", "m", asked)
    assert isinstance(command, InvalidCommand)
    assert [problem.field for problem in command.problems] == [field]


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({}, {"cards": "give either"}),
        ({"count": 5}, {"card_id_pattern": "is required with count"}),
        ({"card_id_pattern": "A{n}"}, {"card_id_pattern": "requires count"}),
        (
            {"cards": [{"card_id": "a"}], "count": 5, "card_id_pattern": "A{n}"},
            {"cards": "give either"},
        ),
        (
            {"count": 5, "card_id_pattern": f"{'A' * 252}{{n}}"},
            {},
        ),
        (
            {"count": 500, "card_id_pattern": f"{'A' * 252}{{n}}"},
            {},
        ),
        (
            {"count": 5000, "card_id_pattern": f"{'A' * 252}{{n}}"},
            {"card_id_pattern": "makes card_ids of more"},
        ),
        (
            {"count": 5, "card_id_pattern": "A\0{n}"},
            {"card_id_pattern": "must not contain control"},
        ),
        (
            {"count": 5, "card_id_pattern": " {n}"},
            {"card_id_pattern": "must not begin or end with a space"},
        ),
        (
            {"count": 5, "card_id_pattern": "A{n}", "seal_pins_to": [OWNER.recipient]},
            {"seal_pins_to": "is only allowed with options.pin"},
        ),
    ],
)
def test_an_order_is_a_list_or_a_pattern(fields: dict[str, Any], wrong: dict[str, str]) -> None:
    (command,) = read_commands("cards.batch_create", "m", {"account_id": ACCOUNT, **fields})
    problems = command.problems if isinstance(command, InvalidCommand) else ()
    found = {problem.field: problem.message for problem in problems}
    assert found.keys() == wrong.keys()
    assert all(found[field].startswith(text) for field, text in wrong.items())


def test_no_answer_repeats_what_was_sent() -> None:
    command = read(card_id="marker " * 40, amount="marker", unknown="marker")
    assert isinstance(command, InvalidCommand)
    assert "marker" not in json.dumps([problem.message for problem in command.problems])


def test_a_command_of_more_than_64_kib_is_refused_but_a_listed_batch_may_be_longer() -> None:
    assert isinstance(read(name="x" * 65_536), InvalidCommand)
    cards = [{"card_id": f"{number:0200}"} for number in range(1000)]
    (batch,) = read_commands("cards.batch_create", "m", {"account_id": ACCOUNT, "cards": cards})
    assert not isinstance(batch, InvalidCommand | UnreadableItem)


def test_a_time_is_brought_to_utc_and_cut_to_milliseconds() -> None:
    command = read(expires_at="2030-01-01T00:00:00.123999+01:00")
    assert isinstance(command, ActivateCard)
    assert command.expires_at == datetime(2029, 12, 31, 23, 0, 0, 123000, tzinfo=UTC)
    assert '"2029-12-31T23:00:00.123Z"' in command.model_dump_json()


def test_a_python_producer_may_pass_a_uuid() -> None:
    given = UUID(int=7)
    assert read(command_id=given).command_id == str(given)


def test_a_list_keeps_its_order_and_what_cannot_be_read_in_it_stands_alone() -> None:
    parts: list[Any] = [
        {"command": "cards.activate", "command_id": "a", **GOOD},
        "?",
        {"command": "nobody.knows", **GOOD},
        {"command": "cards.activate", **GOOD},
        {"command": "cards.create", "command_id": "e", **GOOD},
    ]
    first, second, third, fourth, fifth = read_commands("commands.apply", "m", {"commands": parts})
    assert isinstance(first, ActivateCard)
    assert isinstance(second, UnreadableItem)
    assert (second.index, second.item) == (1, "?")
    assert isinstance(third, UnreadableItem)
    assert isinstance(fourth, InvalidCommand)
    assert (fourth.command_id, fourth.problems[0].field) == ("m:3", "command_id")
    assert isinstance(fifth, CreateCard)


@pytest.mark.parametrize(
    "kwargs", [{}, {"commands": []}, {"commands": [{}] * 1001}, {"commands": "x"}, {"x": 1}]
)
def test_a_list_must_be_one_of_1_to_1000(kwargs: dict[str, Any]) -> None:
    with pytest.raises(Unreadable, match=r"^command_list_invalid"):
        read_commands("commands.apply", "m", kwargs)


@pytest.mark.parametrize(
    "account_id",
    [
        *(..., None, 5, "", [], "nobody", "X12345678", "P1234567", "P123456789", "p12345678"),
        *("../../etc", "T00000001/x", "T00000001\n", " T00000001", "T0000000\u0661", "\x1b[31m"),
    ],
)
def test_without_an_account_nobody_can_be_answered(account_id: object) -> None:
    with pytest.raises(Unreadable, match="account_id"):
        read(account_id=account_id)


def test_the_same_content_has_the_same_digest_however_it_is_written() -> None:
    one = read(metadata={"a": 1, "b": {"d": 1, "c": 2}}, expires_at="2030-01-01T00:00:00Z")
    two = read(metadata={"b": {"c": 2, "d": 1}, "a": 1}, expires_at="2030-01-01T01:00:00+01:00")
    assert digest_of(one) == digest_of(two)
    assert digest_of(one) != digest_of(read())


def test_digests_and_keys_stay_what_they_are() -> None:
    # A change here makes commands that were handled look new after an upgrade.
    assert read().key == "id/message-1"
    assert read(dry_run=True).key == "dry/id/message-1"
    assert digest_of(read())[:16] == "92d7717be4beebd4"


def message(**changed: Any) -> dict[str, Any]:
    headers: dict[str, Any] = {
        "lang": "py",
        "task": "cards.activate",
        "id": "m",
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "retries": 0,
        "timelimit": [None, None],
        "stamps": {},
        "ignore_result": False,
    }
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    good = {
        "headers": headers,
        "body": json.dumps([[], GOOD, embed]),
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "tasks": TASKS,
    }
    said = {name: value for name, value in changed.items() if name not in good}
    return {**good, **changed, "headers": changed.get("headers", {**headers, **said})}


def vet_message(**changed: Any) -> None:
    named = message(**changed)
    wanted = ("headers", "body", "content_type", "content_encoding", "tasks")
    parts = {name: named[name] for name in wanted}
    read_envelope(parts.pop("headers"), parts.pop("body"), **parts)


def test_what_a_stock_client_sends_may_pass() -> None:
    vet_message()
    vet_message(body=json.dumps([[], GOOD, {}]).encode())
    vet_message(body=json.dumps([[], GOOD, None]))


@pytest.mark.parametrize(
    "changed",
    [
        {"task": "nobody.knows"},
        {"task": None},
        {"id": None},
        {"id": "x" * 65},
        {"headers": None},
        {"headers": {}},
        {"headers": {"id": "m"}},
        {"content_type": "application/x-python-serialize"},
        {"content_type": None},
        {"content_encoding": "binary"},
        *(
            {"body": body}
            for body in (
                b"",
                b"?",
                b"\xff\xfe",
                "null",
                "{}",
                "[]",
                "[[], {}]",
                "[{}, {}, {}]",
                '[[], {"a": NaN}, {}]',
                '[[], {"a": 1, "a": 2}, {}]',
                '[[], {"a": ' + "1" * 5000 + "}, {}]",
                "[" * 100_000,
                '[[], {"a": "' + "x" * 1_048_576 + '"}, {}]',
            )
        ),
    ],
    ids=lambda changed: str(changed)[:40],
)
def test_what_cannot_be_read_may_not_pass(
    changed: dict[str, Any],
) -> None:
    with pytest.raises(Unreadable):
        vet_message(**changed)
