"""From the bytes on a queue to the call of a task: what is accepted of headers and body.

A command whose envelope asks for something that is not done, such as a delay, can still be
answered: the envelope has `problems`. Unreadable is raised only for what is no call of a known
task.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from pydantic_core import PydanticCustomError

from card_worker.contracts.commands import APPLY, COMMANDS
from card_worker.contracts.dead_letters import DeadLetterReason, Unreadable
from card_worker.contracts.fields import read_time
from card_worker.contracts.json_text import NotJson, json_bytes, raw_json, read_json
from card_worker.contracts.queries import QUERIES
from card_worker.contracts.signatures import SIGNED, Signature, is_signed, read_signature
from card_worker.contracts.text import is_id
from card_worker.contracts.traces import Trace, read_trace
from card_worker.contracts.views import Problem
from card_worker.secrets.masking import masked_text
from card_worker.wording import did_you_mean

MESSAGE_BYTES_MAX = 1024 * 1024
LEVELS_MAX = 64
"""Largest nesting of a body. Far more than is accepted, so that a command with metadata that is too
deep is refused and answered, and the others of its list are done."""
HEADERS_BYTES_MAX = 64 * 1024
LZMA_MEMORY_MAX = 64 * 1024 * 1024
QUOTED_CHARS_MAX = 200
ANSWERED = frozenset([*COMMANDS, *QUERIES, APPLY])
"""The tasks whose senders can be answered."""
_NOT_SENT_ON = "is not supported: send the next command when the answer is on the stream"
UNSUPPORTED = {
    "eta": "is not supported: send the command when it is due, or use active_from",
    "timelimit": "is not supported: use expires or not_after",
    "callbacks": _NOT_SENT_ON,
    "errbacks": _NOT_SENT_ON,
    "chain": _NOT_SENT_ON,
    "chord": _NOT_SENT_ON,
}
"""What headers, or signatures in the body, must not ask for."""
SENT_AT = "sent_at"
"""The header with the Unix time at which the producer has sent a message, for metrics only."""
EMBEDDED = ("callbacks", "errbacks", "chain", "chord")


class Conditions(NamedTuple):
    """What the envelope of a message means for its commands and queries."""

    deadline: datetime | None = None
    """The time in the header `expires`, after which they are refused."""
    problems: tuple[Problem, ...] = ()
    """What the envelope asks for and is not done. They are refused for that."""
    trace: Trace | None = None
    """The span that has sent the message."""


NO_CONDITIONS = Conditions()


class Call(NamedTuple):
    """The call of a task. Of a signed message, `kwargs` are the fields that are signed."""

    kwargs: dict[str, Any]
    conditions: Conditions = NO_CONDITIONS
    signature: Signature | None = None


def read_envelope(
    headers: Mapping[str, Any] | None,
    body: bytes | str,
    *,
    content_type: str | None,
    content_encoding: str | None,
    tasks: frozenset[str],
) -> Call:
    """Return the call in a message to one of `tasks`. Its body must be decompressed already.

    Reads the body strictly: no NaN, no key twice, nothing larger than 1 MiB or deeper than a
    command can be. Headers have at most 64 KiB. What concerns only a monitor or the sender, such as
    `retries`, `shadow`, a `group` or stamps, is ignored.

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
    if not is_id(headers.get("id")):
        raise Unreadable(DeadLetterReason.MESSAGE_ID_INVALID)
    args, kwargs, embed = _read_body(body)
    problems = [
        Problem(field=f"headers.{name}", message=message)
        for name, message in UNSUPPORTED.items()
        if _says_something(headers.get(name))
    ]
    problems += [
        Problem(field=name, message=UNSUPPORTED[name])
        for name in EMBEDDED
        if _says_something(embed.get(name))
    ]
    if args:
        problems.append(Problem(field="args", message="must be empty: send keyword arguments"))
    deadline = None
    try:
        deadline = _read_deadline(headers.get("expires"))
    except PydanticCustomError as error:
        problems.append(Problem(field="headers.expires", message=error.message()))
    if problems and task not in ANSWERED:
        raise Unreadable(DeadLetterReason.HEADER_NOT_ALLOWED, problems[0].field)
    return call_of(task, kwargs, Conditions(deadline, tuple(problems), read_trace(headers)))


def call_of(task: str, kwargs: dict[str, Any], conditions: Conditions = NO_CONDITIONS) -> Call:
    """Return the call of a task with these keyword arguments. Raises Unreadable."""
    if task in ANSWERED and is_signed(kwargs):
        signature = read_signature(task, kwargs)
        _refuse_unsigned(conditions)
        conditions = Conditions(trace=conditions.trace)
        return Call(_read_signed(task, kwargs[SIGNED]), conditions, signature)
    return Call(kwargs, conditions)


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


def _read_deadline(expires: object) -> datetime | None:
    return read_time(expires) if _says_something(expires) else None


def _read_body(body: bytes | str) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Return args, kwargs and embed."""
    raw = body if isinstance(body, bytes) else body.encode(errors="surrogatepass")
    try:
        read = read_json(raw, bytes_max=MESSAGE_BYTES_MAX, levels_max=LEVELS_MAX)
    except NotJson as problem:
        raise Unreadable(DeadLetterReason.BODY_INVALID, str(problem)) from None
    match read:
        case [list(args), dict(kwargs), dict() | None as embed]:
            return args, kwargs, embed or {}
        case _:
            raise Unreadable(DeadLetterReason.BODY_NOT_A_CALL)


def _refuse_unsigned(conditions: Conditions) -> None:
    """Refuse conditions beside what is signed: anybody could add them to a copy of the message."""
    if conditions.deadline is not None:
        detail = "headers.expires is not signed; use not_after"
        raise Unreadable(DeadLetterReason.SIGNATURE_MALFORMED, detail)
    if conditions.problems:
        detail = f"{conditions.problems[0].field} is not signed"
        raise Unreadable(DeadLetterReason.SIGNATURE_MALFORMED, detail)


def _read_signed(task: str, text: str) -> dict[str, Any]:
    """Return the fields in the text that is signed."""
    try:
        fields = read_json(text.encode(), bytes_max=MESSAGE_BYTES_MAX, levels_max=LEVELS_MAX)
    except NotJson as problem:
        raise Unreadable(DeadLetterReason.SIGNATURE_MALFORMED, f"signed: {problem}") from None
    if not isinstance(fields, dict):
        raise Unreadable(DeadLetterReason.SIGNATURE_MALFORMED, "signed: is not an object")
    if task != APPLY and not is_id(fields.get("command_id")):
        # The id of the message is not signed, so it can't stand for this one.
        raise Unreadable(DeadLetterReason.SIGNATURE_MALFORMED, "signed: command_id is missing")
    return fields


def _says_something(value: object) -> bool:
    if isinstance(value, list | tuple):
        return any(part is not None for part in value)
    return bool(value)


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _zlib() -> _Decompressor:
    return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # zlib or gzip


def _lzma() -> _Decompressor:
    return lzma.LZMADecompressor(memlimit=LZMA_MEMORY_MAX)


_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {
    "application/x-gzip": _zlib,
    "gzip": _zlib,
    "zlib": _zlib,
    "application/x-bz2": bz2.BZ2Decompressor,
    "bzip2": bz2.BZ2Decompressor,
    "bzip": bz2.BZ2Decompressor,
    "application/x-lzma": _lzma,
    "lzma": _lzma,
    "xz": _lzma,
}
"""By the names that kombu writes into the header `compression`, and their aliases."""


def decompressed(body: bytes | str, compression: object) -> bytes:
    """Return a body that was compressed; never more than MESSAGE_BYTES_MAX. Raises Unreadable."""
    make = _DECOMPRESSORS.get(compression) if isinstance(compression, str) else None
    if make is None:
        raise Unreadable(DeadLetterReason.COMPRESSION_UNSUPPORTED, quoted(compression))
    raw = body if isinstance(body, bytes) else body.encode(errors="surrogatepass")
    decompressor = make()
    try:
        plain = decompressor.decompress(raw, MESSAGE_BYTES_MAX + 1)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, MemoryError) as error:
        detail = f"not decompressed: {type(error).__name__}"
        raise Unreadable(DeadLetterReason.BODY_INVALID, detail) from None
    if len(plain) > MESSAGE_BYTES_MAX:
        detail = f"more than {MESSAGE_BYTES_MAX} bytes when decompressed"
        raise Unreadable(DeadLetterReason.BODY_INVALID, detail)
    if not decompressor.eof or decompressor.unused_data:
        raise Unreadable(DeadLetterReason.BODY_INVALID, "not decompressed: not complete")
    return plain
