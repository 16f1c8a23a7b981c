"""From the bytes on a queue to the fields of a task: what is accepted of headers and body."""

from collections.abc import Iterable, Mapping
from typing import Any

from card_worker.contracts.dead_letters import DeadLetterReason, Unreadable
from card_worker.contracts.json_text import NotJson, json_bytes, raw_json, read_json
from card_worker.contracts.metadata import METADATA_DEPTH_MAX
from card_worker.contracts.text import is_id
from card_worker.secrets.masking import masked_text
from card_worker.wording import did_you_mean

MESSAGE_BYTES_MAX = 1024 * 1024
LEVELS_MAX = METADATA_DEPTH_MAX + 4
"""Largest nesting of a body: the message, its fields, a list, a command, and its metadata."""
HEADERS_BYTES_MAX = 64 * 1024
QUOTED_CHARS_MAX = 200
# Headers by which a sender would control the worker.
EMBEDDED = ("callbacks", "errbacks", "chain", "chord")
FORBIDDEN_HEADERS = (
    *EMBEDDED,
    "compression",
    "eta",
    "expires",
    "group",
    "retries",
    "shadow",
    "stamped_headers",
    "stamps",
    "timelimit",
)


def validate_envelope(
    headers: Mapping[str, Any] | None,
    body: bytes | str,
    *,
    content_type: str | None,
    content_encoding: str | None,
    tasks: frozenset[str],
) -> dict[str, Any]:
    """Return the keyword arguments of a message that may go on to its task, one of `tasks`.

    Reads the body strictly: no NaN, no key twice, nothing larger than 1 MiB or deeper than a
    command can be. Headers have at most 64 KiB. Headers and embedded signatures that would make the
    worker wait, drop or publish something are refused.

    Raises Unreadable.
    """
    if not isinstance(headers, Mapping) or "task" not in headers:
        raise Unreadable(DeadLetterReason.NOT_A_TASK)
    _check_size(headers)
    if content_type != "application/json":
        raise Unreadable(DeadLetterReason.CONTENT_TYPE_UNSUPPORTED, quoted(content_type))
    if str(content_encoding).lower() not in ("utf-8", "utf8", "us-ascii"):
        raise Unreadable(DeadLetterReason.CONTENT_ENCODING_UNSUPPORTED, quoted(content_encoding))
    task = headers["task"]
    if not isinstance(task, str) or task not in tasks:
        raise Unreadable(DeadLetterReason.TASK_UNKNOWN, quoted(task, tasks))
    message_id = headers.get("id")
    if not is_id(message_id):
        raise Unreadable(DeadLetterReason.MESSAGE_ID_INVALID)
    for name in FORBIDDEN_HEADERS:
        if _says_something(headers.get(name)):
            raise Unreadable(DeadLetterReason.HEADER_NOT_ALLOWED, name)
    return _read_body(body)


def quoted(value: object, known: Iterable[str] = ()) -> str:
    """Return a value as a reason repeats it: cut, in printable characters, without secrets.

    Of a list or an object only the type is repeated, since a secret may stand anywhere in it. An
    unknown name is followed by the closest of the `known` ones.
    """
    if isinstance(value, Mapping | list | tuple):
        return f"of type {'object' if isinstance(value, Mapping) else 'list'}"
    hint = did_you_mean(value, known) if isinstance(value, str) else ""
    return masked_text(raw_json(value)[:QUOTED_CHARS_MAX]) + hint


def _check_size(headers: Mapping[str, Any]) -> None:
    try:
        size = json_bytes(headers)
    except TypeError:
        raise Unreadable(DeadLetterReason.HEADERS_NOT_JSON) from None
    if size > HEADERS_BYTES_MAX:
        detail = f"{size} bytes; at most {HEADERS_BYTES_MAX} are read"
        raise Unreadable(DeadLetterReason.HEADERS_TOO_LARGE, detail)


def _read_body(body: bytes | str) -> dict[str, Any]:
    raw = body if isinstance(body, bytes) else body.encode(errors="surrogatepass")
    try:
        read = read_json(raw, bytes_max=MESSAGE_BYTES_MAX, levels_max=LEVELS_MAX)
    except NotJson as problem:
        raise Unreadable(DeadLetterReason.BODY_INVALID, str(problem)) from None
    match read:
        case [list(args), dict(kwargs), dict() | None as embed]:
            if args:
                raise Unreadable(DeadLetterReason.POSITIONAL_ARGUMENTS)
            for name in EMBEDDED:
                if embed and _says_something(embed.get(name)):
                    raise Unreadable(DeadLetterReason.SIGNATURE_NOT_ALLOWED, name)
            return kwargs
        case _:
            raise Unreadable(DeadLetterReason.BODY_NOT_A_CALL)


def _says_something(value: object) -> bool:
    if isinstance(value, list | tuple):
        return any(part is not None for part in value)
    return bool(value)
