"""Test vectors for programs that sign commands: right signatures, and wrong ones with reasons."""

import base64
import json
from collections.abc import Iterator
from typing import Any

from card_worker.contracts.dead_letters import DeadLetterReason
from card_worker.secrets.peppers import Peppers
from card_worker.secrets.signing import (
    KEY_BYTES,
    PRIVATE_KEY,
    Algorithm,
    SigningKey,
    base_of,
)
from card_worker.storage.producers import PEPPER_PURPOSE

PEPPERS = Peppers.read(f"k1:{base64.b64encode(bytes(range(KEY_BYTES))).decode()}")
"""The peppers from which the HMAC key is derived: no secret, as all of this page."""
AT = 1_795_000_000
MALFORMED, WRONG = DeadLetterReason.SIGNATURE_MALFORMED, DeadLetterReason.SIGNATURE_WRONG
UNKNOWN = DeadLetterReason.KEY_UNKNOWN
_PRIVATE = PRIVATE_KEY + base64.b64encode(bytes(range(KEY_BYTES))).decode()
KEYS = (
    SigningKey.derived("shop-2026-1", PEPPERS.newest_key(PEPPER_PURPOSE)[1]),
    SigningKey("shop-2026-2", _PRIVATE),
)

_ACTIVATE = "cards.activate"
_SALE = (
    '{"account_id": "P12345678", "command_id": "sale-4711", "card_id": "card-01",'
    ' "amount": 50000, "currency": "NOK"}'
)
_TEXTS = {
    "a command": (_ACTIVATE, _SALE),
    "other characters than ASCII": (
        "cards.update",
        '{"account_id":"P12345678","command_id":"navn-1","card_id":"kort-ø","name":"Til Kåre 🎁"}',
    ),
    "the same characters, escaped, and white space": (
        "cards.update",
        '{"account_id": "P12345678",\n "command_id": "navn-1", "card_id": "kort-\\u00f8",'
        ' "name": "Til K\\u00e5re \\ud83c\\udf81"}\n',
    ),
    "a list of commands": (
        "commands.apply",
        f'{{"commands": [{{"command": "{_ACTIVATE}", {_SALE[1:]}]}}',
    ),
    "a query": ("cards.get", '{"account_id":"P12345678","command_id":"q-1","card_id":"card-01"}'),
}


def signatures() -> dict[str, Any]:
    """Return the document `signatures.json`."""
    return {
        "about": "Test vectors for signed commands; see docs/how-to/sign-commands.md. The keys are"
        " those of this file only: never register them.",
        "keys": [_key(key) for key in KEYS],
        "right": [_right(name, key) for name in _TEXTS for key in KEYS],
        "wrong": [wrong for key in KEYS for wrong in _wrong(key)],
    }


def _key(key: SigningKey) -> dict[str, str]:
    public = {"public_key": key.public_key} if key.algorithm is Algorithm.ED25519 else {}
    return {**json.loads(key.text), **public}


def _right(name: str, key: SigningKey) -> dict[str, Any]:
    task, signed = _TEXTS[name]
    return {
        "name": name,
        "task": task,
        "key_id": key.key_id,
        "time": AT,
        "signed": signed,
        "base_hex": base_of(task, key.key_id, AT, signed).hex(),
        "signature": key.sign(task, signed, at=AT),
    }


def _wrong(key: SigningKey) -> Iterator[dict[str, str]]:
    """Yield messages that are not authenticated, each with the reason of its dead letter."""
    task, signed = _TEXTS["a command"]
    right = key.sign(task, signed, at=AT)
    version, key_id, time, value = right.split(",")
    (other,) = (each for each in KEYS if each is not key)
    foreign = other.sign(task, signed, at=AT).replace(other.key_id, key_id)
    parts = ["card-worker/1", task, key_id, time, signed]
    url_safe = value.replace("+", "-").replace("/", "_")
    last = value.rstrip("=")[-1]

    def row(name: str, reason: DeadLetterReason, **changed: str) -> dict[str, str]:
        sent = {"task": task, "signed": signed, "signature": right}
        return {"name": name, "reason": reason, **sent, **changed}

    def with_value(name: str, changed: str, reason: DeadLetterReason = MALFORMED) -> dict[str, str]:
        return row(name, reason, signature=f"{version},{key_id},{time},{changed}")

    def over(name: str, base: bytes) -> dict[str, str]:
        return with_value(name, base64.b64encode(key.value_of(base)).decode(), WRONG)

    def text(name: str, signed: str) -> dict[str, str]:
        return row(name, MALFORMED, signed=signed, signature=key.sign(task, signed, at=AT))

    yield row("another task", WRONG, task="cards.create")
    yield row("a space more", WRONG, signed=f"{signed} ")
    yield row("another time", WRONG, signature=f"{version},{key_id},{AT + 1},{value}")
    yield row("the algorithm of another key", WRONG, signature=foreign)
    yield over("parts without their lengths", "".join(parts).encode())
    yield over("parts with points between them", ".".join(parts).encode())
    yield row("an unknown key", UNKNOWN, signature=right.replace(key_id, "nobody"))
    yield row("an unknown version", MALFORMED, signature=right.replace(version, "v2", 1))
    yield row("a zero before the time", MALFORMED, signature=right.replace(time, f"0{time}", 1))
    yield row("milliseconds", MALFORMED, signature=right.replace(time, f"{time}.000", 1))
    yield with_value("base64 without padding", value.rstrip("="))
    yield with_value("base64 with unused bits", value.replace(f"{last}=", f"{chr(ord(last) + 1)}="))
    yield with_value("URL-safe base64", url_safe)
    yield with_value("hexadecimal digits", base64.b64decode(value).hex())
    yield text("no command_id", signed.replace("command_id", "commandid"))
    yield text("no object", f"[{signed}]")
