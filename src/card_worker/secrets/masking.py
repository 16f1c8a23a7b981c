"""Masking: what may be kept of a message that nobody could read, where a secret may stand in it.

What came sealed hides itself, and stays. What holds no secret stays byte for byte.
"""

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

from card_worker.secrets.secret import HIDDEN, is_sealed

NAMES = frozenset(["token", "pin", "card_token"])
"""The fields in which a secret may have been put, rightly or not."""
UNNAMED = frozenset(["args", "argsrepr"])
"""Where values stand without a name. In those of BRINGING one may be a secret."""
BRINGING = frozenset(["transactions.create", "cards.get", "transactions.list"])
"""The tasks that bring secrets."""
PLAIN = frozenset(["format", "expires_in", "expires_after_transaction"])
"""What those fields hold where they ask for a secret instead of bringing one."""

PIECE, OVERLAP = 2 * 1024 * 1024, 16 * 1024
"""A piece is larger than any message may be. No secret and its name are larger than an overlap."""

# As they stand in JSON, in Python's repr of it, and in text that was cut off. Backslashes before
# the quotes: JSON within JSON. A run of them is looked at from its first one only.
_FIELD = re.compile(
    rb"""((?<!\\)(?:\\*["']) (?:%s) (?:\\*["']) \s* [:=,] \s*)                # the name
         (?: (\\*["']) (?! -----BEGIN ) (?:[^"'\\]|\\+[^"'\\])* | -?[0-9.]+ )    # its value
    """
    % "|".join(sorted(NAMES)).encode(),
    re.VERBOSE | re.IGNORECASE,
)
# What kombu makes of a body.
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{24,}={0,2}")


def without_secrets(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a command but for those in which a secret may stand."""
    return {name: value for name, value in fields.items() if not _is_named(name, NAMES)}


def masked(value: Any, task: str | None = None) -> Any:
    """Return what was read from JSON, with everything in a secret's place hidden.

    `task` is the one that it was for, if that is known.
    """
    return _masked(value, NAMES | UNNAMED if _brings(task) else NAMES)


def _masked(value: Any, hiding: frozenset[str]) -> Any:
    match value:
        case Mapping():
            if _brings(value.get("task")):
                hiding |= UNNAMED
            return {
                name: _hidden(part) if _is_named(name, hiding) else _masked(part, hiding)
                for name, part in value.items()
            }
        case list() | tuple():
            return [_masked(part, hiding) for part in value]
        case str():
            return masked_text(value)
    return value


def masked_text(text: str) -> str:
    """Return text in which fields may stand, their secrets hidden."""
    return masked_bytes(text.encode(errors="surrogatepass")).decode(errors="surrogatepass")


def masked_bytes(raw: bytes) -> bytes:
    """Return bytes in which fields may stand, also in base64, their secrets hidden."""
    return _BASE64.sub(_masked_base64, _masked_fields(raw))


def masked_body(raw: bytes, task: str | None = None) -> bytes:
    """Return the body of a message for `task`, its secrets hidden."""
    if len(raw) > PIECE and not _may_hold_one(raw):
        return raw
    return _BASE64.sub(_masked_base64, _masked_whole(raw, task))


def _may_hold_one(raw: bytes) -> bool:
    """Say whether a secret may stand in what is larger than any message, looked at in pieces."""
    pieces = (raw[start : start + PIECE + OVERLAP] for start in range(0, len(raw), PIECE))
    return any(_FIELD.search(piece) or _holds_in_base64(piece) for piece in pieces)


def _holds_in_base64(piece: bytes) -> bool:
    for run in _BASE64.finditer(piece):
        for start in range(4):  # where a piece begins is not where the base64 began
            part = run[0].rstrip(b"=")[start:]
            if _FIELD.search(base64.b64decode(part[: len(part) // 4 * 4])):
                return True
    return False


def _masked_whole(raw: bytes, task: str | None = None) -> bytes:
    """Return bytes with what is hidden in them by its place, if they are JSON, or by its name."""
    try:
        read = json.loads(raw)
        kept = _masked_message(read, task)
    except (ValueError, RecursionError):
        return _masked_fields(raw)
    if kept == read:
        return raw
    text = json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


def _masked_message(read: Any, task: str | None) -> Any:
    match read:
        case [list(args), *rest] if _brings(task):
            return [_hidden(args), *masked(rest, task)]
    return masked(read, task)


def _masked_fields(raw: bytes) -> bytes:
    return _FIELD.sub(lambda found: found[1] + (found[2] or b"") + HIDDEN.encode(), raw)


def _masked_base64(found: re.Match[bytes]) -> bytes:
    whole = found[0].rstrip(b"=")
    if len(whole) % 4 == 1:  # cut off within a byte
        whole = whole[:-1]
    inside = base64.b64decode(whole + b"=" * (-len(whole) % 4))
    hidden = _masked_whole(inside)
    return found[0] if hidden == inside else base64.b64encode(hidden)


def _hidden(value: Any) -> Any:
    """Return a value in a secret's place; of one that asks for a secret, what it asks."""
    match value:
        case str():
            return value if is_sealed(value) or value in ("()", "[]") else HIDDEN
        case bool() | None:
            return value
        case int() | float():
            return HIDDEN
        case Mapping():
            return {name: part if name in PLAIN else _hidden(part) for name, part in value.items()}
        case list() | tuple():
            return [_hidden(part) for part in value]
    return HIDDEN


def _brings(task: Any) -> bool:
    return isinstance(task, str) and task in BRINGING


def _is_named(name: Any, names: frozenset[str]) -> bool:
    return isinstance(name, str) and name.lower() in names
