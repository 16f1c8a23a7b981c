"""Masking removes all secrets from messages that cannot be read, and nothing else."""

import base64
import json
import pickle
from typing import Any

import pytest

from card_worker.secrets.masking import (
    PIECE,
    masked,
    masked_body,
    masked_bytes,
    masked_text,
    without_secrets,
)
from card_worker.secrets.sealing import new_key_pair, read_recipients, seal_text

VALUE = "DINCARD:0f3c-Zx.~_8"
FIELDS = {"account_id": "T00000001", "token": VALUE, "pin": "47114712", "note": "token"}
JSON = json.dumps([[], FIELDS, {}]).encode()
CLEAR = [VALUE.encode(), b"47114712"]


@pytest.mark.parametrize(
    "raw",
    [
        JSON,
        json.dumps(FIELDS, indent=2).encode(),
        json.dumps({"a": [{"b": json.dumps(FIELDS)}]}).encode(),
        json.dumps(json.dumps(json.dumps(FIELDS))).encode(),
        repr(FIELDS).encode(),
        repr(list(FIELDS.items())).encode(),
        b"not json " + JSON[:-40],
        json.dumps({"TOKEN": VALUE, "Pin": "47114712"}).encode(),
        b'{"token":"' + VALUE.encode(),  # cut off within
        b'{"pin" : 47114712, "token" : "' + VALUE.encode() + b'"}',
        b'{"card_token": "' + VALUE.encode() + b'"}',
        JSON.decode().encode("utf-8") + b"\xff\xfe",
    ],
)
def test_secrets_are_masked_wherever_a_field_is(raw: bytes) -> None:
    kept = masked_bytes(raw)
    assert not [one for one in CLEAR if one in kept]
    assert b"***" in kept
    once_more = masked_bytes(base64.b64encode(raw))
    for inside in (once_more, base64.b64decode(once_more)):
        assert not [one for one in CLEAR if one in inside]


def test_the_base64_body_of_an_entry_is_masked() -> None:
    entry = json.dumps({"body": base64.b64encode(JSON).decode(), "headers": {"id": "1"}})
    for raw in (entry, entry[:180]):
        kept = masked_bytes(raw.encode())
        assert base64.b64encode(VALUE.encode())[4:-4] not in kept
        assert kept != raw.encode()
    body = json.loads(masked_text(entry))["body"]
    assert json.loads(base64.b64decode(body))[1]["token"] == "***"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b'{"account_id": "T00000001", "reason": "token lost", "pin": {"format": {"length": 4}}}',
        b'{"tokens": ["a"], "pinned": "x"}',
        b"A" * 100_000,
        b"\\" * 100_000,
        b'"token"' * 10_000,
        pickle.dumps({"a": 1}),
        bytes(range(256)),
        base64.b64encode(b"nothing to be seen here, move on"),
    ],
)
def test_content_without_secrets_is_unchanged(raw: bytes) -> None:
    assert masked_bytes(raw) == raw


def test_masked_json_keeps_its_structure() -> None:
    made: Any = {"kwargsrepr": repr(FIELDS), "l": [FIELDS], "pin": {"format": 1}, "n": None}
    kept = masked(made)
    assert kept["l"] == [FIELDS | {"token": "***", "pin": "***"}]
    assert kept["pin"] == {"format": 1}
    assert VALUE not in kept["kwargsrepr"]
    assert "T00000001" in kept["kwargsrepr"]


def test_sealed_values_are_not_masked() -> None:
    sealed = seal_text(read_recipients([new_key_pair().recipient]), VALUE)
    raw = json.dumps({"token": sealed, "pin": sealed}).encode()
    assert masked_bytes(raw) == raw
    assert masked_body(raw) == raw
    assert masked({"token": sealed}) == {"token": sealed}


def test_secret_fields_are_removed() -> None:
    assert without_secrets(FIELDS) == {"account_id": "T00000001", "note": "token"}
    assert without_secrets({"pin": {"value": "1"}, "Token": [1]}) == {}


@pytest.mark.parametrize(
    "kwargs",
    [
        {"token": [VALUE]},
        {"token": {"value": VALUE, "format": {"length": 16}}},
        {"pin": {"code": 47114712}},
        {"pin": [[47114712]]},
        {"signed": json.dumps({"token": [VALUE]})},
        {"signed": json.dumps({"commands": [{"pin": {"code": 47114712}}]})},
    ],
)
def test_a_secret_in_a_list_or_object_is_masked(kwargs: Any) -> None:
    kept = masked_body(json.dumps([[], kwargs, {}]).encode())
    assert not [one for one in CLEAR if one in kept]


def test_positional_arguments_are_masked_for_tasks_with_secrets() -> None:
    raw = json.dumps([[VALUE, [47114712]], {}, None]).encode()
    assert json.loads(masked_body(raw, "cards.get")) == [["***", ["***"]], {}, None]
    assert masked_body(raw, "cards.create") == raw
    old = {"task": "cards.get", "args": [VALUE], "kwargs": {"pin": "1"}}
    assert json.loads(masked_body(json.dumps(old).encode())) == {
        "task": "cards.get",
        "args": ["***"],
        "kwargs": {"pin": "***"},
    }
    headers = {"argsrepr": f"('{VALUE}',)", "kwargsrepr": "{}"}
    assert masked(headers, "cards.get") == {"argsrepr": "***", "kwargsrepr": "{}"}
    assert masked(headers | {"task": "cards.get"})["argsrepr"] == "***"
    assert masked(headers, "cards.create") == headers
    assert masked({"argsrepr": "()"}, "cards.get") == {"argsrepr": "()"}


def test_options_for_a_new_secret_are_not_masked() -> None:
    asked = {"card_token": {"format": {"prefix": "GC-"}, "expires_in": 5}, "pin": {"format": None}}
    raw = json.dumps([[], asked, {}]).encode()
    assert masked_body(raw) == raw


@pytest.mark.parametrize("before", [0, PIECE - 20, PIECE - 5, 3 * PIECE + 1])
def test_a_secret_in_very_large_content_is_masked(before: int) -> None:
    large = b" " * before + JSON + b" " * PIECE
    for raw in (large, b'"' + base64.b64encode(large) + b'"'):
        kept = masked_body(raw)
        assert kept != raw
        assert not [one for one in CLEAR if one in kept or base64.b64encode(one)[:-4] in kept]
    without = b"[" + b" " * before + b'{"a": "token"}' * 200_000
    assert masked_body(without) is without


@pytest.mark.parametrize("raw", [b"[" * 50_000, b'{"pin":' * 50_000, b"9" * 6_000])
def test_content_that_is_not_readable_json_is_searched(raw: bytes) -> None:
    assert masked_body(raw) == raw
