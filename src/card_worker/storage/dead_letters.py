"""Dead letters: what could not be read or done, as it came; and how often each was started.

Only tokens and PINs don't stay as they came: they are masked. Where operators have named a
recipient, the whole of such a letter is sealed to them, so that it can still be sent again.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from hashlib import sha256
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, case, null, select, true, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from card_worker.contracts.dead_letters import DeadLetterReason, explain
from card_worker.contracts.envelope import HEADERS_BYTES_MAX
from card_worker.contracts.json_text import json_bytes, write_json
from card_worker.contracts.text import cut
from card_worker.secrets.masking import masked, masked_body, masked_text
from card_worker.secrets.sealing import open_sealed, read_recipients, seal
from card_worker.secrets.secret import HIDDEN
from card_worker.storage.json_rows import delete_rows, json_table, parameters
from card_worker.storage.pipeline import send
from card_worker.storage.tables import LETTER_ID, starts
from card_worker.storage.tables import dead_letters as table
from card_worker.storage.types import Flag

DETAIL_CHARS_MAX = 32 * 1024
TEXT_CHARS_MAX = 255
HEADERS_CHARS_KEPT = 8 * 1024
RETURN_MARKS = b" \t"
"""What the transport puts behind an entry when it gives it back, if that ends as a message does."""
CUT = "cut"
"""The only header of a letter whose headers are too large to be read: their beginning, as JSON."""


class Start(NamedTuple):
    """A start of a message, of which so many workers have died before."""

    message_key: str
    deaths: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message nobody could be answered for. `body` is what lay on the queue, byte for byte, but
    for what is masked in it."""

    id: int = 0
    received_at: datetime
    queue: str | None
    task: str | None = None
    message_id: str | None = None
    reason: DeadLetterReason
    detail: str | None = None
    headers: Mapping[str, Any] | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    body: bytes
    is_masked: bool = False
    """Whether there was a secret in it."""
    sealed: bytes | None = None
    """If so, and if there is anybody who may open it: headers and body as they came."""
    settled_at: datetime | None = None
    settled_as: str | None = None
    aside_key: str | None = None
    """Where Redis keeps all of an entry of which `body` is only the beginning, until it expires;
    empty if it isn't kept; None for all other letters."""

    @property
    def explanation(self) -> str:
        """One line for operators."""
        return explain(self.reason, self.detail)

    @property
    def is_cut(self) -> bool:
        """Say whether the headers weren't kept whole, so that nobody can send it again."""
        return self.headers is not None and set(self.headers) == {CUT}


def add(connection: Connection, letter: DeadLetter, open_to: Sequence[str] = ()) -> None:
    """Keep `letter`. The same message once more opens its letter again: it is never two.

    What is secret in it is masked, and sealed to the age recipients `open_to`. The body is kept
    whole, however large it is; all else is bounded.
    """
    letter = _without_secrets(letter, open_to)
    values = {
        "received_at": letter.received_at,
        "queue": _in_text(letter.queue),
        "task": _in_text(letter.task),
        "message_id": _in_text(letter.message_id),
        "reason": letter.reason,
        "detail": _in_text(letter.detail, DETAIL_CHARS_MAX),
        "headers": letter.headers,
        "content_type": _in_text(letter.content_type),
        "content_encoding": _in_text(letter.content_encoding),
        "body": letter.body,
        "is_masked": letter.is_masked,
        "sealed": letter.sealed,
        "digest": _digest(letter),
        "settled_at": None,
        "settled_as": None,
        "aside_key": letter.aside_key,
    }
    upsert = postgresql_insert if connection.dialect.name == "postgresql" else sqlite_insert
    connection.execute(
        upsert(table)
        .values(values)
        .on_conflict_do_update(index_elements=[LETTER_ID, table.c.digest], set_=values)
    )


def listed(connection: Connection, *, settled: bool, letters_max: int) -> list[DeadLetter]:
    """Return the newest letters first: those that wait for an operator, or the settled ones."""
    waiting = table.c.settled_at.is_not(None) if settled else table.c.settled_at.is_(None)
    statement = select(table).where(waiting).order_by(table.c.id.desc()).limit(letters_max)
    return [_letter(row._asdict()) for row in connection.execute(statement)]


def find(connection: Connection, id: int) -> DeadLetter | None:
    """Return one letter, settled or not."""
    row = connection.execute(select(table).where(table.c.id == id)).first()
    return None if row is None else _letter(row._asdict())


def settle(
    connection: Connection,
    id: int,
    now: datetime,
    outcome: str,
    *,
    as_received_at: datetime | None = None,
) -> bool:
    """Note what an operator did with a letter; say whether it was waiting. The row stays.

    With `as_received_at`, a letter whose message has come once more since then goes on waiting.
    """
    waiting = (table.c.id == id) & table.c.settled_at.is_(None)
    if as_received_at is not None:
        waiting &= table.c.received_at == as_received_at
    done = connection.execute(
        update(table).where(waiting).values(settled_at=now, settled_as=outcome)
    )
    return done.rowcount == 1


def count_starts(
    connection: Connection, noted: Sequence[Start], now: datetime, *, failed: bool = False
) -> list[int]:
    """Note that messages are about to be started again; return how many starts of each count.

    Committed before the starts, so that a message that kills its process is counted too. A start
    takes the place of the last one if that has neither killed its worker nor `failed`: then the
    worker itself has broken it off.
    """
    deaths = {one.message_key: one.deaths for one in noted}
    rows = [
        {"message_key": key, "starts": 1, "started_at": now, "deaths": deaths[key]}
        for key in sorted(deaths)
    ]
    dialect = connection.dialect.name
    values = parameters(dialect, tuple(starts.columns), rows)
    counted = send(connection, _count(dialect), {**values, "failed": failed})()
    counts: dict[str, int] = dict(counted)
    return [counts[one.message_key] for one in noted]


@cache
def _count(dialect: str) -> Any:
    upsert = postgresql_insert if dialect == "postgresql" else sqlite_insert
    columns = tuple(starts.columns)
    source = select(json_table(dialect, columns)).where(true())
    row = upsert(starts).from_select([c.name for c in columns], source)
    new, failed = row.excluded, bindparam("failed", type_=Flag)
    is_over = starts.c.deaths.is_(None) | (starts.c.deaths < new.deaths) | failed
    changed = {
        "starts": case((is_over, starts.c.starts + 1), else_=starts.c.starts),
        "started_at": new.started_at,
        "deaths": new.deaths,
    }
    counted = row.on_conflict_do_update(index_elements=[starts.c.message_key], set_=changed)
    return counted.returning(starts.c.message_key, starts.c.starts)


def uncount_starts(connection: Connection, message_keys: Sequence[str]) -> None:
    """Take back the last start of each message: it came to nothing without its fault."""
    dialect = connection.dialect.name
    rows = [{"message_key": key} for key in message_keys]
    values = parameters(dialect, (starts.c.message_key,), rows)
    send(connection, _uncount(dialect), values)


@cache
def _uncount(dialect: str) -> Any:
    taken_back = select(json_table(dialect, (starts.c.message_key,)))
    own = starts.c.message_key.in_(taken_back) & starts.c.deaths.is_not(None)
    return update(starts).where(own).values(starts=starts.c.starts - 1, deaths=null())


def forget_starts(connection: Connection, message_keys: Sequence[str]) -> None:
    """Count from nothing again: the messages are done, or an operator sends them once more."""
    delete_rows(connection, starts, [{"message_key": key} for key in message_keys])


def opened(letter: DeadLetter, secrets: Sequence[str]) -> DeadLetter:
    """Return a sealed letter as it came, to the owner of an age identity. Raises NotOpened."""
    assert letter.sealed is not None
    whole = json.loads(open_sealed(secrets, letter.sealed))
    return replace(letter, headers=whole["headers"], body=base64.b64decode(whole["body"]))


def _without_secrets(letter: DeadLetter, open_to: Sequence[str]) -> DeadLetter:
    headers, body = masked(letter.headers, letter.task), masked_body(letter.body, letter.task)
    is_masked = (headers, body) != (letter.headers, letter.body)
    if is_masked and headers and "kwargsrepr" in headers:
        headers["kwargsrepr"] = HIDDEN  # as its sender's Celery showed the same fields
    sealed = None
    if is_masked and open_to:
        encoded = base64.b64encode(letter.body).decode("ascii")
        whole = write_json({"headers": _bounded(letter.headers), "body": encoded})
        sealed = seal(read_recipients(open_to), whole.encode(errors="surrogatepass"))
    detail, content_type, content_encoding = (
        text and masked_text(text)
        for text in (letter.detail, letter.content_type, letter.content_encoding)
    )
    return replace(
        letter,
        headers=_bounded(headers),
        body=body,
        detail=detail,
        content_type=content_type,
        content_encoding=content_encoding,
        is_masked=is_masked,
        sealed=sealed,
    )


def _bounded(headers: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return headers as they are kept: whole, or their beginning if they are too large."""
    if headers is None or json_bytes(headers) <= HEADERS_BYTES_MAX:
        return headers
    return {CUT: cut(write_json(headers), HEADERS_CHARS_KEPT)}


def _digest(letter: DeadLetter) -> str:
    """Return what tells the same message, come once more, from another one with its id."""
    around = write_json([letter.headers, letter.content_type, letter.content_encoding])
    body = letter.body
    if letter.message_id is None and (unmarked := body.rstrip(RETURN_MARKS)).endswith(b"}"):
        # Of an entry that is no message they count how often it has come back.
        body = unmarked
    return sha256(around.encode() + body).hexdigest()


def _letter(row: dict[str, Any]) -> DeadLetter:
    del row["digest"]
    sealed = None if row["sealed"] is None else bytes(row["sealed"])
    reason = DeadLetterReason(row["reason"])
    return DeadLetter(**{**row, "reason": reason, "body": bytes(row["body"]), "sealed": sealed})


def _in_text(text: str | None, chars_max: int = TEXT_CHARS_MAX) -> str | None:
    """Return the beginning of `text` so that any database holds it: what isn't Unicode, and NUL,
    are escaped."""
    if text is None:
        return None
    escaped = text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
    return cut(escaped, chars_max)
