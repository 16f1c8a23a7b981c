"""Formulas: nothing that a spreadsheet takes for one comes to stand in a file of codes."""

import re
from typing import Any

import pytest

from card_worker.contracts.commands import Command, InvalidCommand
from card_worker.contracts.message import UnreadableItem, read_commands
from card_worker.contracts.text import read_id
from card_worker.secrets.formats import FORMULA, FORMULA_PATTERN, is_formula
from tests.codes import SEAL_TO, VAULT

FORMULAS = ["=1+1", "+47", "-1", "@SUM(A1)", "=", "a;=1", "a;b;-1", ";@x", "\uff1d1", "\uff20a"]
NAMES = ["a=1", "1+1", "JUL26-01", "kari@example.com", "a;b", "a;", "1", "#1", "'=1", "a; -1"]
MADE = {"account_id": "T00000001", "command_id": "c", **SEAL_TO}
LOAD = {"card_id": "card-1", "amount": 500, "currency": "NOK"}


def read(task: str, **fields: Any) -> Command:
    (command,) = read_commands(task, "m", {**MADE, **fields}, VAULT)
    assert not isinstance(command, UnreadableItem)
    return command


def problems(command: Command) -> dict[str, str]:
    if not isinstance(command, InvalidCommand):
        return {}
    return {problem.field: problem.message for problem in command.problems}


def token(prefix: str) -> dict[str, Any]:
    return {"format": {"prefix": prefix}}


CELLS: dict[str, tuple[str, str, Any]] = {
    "a listed card": ("cards.batch_create", "cards", lambda x: [{"card_id": "a"}, {"card_id": x}]),
    "a new token's card": ("tokens.create", "card_id", lambda x: x),
    "a new PIN's card": ("cards.rotate_pin", "card_id", lambda x: x),
}
FIELDS: dict[str, dict[str, Any]] = {
    "tokens.create": {"card_id": "a", "ref_id": "r", "expires_in": 60},
    "cards.rotate_pin": {"card_id": "a", "pin": {}},
    "cards.batch_create": {"cards": [{"card_id": "a"}]},
    "cards.create": LOAD,
}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", FORMULAS)
def test_no_card_with_codes_has_such_a_name(cell: str, name: str) -> None:
    task, field, value = CELLS[cell]
    wrong = problems(read(task, **{**FIELDS[task], field: value(name)}))
    assert wrong == {"cards.1.card_id" if field == "cards" else field: FORMULA}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", NAMES)
def test_other_names_may_have_these_characters(cell: str, name: str) -> None:
    task, field, value = CELLS[cell]
    assert problems(read(task, **{**FIELDS[task], field: value(name)})) == {}


@pytest.mark.parametrize(
    ("pattern", "is_refused"),
    [
        *((f"{begin}{{n}}", True) for begin in FORMULAS),
        *(("{n};=1", True), ("-{n}{luhn}", True)),
        *((f"{begin}{{n}}", False) for begin in NAMES),
        *(("{n}=1", False), ("{n}-{luhn}", False), ("a;{n}", False)),
    ],
)
def test_no_pattern_makes_such_names(pattern: str, *, is_refused: bool) -> None:
    wrong = problems(read("cards.batch_create", count=5, card_id_pattern=pattern))
    assert wrong == ({"card_id_pattern": FORMULA} if is_refused else {})


@pytest.mark.parametrize(
    ("task", "field", "fields"),
    [
        ("cards.create", "card_token.format.prefix", lambda x: {"card_token": token(x)}),
        ("tokens.create", "format.prefix", token),
        (
            "cards.batch_create",
            "options.card_token.format.prefix",
            lambda x: {"options": {"card_token": token(x)}},
        ),
    ],
)
def test_no_token_begins_so(task: str, field: str, fields: Any) -> None:
    for prefix in (text for text in FORMULAS if text.isascii()):
        assert problems(read(task, **FIELDS[task], **fields(prefix))) == {field: FORMULA}
    for prefix in ("", "GC-", "a=", "#+", "a;b"):
        assert problems(read(task, **FIELDS[task], **fields(prefix))) == {}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_card_without_codes_may_be_called_so(name: str) -> None:
    assert problems(read("cards.create", **{**LOAD, "card_id": name}, seal_to=None)) == {}


@pytest.mark.parametrize("name", ["\t=1", "\r=1", "a\n=1"])
def test_a_name_with_a_tab_or_a_line_feed_is_no_name_at_all(name: str) -> None:
    with pytest.raises(ValueError, match="control"):
        read_id(name)


@pytest.mark.parametrize("text", [*FORMULAS, *NAMES])
def test_the_schema_says_the_same(text: str) -> None:
    assert bool(re.search(FORMULA_PATTERN, text)) == is_formula(text) == (text in FORMULAS)
