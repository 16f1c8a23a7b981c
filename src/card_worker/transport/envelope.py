"""Entries of a list, or messages of a fan-out channel, to payloads for kombu's messages."""

import base64
import json
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from card_worker.contracts.json_text import NotJson, read_json
from card_worker.transport.in_flight import DIED, GIVEN_BACK

STRICT_BYTES_MAX = 3 * 512 * 1024
"""A body of 1 MiB in base64, and room for the envelope."""
STRICT_LEVELS_MAX = 8
FANOUT_BYTES_MAX = 4 * 1024 * 1024
"""The largest message on a fan-out channel. Celery's events of a group are one message."""
DESCRIPTION = b"aside:"
"""The prefix of the description of an oversize entry. No JSON begins with it."""


class _Description(BaseModel):
    """What take.lua writes about an oversize entry. Others may have written it, too."""

    list: Annotated[str, Field(pattern=r"^[^\x00]+$")]
    bytes: int
    sha1: Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
    begins: Annotated[str, Field(pattern="^([0-9a-f]{2})*$")]
    key: Annotated[str, Field(pattern=r"^[^\x00]+$")] | None = None


def payload(raw: bytes, delivery_tag: str, queue: str, *, strict: bool = False) -> dict[str, Any]:
    """Return kombu's payload for an entry. An entry that is not a message becomes a body.

    `delivery_info` holds `malformed` (why it is not a message), its `queue`, `returns` (how often
    it was put back on it) and `deaths` (how often of these because a consumer had died).
    """
    try:
        read = _well_formed(_read_strictly(raw) if strict else json.loads(raw))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        why = str(error) if isinstance(error, NotJson) else "the parts of a message are missing"
        read = _no_message(raw, malformed=why)
    else:
        for name in ("malformed", "aside"):
            # Only this transport sets these, not the sender.
            read["properties"]["delivery_info"].pop(name, None)
    return _addressed(read, delivery_tag, queue, raw)


def aside_payload(raw: bytes, delivery_tag: str, keys: str) -> dict[str, Any] | None:
    """Return kombu's payload for an oversize entry that was set aside.

    Its body is the beginning of the entry; `delivery_info["aside"]` holds `bytes` and `sha1` of the
    whole entry, and the `key` at which it is kept for a while, if it is. None if `raw` is not a
    description by this transport, or its key does not begin with `keys`.
    """
    if not raw.startswith(DESCRIPTION):
        return None
    try:
        about = _Description.model_validate_json(raw[len(DESCRIPTION) :], strict=True)
    except ValidationError:
        return None
    if about.key is not None and not about.key.startswith(keys):
        return None
    kept = about.model_dump(include={"bytes", "sha1", "key"}, exclude_none=True)
    read = _no_message(bytes.fromhex(about.begins), malformed=f"{about.bytes} bytes", aside=kept)
    return _addressed(read, delivery_tag, about.list, raw)


def fanout_payload(raw: bytes) -> dict[str, Any]:
    """Return kombu's payload for a message of a fan-out channel. Raises NotJson."""
    try:
        read = _well_formed(_read_fanout(raw))
        if read.get("content-type") == "application/json":
            body = read["body"]
            _read_fanout(body if isinstance(body, bytes) else body.encode())
    except NotJson:
        raise
    except (ValueError, TypeError, KeyError, AttributeError):
        raise NotJson("the parts of a message are missing") from None
    # Kombu would decompress the body, whatever size it has then.
    read["headers"].pop("compression", None)
    return read


def _read_fanout(raw: bytes) -> Any:
    return read_json(raw, bytes_max=FANOUT_BYTES_MAX, levels_max=STRICT_LEVELS_MAX)


def _no_message(body: bytes, **about: object) -> dict[str, Any]:
    return {
        "body": body,
        "headers": {},
        "content-type": "application/octet-stream",
        "content-encoding": "binary",
        "properties": {"delivery_info": about},
    }


def _addressed(read: dict[str, Any], tag: str, queue: str, raw: bytes) -> dict[str, Any]:
    marks = raw[len(raw.rstrip(DIED + GIVEN_BACK)) :]
    returns, deaths = len(marks), marks.count(DIED)
    properties = read["properties"]
    properties["delivery_tag"] = tag
    about = properties["delivery_info"]
    about |= {"queue": queue, "returns": returns, "deaths": deaths, "redelivered": returns > 0}
    for name, instead in (("exchange", ""), ("routing_key", queue)):
        if not isinstance(about.get(name), str):
            about[name] = instead
    return read


def _read_strictly(raw: bytes) -> Any:
    read = read_json(raw, bytes_max=STRICT_BYTES_MAX, levels_max=STRICT_LEVELS_MAX)
    if b"\\u" in raw:
        # JSON can spell a lone surrogate, which is not text: this raises UnicodeEncodeError.
        json.dumps(read, ensure_ascii=False).encode()
    return read


def _well_formed(read: Any) -> dict[str, Any]:
    """Return `read` if kombu can make a message of it. Raises if not."""
    match read:
        case {"properties": {"delivery_info": dict(), "body_encoding": "base64"}}:
            read["body"] = base64.b64decode(read["body"], validate=True)
            read["properties"]["body_encoding"] = None  # or kombu would decode it once more
        case {"properties": {"delivery_info": dict(), **properties}}:
            if properties.get("body_encoding"):
                raise ValueError("an encoding that kombu doesn't know")
            read["body"].encode()
        case _:
            raise ValueError("not a message")
    headers = read.get("headers") or {}
    if not isinstance(headers, dict):
        raise TypeError("headers without names")
    return {**read, "headers": headers}
