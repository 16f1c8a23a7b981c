"""What an entry of the corpus is, and the words to write one with."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

ACCOUNT = "T00000001"
ABSENT: Any = object()
"""The value of a part that isn't there."""

MIB = 2**20
YAML = b"- []\n- {card_id: yaml, amount: 5}\n- {}\n"
MESSAGE_PACK = b"\x93\x90\x81\xa7card_id\xa1x\x80"

# What may stand where something else belongs.
ODD: dict[str, Any] = {
    "absent": ABSENT,
    "null": None,
    "a number": 5,
    "a list": [[]],
    "an object": {"a": 1},
    "true": True,
    "a long text": "x" * 100_000,
}


class Bomb:
    """Whoever unpickles it raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('unpickled')",))


class Fate(StrEnum):
    """What becomes of an entry, in the words of a failed test."""

    LETTER = "a dead letter"
    REJECTED = "command.rejected"
    DONE = "done"
    VANISHED = "gone without a trace"
    DOUBLED = "more than one letter or answer"
    STOPPED = "the worker ended"
    CHANGED = "kept as something else than what came"
    HELD = "neither letter nor answer in time"


@dataclass(frozen=True)
class Entry:
    """Bytes on a queue's list. `name` is also the id of its message, as far as it has one.

    What it asks for is asked under its name too: as card, and as command.
    """

    name: str
    fate: Fate
    write: Callable[[], bytes]
    """Makes the bytes, the same ones every time; the large ones are not kept."""


def letter(name: str, raw: bytes | Callable[[], bytes]) -> Entry:
    return Entry(name, Fate.LETTER, _writing(raw))


def rejected(name: str, raw: bytes | Callable[[], bytes]) -> Entry:
    return Entry(name, Fate.REJECTED, _writing(raw))


def done(name: str, raw: bytes | Callable[[], bytes]) -> Entry:
    return Entry(name, Fate.DONE, _writing(raw))


def _writing(raw: bytes | Callable[[], bytes]) -> Callable[[], bytes]:
    return partial(bytes, raw) if isinstance(raw, bytes) else raw


def fields(name: str, /, **changed: Any) -> dict[str, Any]:
    """Return what asks for the card `name`."""
    asked = {
        "account_id": ACCOUNT,
        "command_id": name,
        "card_id": name,
        "amount": 500,
        "currency": "NOK",
    }
    return _present(asked | changed)


def body(name: str, /, *, args: Any = (), embed: Any = ABSENT, **changed: Any) -> bytes:
    """Return the body of a message that asks for the card `name`."""
    return json.dumps([args, fields(name, **changed), {} if embed is ABSENT else embed]).encode()


def body_around(name: str, json_text: str, field: str = "metadata") -> bytes:
    """Return the body of a message that has `json_text` as one more field."""
    return body(name, **{field: "<here>"}).replace(b'"<here>"', json_text.encode())


def message(
    name: str,
    raw_body: bytes | None = None,
    *,
    task: Any = "cards.create",
    headers: Mapping[str, Any] | None = None,
    properties: Mapping[str, Any] | None = None,
    delivery_info: Mapping[str, Any] | None = None,
    parts: Mapping[str, Any] | None = None,
) -> bytes:
    """Return a message as a stock client puts it on a list, but for what is named.

    `parts` are those of its outermost object.
    """
    raw_body = body(name) if raw_body is None else raw_body
    info = _present({"exchange": "", "routing_key": "cards"} | dict(delivery_info or {}))
    envelope = {
        "body": base64.b64encode(raw_body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": _present({"lang": "py", "task": task, "id": name} | dict(headers or {})),
        "properties": _present(
            {
                "body_encoding": "base64",
                "correlation_id": name,
                "delivery_info": info,
                "delivery_mode": 2,
                "delivery_tag": name,
                "priority": 0,
            }
            | dict(properties or {})
        ),
    }
    return json.dumps(_present(envelope | dict(parts or {}))).encode()


def said(name: str, place: str, what: str, json_text: str, raw_body: bytes | None = None) -> bytes:
    """Return a message that says `json_text` in one of its headers, properties or parts."""
    changed: dict[str, Any] = {place: {what: "<here>"}}
    return message(name, raw_body, **changed).replace(b'"<here>"', json_text.encode())


def listed(name: str, commands: Any, **more: Any) -> bytes:
    """Return a message that carries a list."""
    kwargs = _present({"commands": commands} | more)
    return message(name, json.dumps([[], kwargs, {}]).encode(), task="commands.apply")


def part(name: str, /, **changed: Any) -> dict[str, Any]:
    """Return what asks for the card `name` within a list."""
    return _present({"command": "cards.create"} | fields(name) | changed)


def signature(card_id: str) -> dict[str, Any]:
    """Return what makes a stock worker publish a command, which asks for a card."""
    return {
        "task": "cards.create",
        "args": [],
        "kwargs": fields(card_id),
        "options": {"queue": "cards"},
        "subtask_type": None,
        "immutable": True,
        "chord_size": None,
    }


def nested(levels: int, opening: str = "[", closing: str = "]", inmost: str = "") -> str:
    return opening * levels + inmost + closing * levels


def deep(levels: int) -> Any:
    """Return so many lists within one another."""
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


def _present(parts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parts.items() if value is not ABSENT}
