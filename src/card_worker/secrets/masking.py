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
"""Where values stand without a name. No message of ours has any there."""
LISTS = frozenset(["commands"])
"""Where a part that is no command may be a value without a name."""
PLAIN = frozenset(["format", "expires_in", "expires_after_transaction"])
"""What those fields hold where they ask for a secret instead of bringing one."""

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


def masked(value: Any) -> Any:
    """Return what was read from JSON, with everything in a secret's place hidden."""
    match value:
        case Mapping():
            return {name: _masked_field(name, part) for name, part in value.items()}
        case list() | tuple():
            return [masked(part) for part in value]
        case str():
            return masked_text(value)
    return value


def masked_text(text: str) -> str:
    """Return text in which fields may stand, their secrets hidden."""
    return masked_bytes(text.encode(errors="surrogatepass")).decode(errors="surrogatepass")


def masked_bytes(raw: bytes) -> bytes:
    """Return bytes in which fields may stand, also in base64, their secrets hidden."""
    return _BASE64.sub(_masked_base64, _masked_fields(raw))


def masked_body(raw: bytes) -> bytes:
    """Return the body of a message, its secrets hidden."""
    return _BASE64.sub(_masked_base64, _masked_whole(raw))


def _masked_whole(raw: bytes) -> bytes:
    """Return bytes with what is hidden in them by its place, if they are JSON, or by its name."""
    try:
        read = json.loads(raw)
        kept = _masked_message(read)
    except (ValueError, RecursionError):
        return _masked_fields(raw)
    return raw if kept == read else json.dumps(kept).encode()


def _masked_field(name: Any, part: Any) -> Any:
    if _is_named(name, NAMES | UNNAMED):
        return _hidden(part)
    if _is_named(name, LISTS) and isinstance(part, list | tuple):
        return [masked(one) if isinstance(one, Mapping) else _hidden(one) for one in part]
    return masked(part)


def _masked_message(read: Any) -> Any:
    match read:
        case [list(args), dict(kwargs), *rest]:
            return [_hidden(args), masked(kwargs), *masked(rest)]
    return masked(read)


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


def _is_named(name: Any, names: frozenset[str]) -> bool:
    return isinstance(name, str) and name.lower() in names
