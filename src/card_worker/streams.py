"""The stream of events, compared with its consumer groups and with the outbox."""

import json
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from redis import Redis
from redis.exceptions import ResponseError
from sqlalchemy import Engine

from card_worker.contracts.enums import EventType
from card_worker.contracts.events import is_pruned
from card_worker.storage.engine import reading
from card_worker.storage.inspection import find_events

SLICE_ENTRIES = 500
FIELDS = ("id", "type", "account_id", "subject", "event")
"""The fields of an entry of the stream."""


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


class Why(StrEnum):
    """Why an entry of the stream is unknown."""

    MISSING = "not in the database"
    CHANGED = "other content in the database"
    """Its command was done again."""
    FOREIGN = "not an event of ours"


class UnknownEntry(NamedTuple):
    """An entry of the stream that the outbox doesn't have: the database was restored, or another
    server took over that lacks the last commits. Or somebody else has added it."""

    entry_id: str
    why: Why
    event_id: str = ""
    type: str = ""
    account_id: str = ""
    subject: str = ""


Entry: TypeAlias = tuple[str, dict[str, str]]
"""The id of an entry, and its fields."""


def unknown_entries(redis: Redis, stream: str, engine: Engine) -> Iterator[UnknownEntry]:
    """Yield the entries of the stream, from the oldest on, that the outbox doesn't have.

    Raises RedisError. `redis` decodes responses.
    """
    after = "-"
    while True:
        entries: Any = redis.xrange(stream, after, "+", count=SLICE_ENTRIES)
        yield from unknown_among(entries, engine)
        if len(entries) < SLICE_ENTRIES:
            return
        after = f"({entries[-1][0]}"


def unknown_among(entries: Sequence[Entry], engine: Engine) -> Iterator[UnknownEntry]:
    """Yield those of some entries that the outbox doesn't have.

    They must have been read before: what is published is committed.
    """
    origins = [_origin(fields) for _, fields in entries]
    with reading(engine) as connection:
        stored = find_events(connection, {origin.id for origin in origins if origin})
    for (entry_id, fields), origin in zip(entries, origins, strict=True):
        if origin is None:
            yield UnknownEntry(entry_id, Why.FOREIGN)
            continue
        event = stored.get(origin.id)
        is_kept = event is not None and not is_pruned(event)
        about = (fields.get(name, "") for name in ("id", "type", "account_id", "subject"))
        if event is None:
            yield UnknownEntry(entry_id, Why.MISSING, *about)
        elif is_kept and origin.event not in (None, event):
            yield UnknownEntry(entry_id, Why.CHANGED, *about)


class _Origin(NamedTuple):
    """What the outbox must have because of an entry."""

    id: UUID
    event: str | None
    """Its JSON; None if the entry is an answer that was published again for another command."""


def _origin(fields: dict[str, str]) -> _Origin | None:
    """Return what the outbox must have because of an entry. None: it is not an event of ours.

    The relay makes repeats from stored answers, and stores none.
    """
    try:
        event = json.loads(fields["event"])
        if event["type"] != EventType.COMMAND_REPEATED:
            return _Origin(UUID(event["id"]), fields["event"])
        data = event["data"]
        return _Origin(UUID(data["event"]["id"] if "event" in data else data["event_id"]), None)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return None
