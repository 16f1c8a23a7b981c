"""Whether a command has been handled before, and what it was answered then."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID
from zlib import crc32

from sqlalchemy import Connection

from card_worker.contracts.commands import Command, digest_of, event_id
from card_worker.contracts.keys import conflict
from card_worker.domain.answers import Answer
from card_worker.storage.json_rows import find, insert_absent
from card_worker.storage.pipeline import Pending
from card_worker.storage.tables import idempotency_keys, outbox

Key = tuple[str, str]
"""(account_id, idempotency key)."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What became of the keys of a group of commands."""

    fresh: frozenset[Key]
    """Never handled before, and now ours to answer."""
    digests: dict[Key, str]
    """Handled before: the digest of what was asked then."""


def claim(connection: Connection, asked: dict[Key, str], now: datetime) -> Pending[Claim]:
    """Record `asked`, digests by key, as handled; return what waits for which of them are fresh.

    Two workers given the same key meet here: the second waits for the first to commit, then finds
    it handled. Raises OperationalError after LOCK_TIMEOUT_MS.
    """
    rows = [
        {
            "account_id": account_id,
            "key": key,
            "digest": checked((account_id, key), asked[account_id, key]),
            "event_id": event_id(account_id, key),
            "created_at": now,
        }
        for account_id, key in sorted(asked)
    ]
    inserted = insert_absent(connection, idempotency_keys, rows)

    def wait() -> Claim:
        fresh = frozenset(inserted())
        if len(fresh) == len(asked):
            return Claim(fresh, {})
        handled = [
            {"account_id": account_id, "key": key}
            for account_id, key in asked
            if (account_id, key) not in fresh
        ]
        found = find(connection, idempotency_keys, ("account_id", "key", "digest"), handled)()
        return Claim(
            fresh, {(account_id, key): _plain(digest) for account_id, key, digest in found}
        )

    return wait


def key_and_digest(command: Command) -> tuple[Key, str]:
    """Return what a command is known by, and what it asks."""
    return (command.account_id, command.key), digest_of(command)


def checked(key: Key, digest: str) -> str:
    """Return a digest as it is stored: with a check sum over the key and itself, so that one which
    was altered, or is another key's, is noticed although what was asked is not kept."""
    account_id, name = key
    return f"{digest}:{crc32(f'{account_id}/{name} {digest}'.encode()):08x}"


def _plain(stored: str) -> str:
    return stored.partition(":")[0]


def conflict_key(key: Key, digest: str) -> Key:
    """Return the key of a refusal that can't have the command's own, which belongs to another."""
    account_id, taken = key
    return account_id, conflict(taken, digest)


def answer_before(connection: Connection, command: Command) -> Answer | None:
    """Return what a command was answered when it was handled before; None when it wasn't."""
    key, digest = key_and_digest(command)
    account_id, name = key
    handled = find(
        connection, idempotency_keys, ("digest",), [{"account_id": account_id, "key": name}]
    )()
    if not handled:
        return None
    ((known,),) = handled
    id = event_id(*(key if _plain(known) == digest else conflict_key(key, digest)))
    return stored_answers(connection, [id]).get(id)


def stored_answers(connection: Connection, ids: Iterable[UUID]) -> dict[UUID, Answer]:
    """Return the answers given before, byte for byte."""
    names = ("id", "account_id", "type", "subject", "partition_key", "event", "created_at")
    rows = find(connection, outbox, names, [{"id": id} for id in ids])()
    return {row[0]: Answer(*row) for row in rows}
