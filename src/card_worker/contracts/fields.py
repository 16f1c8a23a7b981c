"""The types of the fields of commands and events, with their limits."""

import re
from datetime import UTC, datetime
from typing import Annotated, TypeGuard
from uuid import UUID

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    StrictInt,
    StrictStr,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from card_worker.contracts.json_text import write_time
from card_worker.contracts.text import ID_SCHEMA, TEXT_SCHEMA, read_id, read_line
from card_worker.secrets.formats import FORMULA_PATTERN, no_formula

# Lengths stand first: pydantic checks them itself then, and before the function.
Text255 = Annotated[
    StrictStr, Field(max_length=255, json_schema_extra=TEXT_SCHEMA), AfterValidator(read_line)
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
    AfterValidator(read_line),
]
"""The reason for a command: free text for people."""


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
