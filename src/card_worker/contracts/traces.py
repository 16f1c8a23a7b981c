"""The trace context of a message: the headers of W3C Trace Context, which its events repeat."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

STATE_CHARS_MAX = 512
MEMBERS_MAX = 32
_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_KEY = r"[a-z0-9][a-z0-9_*/@-]{0,255}"
_VALUE = r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_MEMBER = re.compile(rf"[ \t]*(?:{_KEY}={_VALUE})?[ \t]*")


class Trace(NamedTuple):
    """The span that sent a message. Extension attributes of CloudEvents have the same names."""

    traceparent: str
    """Version, trace id, span id and flags in hexadecimal: 55 characters."""
    tracestate: str | None = None
    """What tracing systems add: `key=value`, separated by commas."""


def read_trace(headers: Mapping[str, Any]) -> Trace | None:
    """Return the trace context in the headers of a message; None if there is no valid one.

    A wrong `tracestate` alone is left out: it is nothing to refuse a command for.
    """
    parent = headers.get("traceparent")
    if not isinstance(parent, str) or not _PARENT.fullmatch(parent):
        return None
    return Trace(parent, _read_state(headers.get("tracestate")))


def _read_state(state: object) -> str | None:
    if not isinstance(state, str) or not 0 < len(state) <= STATE_CHARS_MAX:
        return None
    members = state.split(",")
    is_valid = len(members) <= MEMBERS_MAX and all(map(_MEMBER.fullmatch, members))
    return state if is_valid else None
