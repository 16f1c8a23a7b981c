"""Metadata: free JSON of a producer, and its limits."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from card_worker.contracts.text import storable

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


METADATA_BYTES_MAX = 16 * 1024
METADATA_DEPTH_MAX = 8
RESERVED_PREFIX = "dintero_"
# The one reserved key that callers are told to write themselves.
RESERVED_EXCEPT = "dintero_transaction_id"


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
