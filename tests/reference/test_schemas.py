"""The JSON Schemas refuse what the models refuse, but for what no schema can say."""

import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError as Mismatch
from jsonschema.validators import extend
from pydantic import ValidationError

from card_worker.contracts.commands import COMMANDS
from card_worker.contracts.message import problems_of
from card_worker.contracts.queries import QUERIES
from card_worker.reference.schemas import command_schema
from tests.codes import SEAL_TO, VAULT
from tests.contracts.test_digests import GOOD, OTHER

DOCUMENTS = 500
KINDS = COMMANDS | QUERIES
ASKED = {"account_id": "T00000001"}
FINE: dict[str, dict[str, Any]] = {
    **GOOD,
    "cards.get": {"card_id": "card-01"},
    "transactions.list": {"card_id": "card-01", "limit": 5, "cursor": "17"},
    "batches.get": {"batch_id": "batch-1"},
    "cards.list": {"status": "used", "available_min": 0, "limit": 5, "cursor": "card-01"},
}
ALSO_FINE: list[tuple[str, dict[str, Any]]] = [
    ("cards.batch_create", {"count": 3, "card_id_pattern": "JUL26-{n:08d}{luhn}", "cards": None}),
    ("cards.batch_create", {"count": 3, "card_id_pattern": "{n}", "options": {"pin": {}}}),
    ("cards.batch_create", {**GOOD["cards.batch_create"], "count": None, "options": {}}),
    ("cards.update", {"card_id": "card-01", "metadata": None}),
    ("cards.update", {"card_id": "card-01", "customer_id": None, "name": None}),
    ("cards.adjust", {**GOOD["cards.adjust"], "amount": 5, "funding": "compensation"}),
    ("cards.adjust", {**GOOD["cards.adjust"], "amount": -5, "funding": "sold"}),
    ("transactions.create", {"card_id": "card-01", "type": "fund", "funding": "promotional"}),
    ("cards.list", {}),
    ("transactions.create", {"token": "DINCARD:1", "pin": "4711", "card_id": None}),
    ("transactions.create", {"card_id": "card-01", "hold_expires_in": 60, "pending": True}),
    ("transactions.create", {"card_id": "card-01", "type": "fund"}),
    ("cards.get", {"token": "DINCARD:1", "pin": "4711"}),
    ("tokens.create", {**GOOD["tokens.create"], "format": {"prefix": "GC", "length": 20}}),
]
MOVED = {"amount": 500, "currency": "NOK", "ref_id": "r"}

# What a field is changed to, whichever it is.
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 5, 5.0, 1.5, 2**31, 2**53, 2**63, 2**64, -(2**53), 10_000_001),
    *("", " ", "a", " a", "a ", "a\n", "a\tb", "a\u0000b", "\u200b", "\u00a0", "\u202e", "\ue000"),
    *("=1", "a;-1", "x" * 64, "x" * 65, "x" * 255, "x" * 256, "5", "true", "NOK", "nok", "fund"),
    *("T00000001", "T00000001\n", "T0000000\u0661", "X00000001", "gift_card", "drawdown"),
    *("2030-01-01T00:00:00Z", "2030-02-30T00:00:00Z", "2030-13-01T00:00:00Z", "2030-01-01"),
    *("2030-01-01T00:00:00", "0001-01-01T00:00:00+01:00", "0000-01-01T00:00:00Z"),
    *("2030-01-01t00:00:00.5z", "2030-01-01T24:00:00Z", "2030-01-01T00:00:00+24:00"),
    *("8d1b8c4c-7f0f-5f57-9d5b-0d4f6c1f5a5e", "8D1B8C4C-7F0F-5F57-9D5B-0D4F6C1F5A5E", "8d1b8c4c"),
    *("{n}", "a{n:08d}", "a{n:018d}", "a{n:019d}", "a{n:00d}", "{n}{n}", "{luhn}{n}", "{n}{luhn}"),
    *("-{n}", "a{x}{n}", "x" * 250 + "{n}", "-----BEGIN AGE ENCRYPTED FILE-----" + "x" * 300),
    *([], {}, [1], ["a"], {"a": 1}, {"dintero_x": 1}, {"dintero_transaction_id": 1}),
    *({"a\u0000": 1}, {"a": "\u0000"}, {"a": [[[[[[[[1]]]]]]]]}, {"a": "x" * 17_000}, {"a": 1.5}),
    *([{"card_id": "a"}], [{"card_id": "a"}, {"card_id": "b", "type": "credit_note"}]),
    *([{"card_id": " a"}], [{"card_id": "=1"}], [{}], [{"card_id": "a", "amount": 5}]),
    *(SEAL_TO["seal_to"], [*SEAL_TO["seal_to"], *SEAL_TO["seal_to"]], ["age1nonsense"]),
    *({"pin": {}}, {"pin": None}, {"format": {"length": 0}}, {"format": {"prefix": "=1"}}),
    *({"expires_in": 0}, {"expires_in": 60, "expires_after_transaction": None}, {"format": None}),
]

UNSAID = (
    "must be a whole number",  # 5.0 is 5 to a schema
    "must not contain control, formatting or invisible characters",  # needs tables of Unicode
    "must be a date and time that exists",  # 30 February
    "must be within the years 1 to 9999",  # in UTC
    "must not contain NUL",  # within metadata
    "must have at most 16384 bytes",
    "must have at most 8 levels",
    "must differ from card_id",
    "must not be less than first",
    "makes card_ids of more than 255 characters",  # with so many cards
    "not an age recipient",  # its checksum
    "is sealed, but ",  # to whom shows when it is opened
    "can't be opened",
)
"""What is refused beyond the schema. Each of these stands in a description."""
UNREFUSED = {"cards": "maxItems", "count": "maximum"}
"""What a schema refuses, and a model leaves to the rules, which have another reason for it."""


def _ecma(validator: Any, pattern: str, text: object, _: object) -> Iterator[Mismatch]:
    # In Python `$` also stands before a line feed at the end.
    if isinstance(text, str) and re.search(pattern.replace("$", r"\Z"), text) is None:
        yield Mismatch(f"{text!r} does not match {pattern!r}")


Validator: Any = extend(Draft202012Validator, {"pattern": _ecma})  # type: ignore[no-untyped-call]


@cache
def schema_of(task: str) -> Any:
    schema = command_schema(task)
    Validator.check_schema(schema)
    return Validator(schema)


def fine(chance: random.Random) -> tuple[str, dict[str, Any]]:
    """Return a document that both accept."""
    if chance.random() < 0.25:
        task, fields = chance.choice(ALSO_FINE)
        return task, {**ASKED, **(MOVED if task == "transactions.create" else {}), **fields}
    task = chance.choice(list(FINE))
    return task, {**ASKED, **FINE[task]}


def changed(chance: random.Random, task: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields with one of them left out, set to another value, or made up."""
    made, names = dict(fields), list(KINDS[task].model_fields)
    names = [name for name in names if name not in ("command", "producer")]
    name, what = chance.choice(names), chance.random()
    if what < 0.1:
        made.pop(name, None)
    elif what < 0.13:
        made["unknown"] = 5
    elif what < 0.4 and name in OTHER:
        made[name] = OTHER[name]
    else:
        made[name] = chance.choice(VALUES)
    return made


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    chance = random.Random(5)
    for number in range(DOCUMENTS):
        task, fields = fine(chance)
        for _ in range(number % 4):
            fields = changed(chance, task, fields)
        yield task, json.loads(json.dumps(fields))


def problems(task: str, fields: dict[str, Any]) -> list[str]:
    """Return why a model refuses a document, as its sender is told."""
    try:
        KINDS[task].model_validate({"command_id": "c", **fields}, context=VAULT)
    except ValidationError as error:
        return [problem.message for problem in problems_of(error)]
    return []


def keywords(errors: Iterator[Mismatch]) -> Iterator[tuple[str, str]]:
    """Yield which field is refused by which keyword, in whatever alternative."""
    for error in errors:
        if error.context:
            yield from keywords(iter(error.context))
        else:
            yield str(error.absolute_path[0]) if error.absolute_path else "", str(error.validator)


@pytest.mark.parametrize("task", list(KINDS))
def test_every_good_document_is_accepted_by_both(task: str) -> None:
    for named, fields in [(task, FINE[task]), *ALSO_FINE]:
        if named == task:
            filled = {**ASKED, **(MOVED if task == "transactions.create" else {}), **fields}
            assert problems(task, filled) == []
            assert list(schema_of(task).iter_errors(filled)) == []


def test_models_and_schemas_agree() -> None:
    seen = Counter[tuple[bool, bool]]()
    for task, fields in documents():
        said, mismatches = problems(task, fields), list(schema_of(task).iter_errors(fields))
        seen[bool(said), bool(mismatches)] += 1
        if said and not mismatches:
            assert [text for text in said if not _is_unsaid(text)] == [], (task, fields)
        if mismatches and not said:
            found = set(keywords(iter(mismatches)))
            assert found & set(UNREFUSED.items()), (task, fields, found)
    assert seen[True, True] > 150
    assert seen[False, False] > 150
    assert seen[True, False] + seen[False, True] < 50


def _is_unsaid(text: str) -> bool:
    return any(unsaid in text for unsaid in UNSAID)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    *(("cards.expire", {"card_id": name}) for name in (" a", "a ", "a\n", "", "x" * 256, 5, True)),
    ("cards.batch_create", {"cards": [{"card_id": "a"}], "count": 5, "card_id_pattern": "{n}"}),
    ("cards.batch_create", {"cards": [{"card_id": "a"}], "card_id_pattern": "{n}"}),
    *(("cards.batch_create", one) for one in ({}, {"count": 5}, {"card_id_pattern": "{n}"})),
    ("cards.batch_create", {"count": 5, "card_id_pattern": "no number"}),
    ("cards.batch_create", {**GOOD["cards.batch_create"], **{"seal_pins_to": SEAL_TO["seal_to"]}}),
    ("cards.update", {"card_id": "a"}),
    ("cards.adjust", {**GOOD["cards.adjust"], "amount": 0}),
    *(("cards.create", {**GOOD["cards.create"], "amount": one}) for one in (1.5, "5", True, None)),
    *(("cards.create", {**GOOD["cards.create"], "expires_at": one}) for one in ("2030-01-01", "x")),
    ("cards.create", {**GOOD["cards.create"], "metadata": {"dintero_x": 1}}),
    ("holds.expire", {"transaction_id": "8d1b8c4c"}),
    ("cards.get", {}),
    ("cards.get", {"card_id": "a", "token": "b"}),
    ("cards.get", {"token": "b", "pin": "c", "dry_run": True}),
    ("transactions.create", {**MOVED, "card_id": "a", "type": "fund", "pending": True}),
    ("transactions.create", {**MOVED, "card_id": "a", "hold_expires_in": 5}),
]


@pytest.mark.parametrize(("task", "fields"), REFUSED)
def test_what_a_schema_can_say_it_says(task: str, fields: dict[str, Any]) -> None:
    assert problems(task, {**ASKED, **fields}) != []
    assert list(schema_of(task).iter_errors({**ASKED, **fields})) != []
