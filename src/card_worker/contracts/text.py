"""Rules for the characters of ids and free text."""

import re
from typing import TypeGuard

from pydantic_core import PydanticCustomError

ELLIPSIS = "…"
ID_CHARS_MAX = 64


def storable(text: str) -> str:
    """Return `text` if a database can hold it: no NUL, no half of a surrogate pair."""
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise PydanticCustomError("text", "must be valid Unicode")
    if "\x00" in text:
        raise PydanticCustomError("text", "must not contain NUL")
    return text


# Invisible characters that str.isprintable() accepts: fillers, blanks, and variation selectors.
_BLANKS = r"\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
_blank = re.compile(rf"[{_BLANKS}\U000e0100-\U000e01ef]")
_CONTROLS = r"\u0000-\u001f\u007f-\u009f"
_SPACES_AND_FORMATS = r"\u00a0\u00ad\u061c\u1680\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff"
_NOT_IN_ID = f"{_CONTROLS}{_SPACES_AND_FORMATS}{_BLANKS}"
ID_SCHEMA = {"pattern": f"^[^{_NOT_IN_ID}]*$", "not": {"pattern": "^ | $"}}
"""The rule for ids in JSON Schema, without the characters that need tables of Unicode."""
NOT_IN_TEXT = rf"{_CONTROLS}\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
"""Controls, and what changes the direction or the line of the text around it."""
_not_in_text = re.compile(rf"[{NOT_IN_TEXT}\ud800-\udfff]")
TEXT_SCHEMA = {"pattern": f"^[^{NOT_IN_TEXT}]*$"}


def read_id(text: str) -> str:
    """Return `text` if it can be an id: only visible characters, and no space at either end.

    Raises PydanticCustomError.
    """
    # Not printable: all of the Unicode categories C and Z but U+0020.
    if not text.isprintable() or (not text.isascii() and _blank.search(text)):
        raise PydanticCustomError(
            "id", "must not contain control, formatting or invisible characters"
        )
    if text[:1] == " " or text[-1:] == " ":
        raise PydanticCustomError("outer_space", "must not begin or end with a space")
    return text


def read_line(text: str) -> str:
    if (text.isascii() and text.isprintable()) or _not_in_text.search(text) is None:
        return text
    raise PydanticCustomError(
        "text", "must be one line without control or bidirectional formatting characters"
    )


def is_id(value: object, *, chars_max: int = ID_CHARS_MAX) -> TypeGuard[str]:
    """Say whether `value` is an id of 1 to `chars_max` characters."""
    if not isinstance(value, str) or not 1 <= len(value) <= chars_max:
        return False
    try:
        read_id(value)
    except PydanticCustomError:
        return False
    return True


def cut(text: str, chars_max: int) -> str:
    """Return `text`, or its beginning with an ellipsis if it is longer than `chars_max`."""
    return text if len(text) <= chars_max else text[: chars_max - 1] + ELLIPSIS


def printable(text: str) -> str:
    """Return `text` with every invisible character escaped as in Python."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
