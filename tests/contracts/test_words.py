"""No refusal shows how it was made: no Python, no class, no doubled braces."""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import card_worker
from card_worker.contracts.commands import APPLY, COMMANDS, InvalidCommand
from card_worker.contracts.dead_letters import Unreadable, explain
from card_worker.contracts.enums import TextEnum
from card_worker.contracts.message import UnreadableItem, read_commands, read_query
from card_worker.contracts.queries import QUERIES
from tests.codes import SEAL_TO, VAULT
from tests.contracts.test_digests import GOOD

ACCOUNT = {"account_id": "T00000001"}
PYTHON = re.compile(
    r"\{\{|\}\}"
    r"|<[A-Za-z]\w*[.: ]"  # the repr of a member, or of an object
    r"|\b(None|True|False|NoneType|Secret|Decimal|Undefined)\b"
    r"|\b(dict|dictionary|tuple|str|bool|int|float|bytes|instance|attribute|subclass|Enum)\b"
    r"|\b(?!KiB\b)[A-Z][a-z]+[A-Z]\w*"  # the name of a class
    r"|^(Value error|Assertion failed)"
    r"|\w+\(\)|__"
)
VALUES: list[Any] = [
    *(None, True, 0, -1, 1.5, 5.0, 2**64, -(2**64), float("nan"), "", " a", "a\n", "\ud800", "x"),
    *(
        "x" * 300,
        "=1",
        "5",
        "2030-13-01T00:00:00Z",
        "2030-01-01T00:00:00",
        "{n",
        "{n}{n}",
        "{x}{n}",
    ),
    *("{n:099d}", "-{n}", "8d1b8c4c", "age1x", "-----BEGIN AGE ENCRYPTED FILE-----x"),
    *([], [None], [5], ["a"], [[]], [{}], [{"card_id": 5}], [{"card_id": "a", "x": 1}], {}),
    *({"x": 1}, {5: 1}, {"dintero_x": 1}, {"a": "\x00"}, {"a": [[[[[[[[[1]]]]]]]]]}, {"a": {1}}),
    *({"format": 5}, {"format": {"length": 0, "prefix": " ", "barcode": "x", "symbols": 1}}),
    *({"pin": 5}, {"card_token": {"format": []}}, {"expires_in": "x"}, SEAL_TO["seal_to"] * 2),
    *(["age1x"] * 17, b"bytes", object(), {1, 2}, ("a",)),
]


def texts(task: str, fields: dict[str, Any]) -> Iterator[str]:
    """Yield what a sender is told of a command, or an operator where nobody can be."""
    asked = {**ACCOUNT, **fields}
    read: Sequence[object]
    try:
        if task in QUERIES:
            read = [read_query(task, "m", asked, VAULT)]
        else:
            read = read_commands(task, "m", asked, VAULT)
    except Unreadable as reason:
        yield str(reason)
        return
    for command in read:
        if isinstance(command, UnreadableItem):
            yield explain(command.reason, command.detail)
        elif isinstance(command, InvalidCommand):
            yield from (problem.message for problem in command.problems)


def odd(said: str) -> bool:
    return PYTHON.search(said) is not None or len(said.splitlines()) != 1


@pytest.mark.parametrize("task", [*COMMANDS, *QUERIES])
def test_no_field_of_any_command_is_refused_in_the_words_of_python(task: str) -> None:
    kind = COMMANDS.get(task) or QUERIES[task]
    fine = GOOD.get(task, {"card_id": "a"})
    said = {
        text
        for name in kind.model_fields
        for value in VALUES
        for text in texts(task, {**fine, name: value})
    }
    # Fields that depend on each other.
    both = {"cards": [{"card_id": "a"}], "card_id_pattern": "{n", "count": 5, "token": "a"}
    more = {"dry_run": True, "pin": "1", "type": "fund", "pending": True, "hold_expires_in": 5}
    known = {name: value for name, value in (both | more).items() if name in kind.model_fields}
    said |= {*texts(task, {**fine, **known}), *texts(task, {}), *texts(task, {"card_id": "a"})}
    assert len(said) > 5
    assert [text for text in said if odd(text)] == []


NAMES = sorted({name for kind in COMMANDS.values() for name in kind.model_fields})
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.sampled_from(list(COMMANDS)), st.dictionaries(st.sampled_from(NAMES), ANY_JSON))
def test_no_document_is_refused_in_the_words_of_python(task: str, fields: dict[str, Any]) -> None:
    assert [text for text in texts(task, {**GOOD[task], **fields, **ACCOUNT}) if odd(text)] == []


@pytest.mark.parametrize("part", [None, 5, "x", [], {}, {"command": None}, {"command": {"a": 1}}])
def test_no_part_of_a_list_is_refused_in_the_words_of_python(part: object) -> None:
    good = {"command": "cards.expire", "command_id": "c", **ACCOUNT, "card_id": "a"}
    (why,) = read_commands(APPLY, "m", {"commands": [good, part]})[1:]
    assert isinstance(why, UnreadableItem)
    assert not odd(explain(why.reason, why.detail))


TEXTS = [member.text for kind in TextEnum.__subclasses__() for member in kind]


def test_every_value_has_a_sentence_without_python_in_it() -> None:
    assert [text for text in TEXTS if odd(text)] == []
    assert [text for text in TEXTS if not text.endswith(".") or not re.match("[A-Z`]", text)] == []


REASONS = {"PydanticCustomError", "Problem", "Refused", "Unreadable", "NotJson", "ValueError"}


def constants() -> Iterator[tuple[str, str]]:
    """Yield all texts in the code that a refusal is made of, and where they stand."""
    for path in sorted(Path(card_worker.__path__[0]).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in REASONS:
                for part in ast.walk(node):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield f"{path.name}:{part.lineno}", part.value


def test_no_reason_in_the_code_has_doubled_braces() -> None:
    found = dict(constants())
    assert len(found) > 50
    assert [place for place, text in found.items() if "{{" in text or "}}" in text] == []


@pytest.mark.parametrize(
    "text",
    [
        "as {{n}}",
        "Input should be <TransactionType.DRAWDOWN: 'drawdown'>",
        "Input should be a valid dictionary or instance of BatchCard",
        "Value error, no",
        "command_unknown None",
        "two\nlines",
    ],
)
def test_what_is_odd_is_seen(text: str) -> None:
    assert odd(text)
