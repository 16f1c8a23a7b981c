"""Unreadable messages are stored unchanged, and affect no other message."""

import base64
import json
import pickle
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery

from tests.flow.system import System, card, envelope

OK = json.dumps([[], card("ok"), {}]).encode()


def _body(name: str, raw: bytes) -> dict[str, Any]:
    return envelope("cards.create", name, body=raw)


def _headers(name: str, **headers: Any) -> dict[str, Any]:
    return envelope("cards.create", name, body=OK, headers=headers)


def _content(name: str, kind: str, raw: bytes, encoding: str = "binary") -> dict[str, Any]:
    kinds = {"content-type": kind, "content-encoding": encoding}
    return {**envelope("cards.create", name, body=raw), **kinds}


def _protocol_1() -> dict[str, Any]:
    raw = {"task": "cards.create", "id": "protocol 1", "args": [], "kwargs": card("old")}
    message = envelope("", "", body=json.dumps(raw).encode())
    return message | {"headers": {}}


class Bomb:
    """Whoever unpickles it raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('unpickled')",))


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown task": (
        envelope("cards.explode", "unknown task", {}),
        'task_unknown: There is no task with this name ("cards.explode"; did you mean'
        " cards.expire?).",
    ),
    "celery's task": (envelope("celery.chord", "celery's task", {}), "task_unknown"),
    "not JSON": (_body("not JSON", b"<sale/>"), "body_invalid"),
    "half": (_body("half", OK[:-9]), "body_invalid"),
    "not UTF-8": (_body("not UTF-8", b'[[], {"name": "\xff"}, {}]'), "body_invalid"),
    "NaN": (_body("NaN", b'[[], {"amount": NaN}, {}]'), "body_invalid"),
    "infinite": (_body("infinite", b'[[], {"amount": -Infinity}, {}]'), "body_invalid"),
    "twice": (_body("twice", b'[[], {"amount": 1, "amount": 2}, {}]'), "body_invalid"),
    "deep": (_body("deep", b"[" * 100_000 + b"]" * 100_000), "body_invalid"),
    "digits": (_body("digits", b"[" + b"9" * 5_000 + b"]"), "body_invalid"),
    "large": (_body("large", OK + b" " * 2**20), "body_invalid"),
    "scalar": (_body("scalar", b"5"), "body_not_a_call"),
    "positional": (_body("positional", b'[["card-1"], {}, {}]'), "account_id_invalid"),
    "sweep": (
        envelope("sweeps.expire_cards", "sweep", {}, headers={"eta": "2030-01-01T00:00:00Z"}),
        "header_not_allowed",
    ),
    "compression": (_headers("compression", compression="zlib"), "body_invalid"),
    "zstandard": (_headers("zstandard", compression="zstd"), "compression_unsupported"),
    "headers": (_headers("headers", note="x" * 65_536), "headers_too_large"),
    "id": (_headers("id", id=5), "message_id_invalid"),
    "long id": (_headers("long id", id="x" * 65), "message_id_invalid"),
    "chain": (
        _body("chain", json.dumps([[], {}, {"chain": [{"task": "cards.create"}]}]).encode()),
        "account_id_invalid",
    ),
    "pickle": (
        _content("pickle", "application/x-python-serialize", pickle.dumps(Bomb())),
        "content_type_unsupported",
    ),
    "yaml": (
        _content("yaml", "application/x-yaml", b"- []\n", "utf-8"),
        "content_type_unsupported",
    ),
    "utf-16": (
        _content("utf-16", "application/json", OK, "utf-16"),
        "content_encoding_unsupported",
    ),
    "protocol 1": (_protocol_1(), "not_a_task"),
    "no account": (
        envelope("cards.create", "no account", card("no account", account_id=None)),
        "account_id_invalid",
    ),
    "apply": (envelope("commands.apply", "apply", {"commands": []}), "command_list_invalid"),
    "no list": (envelope("commands.apply", "no list", {"commands": 5}), "command_list_invalid"),
}
"""Messages by what is wrong with them, and how the reason begins."""
NAMELESS = ("protocol 1", "id", "long id")
"""Those among them that say no id by which a message could be known."""


@pytest.fixture(scope="module")
def running(shared: System) -> System:
    shared.start("worker")
    shared.start("relay")
    return shared


@pytest.fixture(scope="module")
def after_all(running: System) -> System:
    """The system after all the cases, each twice, each with neighbours that are in order."""
    for name, (message, _) in CASES.items():
        running.create(f"before {name}")
        for _again in range(2):
            running.push(message)
    running.create("the last one")
    running.catches_up()
    return running


def _raw(message: dict[str, Any]) -> bytes:
    return base64.b64decode(message["body"])


def _kept(headers: dict[str, Any]) -> dict[str, Any]:
    """Return what a letter keeps of headers."""
    text = json.dumps(headers, separators=(",", ":"))
    return headers if len(text) <= 65_536 else {"cut": f"{text[:8_191]}…"}


@pytest.mark.parametrize("case", CASES)
def test_an_unreadable_message_is_stored_unchanged(case: str, after_all: System) -> None:
    message, reason = CASES[case]
    (letter,) = [
        one
        for one in after_all.letters()
        if one.body == _raw(message) and one.headers in (None, _kept(message["headers"]))
    ]
    assert letter.explanation.startswith(reason)
    assert letter.queue == "cards"
    assert letter.content_type == message["content-type"]
    assert timedelta() < datetime.now(UTC) - letter.received_at < timedelta(minutes=10)


def test_messages_beside_an_unreadable_one_are_answered(after_all: System) -> None:
    neighbours = [*(f"before {name}" for name in CASES), "the last one"]
    assert set(after_all.types(*neighbours)) == {"card.created"}


def test_a_message_that_comes_twice_is_stored_once(after_all: System) -> None:
    known = Counter(letter.message_id for letter in after_all.letters())
    assert known.pop(None) == len(NAMELESS)
    assert set(known.values()) == {1}
    assert len(known) == len(CASES) - len(NAMELESS)


def test_unreadable_messages_have_no_effect(after_all: System) -> None:
    told = {event["subject"] for event in after_all.events()}
    assert told.isdisjoint({"ok", "old", "no account"})


def test_no_message_stopped_the_worker(after_all: System) -> None:
    assert all(part.runs for part in after_all.parts.all)
    assert after_all.parts.all[0].said.count("ready.") == 1


def test_a_pickled_command_is_kept(running: System, plain_celery_client: Celery) -> None:
    asked = card("pickled")
    plain_celery_client.send_task(
        "cards.create", kwargs=asked, queue="cards", task_id="pickled", serializer="pickle"
    )
    assert running.letter("pickled").explanation.startswith("content_type_unsupported")


def test_headers_that_celery_adds_are_accepted(
    running: System, plain_celery_client: Celery
) -> None:
    for serializer in ("json", None):
        plain_celery_client.send_task(
            "cards.create",
            kwargs=card(f"plain {serializer}"),
            queue="cards",
            task_id=f"plain {serializer}",
            serializer=serializer,
            priority=3,
            reply_to="somewhere",
            headers={"mine": "and only mine"},
        )
    assert set(running.types("plain json", "plain None")) == {"card.created"}


@pytest.mark.parametrize("name", ["self", "task", "args", "kwargs", "request", "message"])
def test_a_field_of_any_name_is_a_problem_of_its_sender_only(name: str, running: System) -> None:
    asked = {**card("odd"), name: 1}
    running.push(envelope("cards.create", f"field {name}", asked))
    answer = running.answers(f"field {name}")[f"field {name}"]
    assert answer["data"]["reason"] == "invalid"
    assert [problem["field"] for problem in answer["data"]["problems"]] == [name]


def test_the_parts_of_a_list_that_cannot_be_read_are_a_letter_and_the_others_are_answered(
    running: System,
) -> None:
    def part(command_id: str, **fields: Any) -> dict[str, Any]:
        return {"command": "cards.create", "command_id": command_id, **card(command_id, **fields)}

    unreadable = ["?", {"command": "cards.explode"}, part("nobody", account_id=None)]
    listed = [part("first"), *unreadable, part("bad", amount="5"), part("last")]
    for _ in range(2):
        running.push(envelope("commands.apply", "listed", {"commands": listed}))
    assert running.types("first", "bad", "last") == ["card.created", "invalid", "card.created"]
    letter = running.letter("listed:bad")
    assert letter.reason == "items_unreadable"
    assert (letter.detail or "").splitlines() == [
        "3 of 6",
        "1: item_not_an_object",
        '2: command_unknown "cards.explode"; did you mean cards.expire?',
        "3: account_id_invalid account_id: is required",
    ]
    assert json.loads(letter.body)[1]["commands"] == unreadable
    assert letter.headers is not None
    assert letter.headers["id"] == "listed:bad"


def test_an_unreadable_list_delays_no_other_message(running: System) -> None:
    message = envelope("commands.apply", "hopeless", {"commands": [None, 5, []] * 300})
    running.push(message)
    running.create("after hopeless")
    assert running.types("after hopeless") == ["card.created"]
    letter = running.letter("hopeless")
    assert letter.reason == "items_unreadable"
    assert letter.detail == "900 of 900\n0-899: item_not_an_object"
    assert letter.body == _raw(message)
