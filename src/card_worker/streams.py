"""The stream of events, compared with its consumer groups and with the outbox."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from uuid import UUID

from redis import Redis
from redis.exceptions import ResponseError
from sqlalchemy import Engine, select

from card_worker.contracts.enums import EventType
from card_worker.contracts.events import is_pruned
from card_worker.storage.engine import reading
from card_worker.storage.tables import outbox

SLICE_ENTRIES = 500
FIELDS = ("id", "type", "account_id", "subject", "event")
"""The fields of an entry of the stream."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class GroupBehind(NamedTuple):
    """A consumer group that will lose entries if it goes on like this."""

    group: str
    entries: int | None
    """How many entries it hasn't read; None if Redis doesn't know."""
    seconds: int
    """The age of the oldest entry that it hasn't read or acknowledged."""


def groups_behind(
    redis: Redis, stream: str, entries_max: int, keep_s: int
) -> Iterator[GroupBehind]:
    """Yield the consumer groups that are behind by half of `entries_max` or of `keep_s`.

    Raises RedisError. `redis` decodes responses.
    """
    try:
        groups: Any = redis.xinfo_groups(stream)
    except ResponseError as error:
        if "no such key" not in str(error):
            raise
        return
    now: Any = redis.time()
    for group in groups:
        seconds = max(0, now[0] - _oldest_ms(redis, stream, group, now[0] * 1000) // 1000)
        lag = group.get("lag")
        if seconds * 2 >= keep_s or (lag or 0) * 2 >= entries_max:
            yield GroupBehind(group["name"], lag, seconds)


def _oldest_ms(redis: Redis, stream: str, group: dict[str, Any], now_ms: int) -> int:
    """Return when the oldest entry was added that a group hasn't read or acknowledged."""
    unread: Any = redis.xrange(stream, f"({group['last-delivered-id']}", "+", count=1)
    ids = [id for id, _ in unread]
    if group["pending"]:
        pending: Any = redis.xpending(stream, group["name"])
        ids.append(pending["min"])
    return min((int(id.partition("-")[0]) for id in ids if id), default=now_ms)


class UnknownEntry(NamedTuple):
    """An entry of the stream that the outbox doesn't have: the database was restored, or another
    server took over that lacks the last commits."""

    entry_id: str
    event_id: str
    type: str
    account_id: str
    subject: str
    is_changed: bool
    """The outbox has an event with this id, and other content: its command was done again."""


def unknown_entries(redis: Redis, stream: str, engine: Engine) -> Iterator[UnknownEntry]:
    """Yield the entries of the stream, from the oldest on, that the outbox doesn't have.

    Raises RedisError. `redis` decodes responses.
    """
    after = "-"
    while True:
        entries: Any = redis.xrange(stream, after, "+", count=SLICE_ENTRIES)
        # The entries are read first: what is published is committed.
        stored = _stored(engine, [fields.get("id", "") for _, fields in entries])
        for entry_id, fields in entries:
            # Whoever else has written an entry may have left out any field.
            event_id, type, account_id, subject, text = (fields.get(name, "") for name in FIELDS)
            event = stored.get(event_id)
            is_kept = event is not None and not is_pruned(event)
            # The relay makes repeats from stored answers, and stores none.
            is_missing = event is None and type != EventType.COMMAND_REPEATED
            is_changed = is_kept and event != text
            if is_missing or is_changed:
                yield UnknownEntry(entry_id, event_id, type, account_id, subject, is_changed)
        if len(entries) < SLICE_ENTRIES:
            return
        after = f"({entries[-1][0]}"


def _stored(engine: Engine, ids: list[str]) -> dict[str, str]:
    wanted = [UUID(id) for id in ids if _UUID.fullmatch(id)]
    columns = select(outbox.c.id, outbox.c.event).where(outbox.c.id.in_(wanted))
    with reading(engine) as connection:
        return {str(id): event for id, event in connection.execute(columns)}
