"""The types of the fields of commands and events, with their limits; writing JSON."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, TypeAlias, TypeGuard
from uuid import UUID

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PlainSerializer,
    StrictInt,
    StrictStr,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from card_worker.secrets.formats import FORMULA_PATTERN, no_formula

ELLIPSIS = "…"
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

METADATA_BYTES_MAX = 16 * 1024
METADATA_DEPTH_MAX = 8
RESERVED_PREFIX = "dintero_"
# The one reserved key that callers are told to write themselves.
RESERVED_EXCEPT = "dintero_transaction_id"


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


def _read_line(text: str) -> str:
    if (text.isascii() and text.isprintable()) or _not_in_text.search(text) is None:
        return text
    raise PydanticCustomError(
        "text", "must be one line without control or bidirectional formatting characters"
    )


# Lengths stand first: pydantic checks them itself then, and before the function.
Text255 = Annotated[
    StrictStr, Field(max_length=255, json_schema_extra=TEXT_SCHEMA), AfterValidator(_read_line)
]
"""Free text for people: one line."""

Name = Annotated[
    StrictStr,
    Field(min_length=1, max_length=255, json_schema_extra=ID_SCHEMA),
    AfterValidator(read_id),
]
"""An id that a producer chooses."""

CellName = Annotated[
    StrictStr,
    Field(
        min_length=1,
        max_length=255,
        json_schema_extra={
            "pattern": ID_SCHEMA["pattern"],
            "not": {"pattern": f"^ | $|{FORMULA_PATTERN}"},
        },
    ),
    AfterValidator(read_id),
    AfterValidator(no_formula),
]
"""An id that may be written into a CSV file: no spreadsheet reads it as a formula."""

RefId = Name
"""A producer's id of a movement of money."""

ReasonText = Annotated[
    StrictStr,
    Field(min_length=1, max_length=255, json_schema_extra=TEXT_SCHEMA),
    AfterValidator(_read_line),
]
"""The reason for a command: free text for people."""


def cut(text: str, chars_max: int) -> str:
    """Return `text`, or its beginning with an ellipsis if it is longer than `chars_max`."""
    return text if len(text) <= chars_max else text[: chars_max - 1] + ELLIPSIS


def printable(text: str) -> str:
    """Return `text` with every invisible character escaped as in Python."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


SECONDS_MAX = 10 * 366 * 24 * 3600
Seconds = Annotated[StrictInt, Field(gt=0, le=SECONDS_MAX)]
"""A duration, at most some ten years."""


def _read_uuid(value: object) -> UUID:
    if isinstance(value, UUID):
        return value
    if isinstance(value, str) and _UUID.fullmatch(value):
        return UUID(value)
    raise PydanticCustomError("uuid", "must be a UUID, as events show it")


_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_UUID_SCHEMA = {"type": "string", "format": "uuid", "pattern": f"^{_UUID.pattern}$"}
TransactionId = Annotated[UUID, BeforeValidator(_read_uuid), WithJsonSchema(_UUID_SCHEMA)]
"""The `id` of a transaction, from an event."""

TokenId = Annotated[UUID, BeforeValidator(_read_uuid), WithJsonSchema(_UUID_SCHEMA)]
"""The `id` of a token, from an event."""

_ACCOUNT_ID = "[PT][0-9]{8}"
AccountId = Annotated[StrictStr, Field(pattern=f"^{_ACCOUNT_ID}$")]
"""The tenant: `P` production or `T` sandbox, and eight digits."""

_account_id = re.compile(_ACCOUNT_ID)


def is_account_id(value: object) -> TypeGuard[str]:
    """Say whether `value` is the id of an account."""
    return isinstance(value, str) and _account_id.fullmatch(value) is not None


# Python producers may pass a UUID object; Celery's JSON brings it back as one.
CommandId = Annotated[
    StrictStr,
    Field(min_length=1, max_length=64, json_schema_extra=ID_SCHEMA),
    AfterValidator(read_id),
    BeforeValidator(lambda value: str(value) if isinstance(value, UUID) else value),
]

_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


def read_time(value: object) -> datetime:
    """Return an aware UTC time cut to milliseconds, from RFC 3339 text or an aware datetime."""
    if isinstance(value, str) and _RFC_3339.fullmatch(value):
        try:
            value = datetime.fromisoformat(value.upper())
        except ValueError:
            raise PydanticCustomError("time", "must be a date and time that exists") from None
    if not isinstance(value, datetime):
        raise PydanticCustomError("time", "must be an RFC 3339 time such as 2026-11-22T10:00:00Z")
    if value.tzinfo is None:
        raise PydanticCustomError("time", "must have a time zone")
    try:
        value = value.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("time", "must be within the years 1 to 9999") from None
    return value.replace(microsecond=value.microsecond // 1000 * 1000)


# A group has one time, which stands in each of its answers several times.
@lru_cache(maxsize=1024)
def write_time(time: datetime) -> str:
    """Return a UTC time as RFC 3339 with milliseconds and `Z`: one spelling, sorting as text."""
    return f"{time.isoformat(timespec='milliseconds')[:23]}Z"


def write_json(value: object) -> str:
    """Return `value` as compact JSON, fields in their order; times as `write_time` has them."""
    try:
        return orjson.dumps(value, default=_plain, option=orjson.OPT_PASSTHROUGH_DATETIME).decode()
    except orjson.JSONEncodeError:
        # It knows no whole number beyond 64 bits and no half of a surrogate pair. Both may come.
        text = json.dumps(value, default=_plain, separators=(",", ":"), ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace").decode()


def json_bytes(value: object) -> int:
    """Return how many bytes `value` takes as `write_json` writes it. Raises TypeError."""
    try:
        return len(orjson.dumps(value, default=_plain, option=orjson.OPT_PASSTHROUGH_DATETIME))
    except orjson.JSONEncodeError:
        return len(write_json(value).encode())


def _plain(value: object) -> Any:
    if isinstance(value, datetime):  # first, because there are most of them
        return write_time(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, BaseModel):
        return value.model_dump()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


_HOURS, _SIXTY = "([01][0-9]|2[0-3])", "[0-5][0-9]"
TIME_SCHEMA = {
    "type": "string",
    "format": "date-time",
    "pattern": (
        "^(?!0000)[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
        rf"[Tt]{_HOURS}:{_SIXTY}:{_SIXTY}(\.[0-9]{{1,9}})?([Zz]|[+-]{_HOURS}:{_SIXTY})$"
    ),
}
"""The rule for times in JSON Schema, but for how long a month is."""

Time = Annotated[
    datetime,
    BeforeValidator(read_time),
    PlainSerializer(write_time, return_type=str, when_used="json"),
    WithJsonSchema(TIME_SCHEMA),
]


def _metadata(value: object) -> dict[str, Json]:
    if not isinstance(value, Mapping):
        raise PydanticCustomError("metadata", "must be an object")
    return {str(key): _json(part, depth=2) for key, part in sorted(_items(value))}


def _items(value: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    for key in value:
        if not isinstance(key, str):
            raise PydanticCustomError("metadata", "keys must be strings")
        storable(key)
    return list(value.items())


def _json(value: object, *, depth: int) -> Json:
    """Return `value` with its keys sorted, so that equal metadata has equal bytes."""
    match value:
        case None | bool() | int():
            return value
        case float():
            if value - value != 0:
                raise PydanticCustomError("metadata", "numbers must be finite")
            return value
        case str():
            return storable(value)
    if depth > METADATA_DEPTH_MAX:
        raise PydanticCustomError(
            "metadata", "must have at most {max} levels", {"max": METADATA_DEPTH_MAX}
        )
    match value:
        case list() | tuple():
            return [_json(part, depth=depth + 1) for part in value]
        case Mapping():
            return {key: _json(part, depth=depth + 1) for key, part in sorted(_items(value))}
    raise PydanticCustomError("metadata", "must be a JSON value")


def _unreserved(metadata: dict[str, Json]) -> dict[str, Json]:
    for key in metadata:
        if key.startswith(RESERVED_PREFIX) and key != RESERVED_EXCEPT:
            raise PydanticCustomError(
                "metadata",
                "keys beginning with {prefix} are reserved",
                {"prefix": RESERVED_PREFIX},
            )
    return metadata


def _small(metadata: dict[str, Json]) -> dict[str, Json]:
    size = len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode())
    if size > METADATA_BYTES_MAX:
        raise PydanticCustomError(
            "metadata", "must have at most {max} bytes", {"max": METADATA_BYTES_MAX}
        )
    return metadata


Metadata = Annotated[
    dict[str, Any],
    BeforeValidator(_metadata),
    AfterValidator(_unreserved),
    AfterValidator(_small),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {
                "pattern": r"^[^\u0000]*$",
                "not": {"pattern": f"^(?!{RESERVED_EXCEPT}$){RESERVED_PREFIX}"},
            },
        }
    ),
]
"""Free JSON: at most 16 KiB, at most 8 deep, keys sorted, the reserved keys refused."""
