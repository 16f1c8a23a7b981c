"""Masking: what may be kept of a message that nobody could read, where a secret may stand in it.

What came sealed hides itself, and stays.
"""

import base64
import re
from collections.abc import Mapping
from typing import Any

from card_worker.secrets.secret import HIDDEN, is_sealed

NAMES = ("token", "pin", "card_token")
"""The fields in which a secret may have been put, rightly or not."""

# As they stand in JSON, in Python's repr of it, and in text that was cut off. Backslashes before
# the quotes: JSON within JSON.
_FIELD = re.compile(
    rb"""((?<!\\)(?:\\*["']) (?:%s) (?:\\*["']) \s* [:=,] \s*)         # the name
         (?: (\\*["']) (?! -----BEGIN ) (?:[^"'\\]|\\+[^"'\\])* | -?[0-9.]+ )    # its value
    """
    % "|".join(NAMES).encode(),
    re.VERBOSE | re.IGNORECASE,
)
# What kombu makes of a body.
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{24,}={0,2}")


def without_secrets(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a command without the values that are secret."""
    return {name: value for name, value in fields.items() if not _is_secret(name, value)}


def masked(value: Any) -> Any:
    """Return what was read from JSON, with everything in a secret's place hidden."""
    match value:
        case Mapping():
            return {
                name: HIDDEN if _is_secret(name, part) else masked(part)
                for name, part in value.items()
            }
        case list() | tuple():
            return [masked(part) for part in value]
        case str():
            return masked_text(value)
    return value


def masked_text(text: str) -> str:
    """Return text in which fields may stand, their secrets hidden."""
    return masked_bytes(text.encode(errors="surrogatepass")).decode(errors="surrogatepass")


def masked_bytes(raw: bytes) -> bytes:
    """Return bytes in which fields may stand, also in base64, their secrets hidden.

    Bytes without any come back as they are.
    """
    return _BASE64.sub(_masked_base64, _hide(raw))


def _hide(raw: bytes) -> bytes:
    return _FIELD.sub(lambda found: found[1] + (found[2] or b"") + HIDDEN.encode(), raw)


def _masked_base64(found: re.Match[bytes]) -> bytes:
    whole = found[0].rstrip(b"=")
    if len(whole) % 4 == 1:  # cut off within a byte
        whole = whole[:-1]
    inside = base64.b64decode(whole + b"=" * (-len(whole) % 4))
    hidden = _hide(inside)
    return found[0] if hidden == inside else base64.b64encode(hidden)


def _is_secret(name: Any, value: Any) -> bool:
    is_named = isinstance(name, str) and name.lower() in NAMES
    if isinstance(value, str):
        return is_named and not is_sealed(value)
    return is_named and isinstance(value, int | float)
