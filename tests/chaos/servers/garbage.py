"""Messages that nobody can be answered for, each with a mark to find its dead letter by."""

import json
from collections.abc import Callable
from typing import Any

from card_worker.contracts.envelope import LEVELS_MAX
from tests.transport.entries import ABSENT, body, deep, listed, message

Write = Callable[[str], bytes]


def _with_header(name: str, value: Any) -> Write:
    return lambda mark: message(mark, headers={name: value})


def _with_parts(**parts: Any) -> Write:
    return lambda mark: message(mark, parts={name.replace("_", "-"): parts[name] for name in parts})


def _with_body(write_body: Callable[[str], bytes]) -> Write:
    return lambda mark: message(mark, write_body(mark))


def _nan(mark: str) -> bytes:
    return body(mark, amount="<here>").replace(b'"<here>"', b"NaN")


def _twice(mark: str) -> bytes:
    return body(mark).replace(b'"amount": ', b'"amount": 1, "amount": ')


GARBAGE: dict[str, Write] = {
    "noise": lambda mark: b"\xff\xfe\x00" + mark.encode(),
    "a word": lambda mark: mark.encode(),
    "a JSON list": lambda mark: json.dumps([mark]).encode(),
    "a message cut off": lambda mark: message(mark)[:-20],
    "a message in a list": lambda mark: b"[" + message(mark) + b"]",
    "no base64": lambda mark: message(mark, parts={"body": f"&{mark}"}),
    "an unknown task": lambda mark: message(mark, task="cards.explode"),
    "no task": lambda mark: message(mark, task=ABSENT),
    "compression": _with_header("compression", "application/x-gzip"),
    "another compression": _with_header("compression", "zstd"),
    "a task in a list": lambda mark: message(mark, task=["cards.create"]),
    "pickle": _with_parts(content_type="application/x-python-serialize"),
    "another encoding": _with_parts(content_encoding="utf-16"),
    "nobody's": _with_body(lambda mark: body(mark, account_id=ABSENT)),
    "not a number": _with_body(_nan),
    "a key twice": _with_body(_twice),
    "nested": _with_body(lambda mark: body(mark, metadata=deep(LEVELS_MAX))),
    "a list of nothing": lambda mark: listed(mark, []),
}
"""By what is wrong; each writes the bytes of a message."""
