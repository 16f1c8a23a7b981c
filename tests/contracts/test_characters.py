"""Characters: which of them an id may have, and which a text for people."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from card_worker.contracts.commands import COMMANDS, Command, InvalidCommand
from card_worker.contracts.message import UnreadableItem, read_commands
from card_worker.contracts.text import ID_SCHEMA, TEXT_SCHEMA, read_id
from card_worker.reference.schemas import command_schema
from tests.codes import VAULT
from tests.contracts.test_digests import GOOD

NO_ID = {
    "line feed": "a\nb",
    "tab": "a\tb",
    "delete": "a\x7f",
    "C1 control": "a\x85b",
    "byte order mark in front": "\ufeffcard-1",
    "only a zero-width space": "\u200b",
    "zero-width joiner": "a\u200db",
    "soft hyphen": "a\u00adb",
    "right-to-left override": "a\u202eb",
    "isolate": "\u2066a",
    "Arabic letter mark": "a\u061cb",
    "a tag": "a\U000e0041",
    "line separator": "a\u2028b",
    "paragraph separator": "a\u2029b",
    "no-break space": "a\u00a0b",
    "ideographic space": "a\u3000b",
    "private use": "\ue000",
    "private use of another plane": "a\U000f0000",
    "half a surrogate pair": "\ud800",
    "unassigned": "a\u0378",
    "noncharacter": "a\ufffe",
    "filler": "\u3164",
    "blank": "\u2800",
    "variation selector": "a\ufe0f",
    "space in front": " a",
    "space behind": "a ",
    "only a space": " ",
}
ALSO_NO_TEXT = (
    *("line feed", "tab", "delete", "C1 control", "right-to-left override", "isolate"),
    *("Arabic letter mark", "line separator", "paragraph separator", "half a surrogate pair"),
)
GOOD_IDS = ["a b", "kort-æøå", "卡", "e\u0301", "😀", "#%/\\'\"", "x" * 255]
GOOD_TEXTS = [
    "",
    " ",
    "Kari ",
    "a\u00a0b",
    "❤\ufe0f",
    "👩\u200d👧",
    "\u0645\u06cc\u200c\u062e",
    "\U0001fae8",
]
NO_TEXTS = [NO_ID[name] for name in ALSO_NO_TEXT] + ["\x1b[31m", "\u200e", "a\u200f", "\x00", "\r"]


def fields(pattern: str) -> list[tuple[str, str]]:
    """Return the commands' fields, each once, whose schema has this pattern."""
    found: dict[str, str] = {}
    for task in COMMANDS:
        for name, field in command_schema(task)["properties"].items():
            if pattern in [kind.get("pattern") for kind in (field, *field.get("anyOf", ()))]:
                found.setdefault(name, task)
    return [(task, name) for name, task in found.items()]


IDS, TEXTS = fields(str(ID_SCHEMA["pattern"])), fields(TEXT_SCHEMA["pattern"])


def read(task: str, field: str, value: str) -> Command:
    request = {"account_id": "T00000001", "command_id": "c", **GOOD[task]}
    if field == "card_id_pattern":
        request |= {"cards": None, "count": 5}
        value += "{n}x"
    (command,) = read_commands(task, "m", {**request, field: value}, VAULT)
    assert not isinstance(command, UnreadableItem)
    return command


def refused(command: Command) -> list[str]:
    """Return the fields that are named as problems."""
    if not isinstance(command, InvalidCommand):
        return []
    return [problem.field for problem in command.problems]


def test_every_field_is_looked_at() -> None:
    assert {name for _, name in IDS} == {
        *("command_id", "card_id", "new_card_id", "to_card_id", "batch_id", "card_id_pattern"),
        *("ref_id", "customer_id", "originated_by"),
    }
    assert {name for _, name in TEXTS} == {"name", "reason", "created_by"}


@pytest.mark.parametrize(("task", "field"), IDS)
@pytest.mark.parametrize("value", NO_ID.values(), ids=NO_ID)
def test_what_cannot_be_seen_is_no_id(task: str, field: str, value: str) -> None:
    if field == "card_id_pattern" and value == NO_ID["space behind"]:
        value = "a {n}b "
    command = read(task, field, value)
    assert refused(command) == [field]
    # Nor is it repeated in the answer.
    assert value not in (command.command_id, getattr(command, "card_id", None))


@pytest.mark.parametrize(("task", "field"), IDS)
@pytest.mark.parametrize("value", GOOD_IDS)
def test_what_is_visible_is_an_id(task: str, field: str, value: str) -> None:
    chars_max = {"command_id": 64, "card_id_pattern": 251}.get(field, 255)
    assert refused(read(task, field, value[:chars_max])) == []


@pytest.mark.parametrize("value", NO_ID.values(), ids=NO_ID)
def test_no_card_of_a_list_has_such_a_name(value: str) -> None:
    request = {"account_id": "T00000001", "cards": [{"card_id": "a"}, {"card_id": value}]}
    (command,) = read_commands("cards.batch_create", "m", request)
    assert not isinstance(command, UnreadableItem)
    assert refused(command) == ["cards.1.card_id"]


@pytest.mark.parametrize(("task", "field"), TEXTS)
@pytest.mark.parametrize("value", NO_TEXTS, ids=repr)
def test_a_text_is_one_line_that_runs_one_way(task: str, field: str, value: str) -> None:
    assert refused(read(task, field, value)) == [field]


@pytest.mark.parametrize(("task", "field"), TEXTS)
@pytest.mark.parametrize("value", GOOD_TEXTS, ids=repr)
def test_a_text_may_have_all_other_characters(task: str, field: str, value: str) -> None:
    wrong = ["reason"] if field == "reason" and not value else []
    assert refused(read(task, field, value)) == wrong


def test_metadata_may_have_all_that_a_database_holds() -> None:
    free = {"a\nb\u202e\u200b ": "\ufeff\x1b[31m\ue000\u2028"}
    request = {"account_id": "T00000001", **GOOD["cards.create"], "metadata": free}
    (command,) = read_commands("cards.create", "m", request)
    assert not isinstance(command, InvalidCommand | UnreadableItem)


def is_id(text: str) -> bool:
    try:
        return read_id(text) == text
    except PydanticCustomError:
        return False


@given(st.characters(exclude_categories=["L", "M", "N", "P", "S"], exclude_characters=" "))
def test_ids_have_letters_marks_numbers_punctuation_and_symbols_only(char: str) -> None:
    assert not is_id(f"a{char}b")


@given(st.text(st.characters(categories=["Lu", "Ll", "N", "P", "Sm", "Sc"]), min_size=1))
def test_ids_are_written_in_any_language(text: str) -> None:
    assert is_id(text)


@given(st.text(min_size=1))
def test_the_schemas_refuse_no_good_id_and_say_all_about_ascii(text: str) -> None:
    pattern, ends = re.compile(str(ID_SCHEMA["pattern"])), re.compile("^ | $")
    fits = bool(pattern.fullmatch(text)) and not ends.search(text)
    assert fits or not is_id(text)
    if text.isascii():
        assert fits == is_id(text)
