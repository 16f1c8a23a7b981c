"""Whatever is done to a message: it is read, or it is unreadable. There is no third."""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from card_worker import transport
from card_worker.contracts.commands import APPLY, COMMANDS, SWEEPS
from card_worker.contracts.dead_letters import Unreadable
from card_worker.contracts.envelope import decompressed, read_envelope
from card_worker.contracts.message import read_commands
from card_worker.transport.envelope import payload
from tests.transport.corpus import CORPUS, LEGAL
from tests.transport.entries import fields, listed, message, nested, part

TASKS = frozenset([*COMMANDS, APPLY, *SWEEPS])
EXAMPLES = 1_000

Place: TypeAlias = tuple[Any, Any]
"""An object or a list, and a key or an index of it."""
Change: TypeAlias = tuple[str, int, Any]
"""What to do, at which of the places, with what."""


class NoChannel:
    decode_body = transport.Channel.decode_body
    codecs = transport.Channel.codecs
    strict = True


def read(raw: bytes) -> dict[str, Any]:
    """Return the keyword arguments of what lies on a list. Raises Unreadable."""
    channel: Any = NoChannel()
    came = transport.Message(payload(raw, "tag", "cards", strict=True), channel=channel)
    assert not came.errors
    body = came.body
    if compression := came.headers.get("compression"):
        body = decompressed(body, compression)
    call = read_envelope(
        came.headers,
        body,
        content_type=came.content_type,
        content_encoding=came.content_encoding,
        tasks=TASKS,
    )
    task, message_id = came.headers["task"], came.headers["id"]
    if task not in SWEEPS:
        assert read_commands(task, message_id, call.kwargs, conditions=call.conditions)
    return call.kwargs


def read_or_not(raw: bytes) -> dict[str, Any] | None:
    try:
        return read(raw)
    except Unreadable:
        return None


# --- changes to what a message says -----------------------------------------------------------

ODD_TEXTS = ["", "x", "\x00", "\ud800", "\u202e", "x" * 70_000, "NaN", "null", "-1", "utf-16"]
ODD_NUMBERS = [0, -1, 2**53, 2**63, 10**400, 1e300, float("nan"), float("inf")]
TELLING = ["eta", "expires", "chain", "callbacks", "task", "id", "self", "account_id", "commands"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.sampled_from(ODD_TEXTS + ODD_NUMBERS + TELLING) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(TELLING) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
CHANGES = st.tuples(
    st.sampled_from(["replace", "remove", "add", "wrap", "swap"]), st.integers(0, 10_000), VALUES
)


def changed(envelope: dict[str, Any], changes: list[Change]) -> bytes:
    """Return a message with changes anywhere in it, its body among them."""
    envelope["body"] = json.loads(base64.b64decode(envelope["body"]))
    root: dict[str, Any] = {"": envelope}
    for change in changes:
        _change(root, *change)
    read = root[""]
    if isinstance(read, dict) and not isinstance(read.get("body"), str | None):
        body = json.dumps(read["body"]).encode()
        read = {**read, "body": base64.b64encode(body).decode()}
    return json.dumps(read).encode()


def _change(root: Any, what: str, at: int, value: Any) -> None:
    places = list(_places(root))
    within, key = places[at % len(places)]
    match what:
        case "replace":
            within[key] = value
        case "remove" if within is not root:
            del within[key]
        case "add" if isinstance(within[key], dict):
            within[key][TELLING[at % len(TELLING)]] = value
        case "wrap":
            within[key] = [within[key]] if at % 2 else {"wrapped": within[key]}
        case "swap":
            other, other_key = places[at * 7 % len(places)]
            # A copy, since nothing may come to lie within itself.
            within[key] = json.loads(json.dumps(other[other_key]))


def _places(value: Any) -> Iterator[Place]:
    keys = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


# --- changes to the bytes it is written in ----------------------------------------------------

WEDGES = [b"", b"\x00", b"\xff", b"\xed\xa0\x80", b" ", b'"', b"{", b"]", b"NaN", b"9" * 5_000]
WEDGES += [nested(100_000).encode(), b'"eta": 1, ', b"\xef\xbb\xbf", b"\\ud800", b"//"]
CUTS = st.tuples(st.integers(0, 10_000), st.integers(0, 60), st.sampled_from(WEDGES))


def cut(raw: bytes, at: int, size: int, wedge: bytes) -> bytes:
    """Return `raw` with some of its bytes replaced by others."""
    at %= len(raw) + 1
    return raw[:at] + wedge + raw[at + size :]


def cut_within(raw: bytes, at: int, size: int, wedge: bytes) -> bytes:
    """Return a message with some bytes of its body replaced by others."""
    envelope = json.loads(raw)
    body = cut(base64.b64decode(envelope["body"]), at, size, wedge)
    return json.dumps(envelope | {"body": base64.b64encode(body).decode()}).encode()


GOOD = {
    "a command": message("a command"),
    "a list": listed("a list", [part("a list"), part("another", metadata={"a": [1, {}]})]),
    "a batch": message(
        "a batch",
        json.dumps([[], {**fields("a batch"), "cards": [{"card_id": "x"}]}, {}]).encode(),
        task="cards.batch_create",
    ),
    "a sweep": message("a sweep", b"[[], {}, {}]", task=SWEEPS[0]),
}


@settings(derandomize=True, max_examples=EXAMPLES, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.lists(CHANGES, min_size=1, max_size=4))
def test_a_message_that_says_something_else_is_read_or_unreadable(
    name: str, changes: list[Change]
) -> None:
    read_or_not(changed(json.loads(GOOD[name]), changes))


@settings(derandomize=True, max_examples=EXAMPLES, deadline=None)
@given(
    st.sampled_from(sorted(GOOD)),
    st.lists(st.tuples(st.sampled_from([cut, cut_within]), CUTS), min_size=1, max_size=2),
)
@example("a command", [(cut, (0, 0, nested(100_000).encode()))])
@example("a command", [(cut_within, (5, 0, nested(100_000).encode()))])
def test_a_message_that_is_written_wrong_is_read_or_unreadable(
    name: str, cuts: list[tuple[Callable[..., bytes], tuple[int, int, bytes]]]
) -> None:
    raw = GOOD[name]
    # Inside first: after the first cut outside it may be no message any more.
    for how, where in sorted(cuts, key=lambda one: one[0] is cut):
        raw = how(raw, *where)
    read_or_not(raw)


@pytest.mark.parametrize("name", GOOD)
def test_a_message_that_nothing_is_done_to_is_read(name: str) -> None:
    assert read_or_not(changed(json.loads(GOOD[name]), [])) is not None
    assert read_or_not(GOOD[name]) is not None


def test_every_entry_is_read_or_unreadable() -> None:
    for entry in CORPUS.values():
        read_or_not(entry.write())


@pytest.mark.parametrize("name", LEGAL)
def test_what_only_looks_odd_is_read(name: str) -> None:
    assert read_or_not(LEGAL[name].write()) is not None
