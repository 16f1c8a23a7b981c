"""Idempotency keys, and the stored answers of commands that were handled before."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID
from zlib import crc32

from sqlalchemy import Connection, Select, select

from card_worker.contracts.commands import Command, digest_of, event_id
from card_worker.contracts.keys import conflict
from card_worker.domain.answers import Answer
from card_worker.storage.json_rows import (
    Columns,
    columns_named,
    find,
    insert_absent,
    json_table,
    parameters,
)
from card_worker.storage.outbox import ANSWER_COLUMNS
from card_worker.storage.pipeline import Pending, Rows, send
from card_worker.storage.repeats import insert_repeats, new_mark
from card_worker.storage.tables import idempotency_keys, outbox, repeats

Key = tuple[str, str]
"""(account_id, idempotency key)."""


class SentKey(NamedTuple):
    """The idempotency key of a command that was sent, and the digest of its content."""

    key: Key
    digest: str
    command_id: str | None
    """For which the stored answer is published again; None: it is not."""


@dataclass(frozen=True, slots=True)
class ClaimedKeys:
    """The idempotency keys of a group of commands: new ones, and those of earlier commands."""

    fresh: frozenset[Key]
    """Inserted now."""
    digests: dict[Key, str]
    """The digests of the earlier commands, by their keys."""
    answers: dict[UUID, Answer]
    """The answers to the earlier commands, by their ids."""


def claim_keys(
    connection: Connection, sent: Sequence[SentKey], now: datetime
) -> Pending[ClaimedKeys]:
    """Insert the keys of commands that don't exist yet, and find the answers of the others.

    Of several commands with a key, the first claims it. An earlier answer is published again if its
    command had the same content. If another commit is inserting the same key, this waits for its
    end, and then finds the key. Raises OperationalError after LOCK_TIMEOUT_MS.
    """
    digests = {key: digest for key, digest, _ in reversed(sent)}
    rows = [
        {
            "account_id": account_id,
            "key": key,
            "digest": with_checksum((account_id, key), digests[account_id, key]),
            "event_id": event_id(account_id, key),
            "created_at": now,
        }
        for account_id, key in sorted(digests)
    ]
    inserted = insert_absent(connection, idempotency_keys, rows)

    def wait() -> ClaimedKeys:
        fresh = frozenset(inserted())
        known = _find_known(
            connection, sorted({one for one in sent if one.key not in fresh}, key=repr)
        )
        return ClaimedKeys(
            fresh,
            {(row[0], row[1]): _without_checksum(row[2]) for row in known},
            {row[3]: Answer(*row[3:]) for row in known if row[3] is not None},
        )

    return wait


def find_digests(connection: Connection, keys: Sequence[Key]) -> dict[Key, str]:
    """Return the digests of those of the keys that exist."""
    rows = [{"account_id": account_id, "key": key} for account_id, key in keys]
    found = find(connection, idempotency_keys, ("account_id", "key", "digest"), rows)()
    return {(row[0], row[1]): _without_checksum(row[2]) for row in found}


def _find_known(connection: Connection, sent: Sequence[SentKey]) -> Rows:
    """Find keys of earlier commands, with their answers, and note the repeats of these.

    Return account_id, key, digest and answer. On PostgreSQL it is one statement, so that a command
    that is sent again takes no more statements than the first time.
    """
    if not sent:
        return []
    dialect = connection.dialect.name
    rows = [
        {
            "account_id": key[0],
            "key": key[1],
            "digest": with_checksum(key, digest),
            "command_id": command_id,
            "mark": new_mark(),
        }
        for key, digest, command_id in sent
    ]
    values = parameters(dialect, _SENT, rows)
    if dialect != "postgresql":
        send(connection, _note_known(dialect), values)
    return send(connection, _select_known(dialect), values)()


_SENT: Columns = (
    *columns_named(idempotency_keys, ("account_id", "key", "digest")),
    *columns_named(repeats, ("command_id", "mark")),
)


@cache
def _note_known(dialect: str) -> Any:
    source = json_table(dialect, _SENT)
    known = idempotency_keys.c
    repeat = select(known.event_id, source.c.command_id, source.c.mark).where(
        known.account_id == source.c.account_id,
        known.key == source.c.key,
        known.digest == source.c.digest,
        source.c.command_id.is_not(None),
    )
    return insert_repeats(dialect, repeat)


@cache
def _select_known(dialect: str) -> Select[Any]:
    source = json_table(dialect, _SENT)
    known = idempotency_keys.c
    statement = (
        select(known.account_id, known.key, known.digest, *columns_named(outbox, ANSWER_COLUMNS))
        .join(source, (known.account_id == source.c.account_id) & (known.key == source.c.key))
        .outerjoin(outbox, outbox.c.id == known.event_id)
        .distinct()
    )
    return (
        statement.add_cte(_note_known(dialect).cte("noted"))
        if dialect == "postgresql"
        else statement
    )


def key_and_digest(command: Command) -> tuple[Key, str]:
    """Return the idempotency key of a command, and the digest of its content."""
    return (command.account_id, command.key), digest_of(command)


def with_checksum(key: Key, digest: str) -> str:
    """Return a digest as it is stored: with a checksum of the key and the digest.

    The content of a command is not stored, so only this shows that a digest was altered or belongs
    to another key.
    """
    account_id, name = key
    return f"{digest}:{crc32(f'{account_id}/{name} {digest}'.encode()):08x}"


def _without_checksum(stored: str) -> str:
    return stored.partition(":")[0]


def conflict_key(key: Key, digest: str) -> Key:
    """Return the key of the refusal of a command whose own key an earlier command has used."""
    account_id, taken = key
    return account_id, conflict(taken, digest)
