"""Reading JSON strictly, with limits for untrusted input, and writing it in one form."""

import json
import math
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn
from uuid import UUID

import orjson
from pydantic import BaseModel


class NotJson(ValueError):
    """The input is not JSON that every reader reads alike. The text says why, in one line."""


def read_json(raw: bytes, *, bytes_max: int, levels_max: int) -> Any:
    """Parse UTF-8 JSON. Refuses duplicate keys, NaN, infinite and very long numbers.

    `levels_max` limits the nesting of lists and objects. Raises NotJson.
    """
    if len(raw) > bytes_max:
        raise NotJson(f"{len(raw)} bytes; at most {bytes_max} are read")
    try:
        read = _decode(raw.decode().strip(" \t\n\r"))
    except NotJson:
        raise
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise NotJson(f"not JSON: {error}") from None
    except RecursionError:
        raise NotJson("not JSON: nested too deep") from None
    except ValueError:  # a whole number of thousands of digits
        raise NotJson("not JSON: a number is too long") from None
    # With fewer brackets than levels it can't be too deep.
    if raw.count(b"[") + raw.count(b"{") > levels_max and _is_deeper(read, levels_max):
        raise NotJson(f"nested too deep: more than {levels_max} levels")
    return read


def _decode(text: str) -> Any:
    """Parse JSON without whitespace around it: the decoder's own method would look for that."""
    read, end = _decoder.raw_decode(text)
    if end != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return read


def _is_deeper(read: Any, levels_max: int) -> bool:
    level = [read]
    for _ in range(levels_max):
        level = [
            part
            for one in level
            for part in (one.values() if isinstance(one, dict) else one)
            if isinstance(part, dict | list)
        ]
        if not level:
            return False
    return True


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) != len(pairs):
        raise NotJson("not JSON: duplicate key in an object")
    return read


def _refuse_constant(name: str) -> NoReturn:
    raise NotJson(f"not JSON: {name}")


def _finite(digits: str) -> float:
    read = float(digits)
    if math.isinf(read):
        raise NotJson("not JSON: a number is too large")
    return read


_decoder = json.JSONDecoder(
    object_pairs_hook=_once_each, parse_constant=_refuse_constant, parse_float=_finite
)


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


def raw_json(value: object) -> str:
    """Return any value as ASCII JSON with sorted keys; what JSON does not know, as text."""
    return json.dumps(value, sort_keys=True, default=str, ensure_ascii=True)


def _plain(value: object) -> Any:
    if isinstance(value, datetime):  # first, because there are most of them
        return write_time(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, BaseModel):
        return value.model_dump()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
