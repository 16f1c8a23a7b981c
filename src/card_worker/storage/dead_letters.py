"""Dead letters: messages that could not be read or done, with the reason.

They are stored as they arrived, except that tokens and PINs are masked. Where operators have named
recipients, the whole of such a message is also sealed to these, so that it can be sent again.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, func, select, update

from card_worker.contracts.dead_letters import DeadLetterReason, explain
from card_worker.contracts.envelope import HEADERS_BYTES_MAX
from card_worker.contracts.json_text import json_bytes, write_json
from card_worker.contracts.text import cut
from card_worker.secrets.masking import masked, masked_body, masked_text
from card_worker.secrets.sealing import open_sealed, read_recipients, seal
from card_worker.secrets.secret import HIDDEN
from card_worker.storage.json_rows import upsert
from card_worker.storage.tables import MESSAGE_ID_OR_EMPTY, unauthenticated
from card_worker.storage.tables import dead_letters as table

DETAIL_CHARS_MAX = 32 * 1024
TEXT_CHARS_MAX = 255
HEADERS_CHARS_KEPT = 8 * 1024
RETURN_MARKS = b" \t"
"""The transport appends these to an entry that it returns, if the entry ends as a message does."""
CUT = "cut"
"""The only header of a dead letter whose headers are too large to be read: the beginning of their
JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that has no answer. `body` is as it was on the queue, byte for byte, except for
    what is masked in it."""

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
    """Headers and body as they arrived, if there was a secret and there are recipients."""
    resolved_at: datetime | None = None
    resolution: str | None = None
    """What an operator did with it: `requeued` or `dropped`."""
    aside_key: str | None = None
    """Where Redis keeps all of an entry of which `body` is only the beginning, until it expires;
    empty if it isn't kept; None for all other dead letters."""
    signature: str | None = None
    """The SHA-256 of what the message's signature covers, if it is signed."""

    @property
    def explanation(self) -> str:
        """One line for operators."""
        return explain(self.reason, self.detail)

    @property
    def is_cut(self) -> bool:
        """Say whether only the beginning of the headers is stored: it can't be sent again."""
        return self.headers is not None and set(self.headers) == {CUT}


class Which(NamedTuple):
    """Which dead letters are meant: all of whose conditions hold."""

    reason: DeadLetterReason | None = None
    task: str | None = None
    since: datetime | None = None
    """Received at this time or later."""
    before: datetime | None = None

    def condition(self, *, resolved: bool) -> ColumnElement[bool]:
        """Return the condition for the resolved dead letters that are meant, or for the open."""
        is_resolved = table.c.resolved_at.is_not(None)
        conditions: list[ColumnElement[bool]] = [
            is_resolved if resolved else table.c.resolved_at.is_(None)
        ]
        if self.reason is not None:
            conditions.append(table.c.reason == self.reason)
        if self.task is not None:
            conditions.append(table.c.task == self.task)
        if self.since is not None:
            conditions.append(table.c.received_at >= self.since)
        if self.before is not None:
            conditions.append(table.c.received_at < self.before)
        return and_(*conditions)


ALL = Which()


class ReasonCount(NamedTuple):
    """How many dead letters have a reason, and when the first and last of them were received."""

    reason: DeadLetterReason
    letters: int
    first_at: datetime
    last_at: datetime


_COLUMNS = [table.c[field.name] for field in fields(DeadLetter)]


def add(connection: Connection, letter: DeadLetter, recipients: Sequence[str] = ()) -> None:
    """Store a dead letter. If the same message is stored already, that becomes unresolved again.

    Secrets are masked, and sealed to the age `recipients`. The body is stored whole, however large
    it is; everything else is bounded.
    """
    letter = _without_secrets(letter, recipients)
    values = {field.name: getattr(letter, field.name) for field in fields(letter)}
    del values["id"]
    for name in ("queue", "task", "message_id", "content_type", "content_encoding"):
        values[name] = _in_text(values[name])
    values["detail"] = _in_text(letter.detail, DETAIL_CHARS_MAX)
    values |= {"digest": _digest(letter), "resolved_at": None, "resolution": None}
    connection.execute(
        upsert(connection.dialect.name, table)
        .values(values)
        .on_conflict_do_update(index_elements=[MESSAGE_ID_OR_EMPTY, table.c.digest], set_=values)
    )


def find_requeued(connection: Connection, signature: str) -> datetime | None:
    """Return when a message that was requeued arrived first; None if it was not requeued.

    `signature` is the SHA-256 of what is signed.
    """
    of_message = (table.c.signature == signature) & (table.c.resolution == "requeued")
    first = select(func.min(table.c.received_at)).where(of_message)
    received_at: datetime | None = connection.execute(first).scalar_one()
    return received_at


def is_known(connection: Connection, letter: DeadLetter) -> bool:
    """Say whether the same message is stored already."""
    same = func.coalesce(table.c.message_id, "") == (_in_text(letter.message_id) or "")
    digest = _digest(_without_secrets(letter, ()))
    found = select(table.c.id).where(same, table.c.digest == digest)
    return connection.execute(found).first() is not None


def unauthenticated_left(connection: Connection, at: datetime, stored_max: int) -> int:
    """Return how many more messages of unknown senders may be stored on the UTC day of `at`."""
    stored = select(func.coalesce(func.sum(unauthenticated.c.stored), 0)).where(
        unauthenticated.c.day == at.date().isoformat()
    )
    return max(0, stored_max - int(connection.execute(stored).scalar_one()))


def count_unauthenticated(
    connection: Connection, letters: Sequence[tuple[DeadLetter, bool]]
) -> None:
    """Count messages of unknown senders, each with whether it is stored as a dead letter."""
    added = upsert(connection.dialect.name, unauthenticated)
    counts = ("stored", "counted", "bytes")
    added = added.on_conflict_do_update(
        index_elements=list(unauthenticated.primary_key),
        set_={name: unauthenticated.c[name] + added.excluded[name] for name in counts},
    )
    for letter, is_stored in sorted(letters, key=lambda each: each[0].reason):
        row: dict[str, Any] = {
            "day": letter.received_at.date().isoformat(),
            "reason": letter.reason,
        }
        row |= {"stored": int(is_stored), "counted": int(not is_stored), "bytes": len(letter.body)}
        connection.execute(added, row)


def list_letters(
    connection: Connection, *, resolved: bool, letters_max: int, which: Which = ALL
) -> list[DeadLetter]:
    """Return dead letters, the newest first: the unresolved ones, or the resolved ones."""
    is_listed = which.condition(resolved=resolved)
    statement = select(*_COLUMNS).where(is_listed).order_by(table.c.id.desc()).limit(letters_max)
    return [DeadLetter(**row._asdict()) for row in connection.execute(statement)]


def open_ids(connection: Connection, which: Which) -> list[int]:
    """Return the ids of unresolved dead letters, the oldest first."""
    statement = select(table.c.id).where(which.condition(resolved=False)).order_by(table.c.id)
    return list(connection.execute(statement).scalars())


def count_by_reason(
    connection: Connection, *, resolved: bool, which: Which = ALL
) -> list[ReasonCount]:
    """Return how many dead letters there are for each reason, the most frequent first."""
    count = func.count()
    statement = (
        select(table.c.reason, count, func.min(table.c.received_at), func.max(table.c.received_at))
        .where(which.condition(resolved=resolved))
        .group_by(table.c.reason)
        .order_by(count.desc(), table.c.reason)
    )
    return [ReasonCount._make(row) for row in connection.execute(statement)]


def find(connection: Connection, id: int) -> DeadLetter | None:
    """Return a dead letter, resolved or not."""
    row = connection.execute(select(*_COLUMNS).where(table.c.id == id)).first()
    return None if row is None else DeadLetter(**row._asdict())


def resolve(
    connection: Connection,
    id: int,
    now: datetime,
    resolution: str,
    *,
    as_received_at: datetime | None = None,
) -> bool:
    """Store what an operator did with a dead letter; say whether it was unresolved.

    With `as_received_at`, a dead letter whose message has arrived again since then stays
    unresolved.
    """
    is_open = (table.c.id == id) & table.c.resolved_at.is_(None)
    if as_received_at is not None:
        is_open &= table.c.received_at == as_received_at
    changed = update(table).where(is_open).values(resolved_at=now, resolution=resolution)
    return connection.execute(changed).rowcount == 1


def begin_requeue(connection: Connection, id: int) -> None:
    """Note that a dead letter is being sent again: its signature may be old by now."""
    connection.execute(update(table).where(table.c.id == id).values(resolution="requeued"))


def open_letter(letter: DeadLetter, identities: Sequence[str]) -> DeadLetter:
    """Return a sealed dead letter with headers and body as they arrived. Raises NotOpened."""
    assert letter.sealed is not None
    whole = json.loads(open_sealed(identities, letter.sealed))
    return replace(letter, headers=whole["headers"], body=base64.b64decode(whole["body"]))


def _without_secrets(letter: DeadLetter, recipients: Sequence[str]) -> DeadLetter:
    headers, body = masked(letter.headers, letter.task), masked_body(letter.body, letter.task)
    is_masked = (headers, body) != (letter.headers, letter.body)
    if is_masked and headers and "kwargsrepr" in headers:
        headers["kwargsrepr"] = HIDDEN  # in it, the sender's Celery has shown the same fields
    sealed = None
    if is_masked and recipients:
        encoded = base64.b64encode(letter.body).decode("ascii")
        whole = write_json({"headers": _bounded(letter.headers), "body": encoded})
        sealed = seal(read_recipients(recipients), whole.encode(errors="surrogatepass"))
    changed: dict[str, Any] = {
        name: masked_text(text)
        for name in ("detail", "content_type", "content_encoding")
        if (text := getattr(letter, name))
    }
    changed |= {"headers": _bounded(headers), "body": body, "is_masked": is_masked}
    return replace(letter, sealed=sealed, **changed)


def _bounded(headers: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return headers as they are stored: whole, or their beginning if they are too large."""
    if headers is None or json_bytes(headers) <= HEADERS_BYTES_MAX:
        return headers
    return {CUT: cut(write_json(headers), HEADERS_CHARS_KEPT)}


def _digest(letter: DeadLetter) -> str:
    """Return a digest that is equal for the same message, and differs for others with its id."""
    around = write_json([letter.headers, letter.content_type, letter.content_encoding])
    body = letter.body
    if letter.message_id is None and (unmarked := body.rstrip(RETURN_MARKS)).endswith(b"}"):
        # The marks only count how often the transport has returned the entry.
        body = unmarked
    return sha256(around.encode() + body).hexdigest()


def _in_text(text: str | None, chars_max: int = TEXT_CHARS_MAX) -> str | None:
    """Return the beginning of `text`, with NUL and whatever isn't Unicode escaped: databases can't
    store these."""
    if text is None:
        return None
    escaped = text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
    return cut(escaped, chars_max)
