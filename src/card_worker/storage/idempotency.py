"""Idempotency keys, and the stored answers of commands that were handled before."""

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
from card_worker.storage.outbox import ANSWER_COLUMNS
from card_worker.storage.pipeline import Pending
from card_worker.storage.tables import idempotency_keys, outbox

Key = tuple[str, str]
"""(account_id, idempotency key)."""


@dataclass(frozen=True, slots=True)
class ClaimedKeys:
    """The idempotency keys of a group of commands: new ones, and those of earlier commands."""

    fresh: frozenset[Key]
    """Inserted now."""
    digests: dict[Key, str]
    """The digests of the earlier commands, by their keys."""


def claim_keys(
    connection: Connection, digests: dict[Key, str], now: datetime
) -> Pending[ClaimedKeys]:
    """Insert the keys of commands that don't exist yet; `digests` are those of the commands.

    If another commit is inserting the same key, this waits for its end, and then finds the key.
    Raises OperationalError after LOCK_TIMEOUT_MS.
    """
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
        known = [
            {"account_id": account_id, "key": key}
            for account_id, key in digests
            if (account_id, key) not in fresh
        ]
        found = find(connection, idempotency_keys, ("account_id", "key", "digest"), known)()
        return ClaimedKeys(
            fresh,
            {(account_id, key): _without_checksum(stored) for account_id, key, stored in found},
        )

    return wait


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


def find_answer(connection: Connection, command: Command) -> Answer | None:
    """Return the stored answer to a command; None if the command was not handled."""
    key, digest = key_and_digest(command)
    row = {"account_id": key[0], "key": key[1]}
    found = find(connection, idempotency_keys, ("digest",), [row])()
    if not found:
        return None
    ((stored,),) = found
    id = event_id(*(key if _without_checksum(stored) == digest else conflict_key(key, digest)))
    return stored_answers(connection, [id]).get(id)


def stored_answers(connection: Connection, ids: Iterable[UUID]) -> dict[UUID, Answer]:
    """Return stored answers by their ids."""
    rows = find(connection, outbox, ANSWER_COLUMNS, [{"id": id} for id in ids])()
    return {row[0]: Answer(*row) for row in rows}
