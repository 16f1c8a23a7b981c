"""A strict JSON reader with limits, for untrusted input."""

import json
import math
from typing import Any, NoReturn


class NotJson(ValueError):
    """The input is not JSON that every reader reads alike. The text says why, in one line."""


def read_json(raw: bytes, *, bytes_max: int, levels_max: int) -> Any:
    """Parse UTF-8 JSON. Refuses duplicate keys, NaN, infinite and very long numbers.

    `levels_max` limits the nesting of lists and objects. Raises NotJson.
    """
    if len(raw) > bytes_max:
        raise NotJson(f"{len(raw)} bytes; at most {bytes_max} are read")
    try:
        read = _decoder.decode(raw.decode())
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
