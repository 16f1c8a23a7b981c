"""Masking: hides tokens and PINs in messages that could not be read, before these are stored.

Sealed values stay, because only their recipients can read them. A message without secrets stays
byte for byte.
"""

import base64
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from card_worker.secrets.secret import HIDDEN, is_sealed

FIELDS = frozenset(["token", "pin", "card_token"])
"""The names of fields whose values are masked."""
POSITIONAL = frozenset(["args", "argsrepr"])
"""The fields with positional arguments: masked in messages for TASKS."""
TASKS = frozenset(["transactions.create", "cards.get", "transactions.list"])
"""The tasks that take a token or a PIN."""
OPTIONS = frozenset(["format", "expires_in", "expires_after_transaction"])
"""The members of FIELDS in commands that request a token or a PIN: not masked."""

PIECE, OVERLAP = 2 * 1024 * 1024, 16 * 1024
"""Larger content is searched in pieces of PIECE bytes, larger than any valid message. The pieces
overlap by more than the size of any secret with its name."""

# Matches fields in JSON, in the repr of Python objects, and in text that was cut off. JSON within
# JSON has backslashes before its quotes. The lookbehind makes a run of them match only once.
_FIELD = re.compile(
    rb"""((?<!\\)(?:\\*["']) (?:%s) (?:\\*["']) \s* [:=,] \s*)                # the name
         (?: (\\*["']) (?! -----BEGIN ) (?:[^"'\\]|\\+[^"'\\])* | -?[0-9.]+ )    # the value
    """
    % "|".join(sorted(FIELDS)).encode(),
    re.VERBOSE | re.IGNORECASE,
)
# kombu encodes the body of a message like this.
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{24,}={0,2}")


def without_secrets(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a command without those that may hold a secret."""
    return {name: value for name, value in fields.items() if not _is_in(FIELDS, name)}


def masked(value: Any, task: str | None = None) -> Any:
    """Return decoded JSON of a message for `task` (None: unknown) with all secrets masked."""
    return _masked(value, FIELDS | POSITIONAL if _is_in(TASKS, task) else FIELDS)


def _masked(value: Any, fields: frozenset[str]) -> Any:
    match value:
        case Mapping():
            if _is_in(TASKS, value.get("task")):
                fields |= POSITIONAL
            return {
                name: _hidden(item) if _is_in(fields, name) else _masked(item, fields)
                for name, item in value.items()
            }
        case list() | tuple():
            return [_masked(item, fields) for item in value]
        case str():
            return _masked_string(value, fields)
    return value


def _masked_string(text: str, fields: frozenset[str]) -> str:
    """Mask JSON within JSON by its structure, such as what is signed, and other text as text."""
    if text.startswith(("{", "[")):
        with suppress(ValueError, RecursionError):
            inside = json.loads(text)
            kept = _masked(inside, fields)
            return text if kept == inside else json.dumps(kept, ensure_ascii=False)
    return masked_text(text)


def masked_text(text: str) -> str:
    """Return text that may contain fields, with all secrets masked."""
    return masked_bytes(text.encode(errors="surrogatepass")).decode(errors="surrogatepass")


def masked_bytes(raw: bytes) -> bytes:
    """Return bytes that may contain fields, also in base64, with all secrets masked."""
    return _BASE64.sub(_masked_base64, _masked_fields(raw))


def masked_body(raw: bytes, task: str | None = None) -> bytes:
    """Return the body of a message for `task` (None: unknown) with all secrets masked."""
    if len(raw) > PIECE and not _has_secret(raw):
        return raw
    return _BASE64.sub(_masked_base64, _masked_whole(raw, task))


def _has_secret(raw: bytes) -> bool:
    """Return whether large content may contain a secret; searches it in pieces."""
    pieces = (raw[start : start + PIECE + OVERLAP] for start in range(0, len(raw), PIECE))
    return any(_FIELD.search(piece) or _has_secret_in_base64(piece) for piece in pieces)


def _has_secret_in_base64(piece: bytes) -> bool:
    for found in _BASE64.finditer(piece):
        for start in range(4):  # a piece may begin within a group of four characters
            part = found[0].rstrip(b"=")[start:]
            if _FIELD.search(base64.b64decode(part[: len(part) // 4 * 4])):
                return True
    return False


def _masked_whole(raw: bytes, task: str | None = None) -> bytes:
    """Mask JSON by its structure, anything else by searching for fields."""
    try:
        message = json.loads(raw)
        match message:
            case [list(args), *rest] if _is_in(TASKS, task):
                kept = [_hidden(args), *masked(rest, task)]
            case _:
                kept = masked(message, task)
    except (ValueError, RecursionError):
        return _masked_fields(raw)
    if kept == message:
        return raw
    text = json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


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
    """Mask the value of a field that may hold a secret, except for OPTIONS."""
    match value:
        case str():
            return value if is_sealed(value) or value in ("()", "[]") else HIDDEN
        case bool() | None:
            return value
        case Mapping():
            return {
                name: item if name in OPTIONS else _hidden(item) for name, item in value.items()
            }
        case list() | tuple():
            return [_hidden(item) for item in value]
    return HIDDEN


def _is_in(names: frozenset[str], name: Any) -> bool:
    return isinstance(name, str) and name.lower() in names
