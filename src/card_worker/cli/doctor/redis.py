"""Checks of Redis: the server, its policies, misdirected commands, and the event stream."""

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from time import time
from typing import Any, NamedTuple
from uuid import UUID

from redis import Redis
from redis.exceptions import NoPermissionError
from sqlalchemy import Engine

from card_worker.cli.doctor.finding import Finding, Level, ahead_s, clock_finding
from card_worker.contracts.commands import APPLY, COMMANDS
from card_worker.contracts.enums import EventType
from card_worker.contracts.events import is_pruned
from card_worker.contracts.fields import read_time
from card_worker.contracts.json_text import write_time
from card_worker.contracts.queries import QUERIES
from card_worker.settings import Settings
from card_worker.storage import inspection
from card_worker.storage.engine import reading
from card_worker.streams import groups_behind
from card_worker.transport.access import lists_of
from card_worker.transport.state import read_version
from card_worker.worker.default_queue import DEFAULT_QUEUE, count_ours

REDIS_MIN = (6, 2)
FULL = 0.8
"""Share of maxmemory above which there is a warning."""
ENTRIES_CHECKED = 1_000
PAGE = 200
PERSISTENCE = {
    "aof_last_write_status": "the append-only file can't be written",
    "aof_last_bgrewrite_status": "the append-only file can't be rewritten",
    "rdb_last_bgsave_status": "the last snapshot can't be written",
}
Info = dict[str, Any]


def check_broker(redis: Redis) -> Iterator[Finding]:
    """Check the server of the queues, and Celery's default queue. Raises RedisError."""
    yield from check_redis(redis, "broker")
    yield _check_default_queue(redis)


def check_redis(redis: Redis, part: str) -> Iterator[Finding]:
    """Check a server. Raises RedisError."""
    before = time()
    seconds, microseconds = redis.time()
    after = time()
    info: Info = redis.info()
    yield version_finding(part, read_version(redis), info)
    yield from _check_policy(part, info)
    yield from _check_memory(part, info)
    yield from _check_persistence(redis, part, info)
    yield clock_finding(part, ahead_s(before, seconds + microseconds / 1e6, after))


def version_finding(part: str, name: str, info: Info) -> Finding:
    """Return whether this version of the server is supported, and its kind."""
    version = tuple(int(number) for number in str(info["redis_version"]).split(".")[:2])
    if version < REDIS_MIN:
        return Finding(Level.WRONG, part, f"{name} is too old", "use Redis 6.2 or newer, or Valkey")
    if info.get("cluster_enabled"):
        text = f"{name} is a cluster, which does not work"
        return Finding(Level.WRONG, part, text, "use one server, with or without replicas")
    if info.get("role") != "master":
        text = f"{name} is a replica, which accepts no writes"
        return Finding(Level.WRONG, part, text, "let the URL name the primary server")
    return Finding(Level.OK, part, name)


def _check_policy(part: str, info: Info) -> Iterator[Finding]:
    policy = info.get("maxmemory_policy")
    if policy == "noeviction":
        yield Finding(Level.OK, part, "maxmemory-policy is noeviction")
        return
    text = f"maxmemory-policy is {policy}: when memory is full, it deletes commands and events"
    yield Finding(Level.WRONG, part, text, "set maxmemory-policy noeviction")


def _check_memory(part: str, info: Info) -> Iterator[Finding]:
    limit, used = int(info["maxmemory"]), int(info["used_memory"])
    if not limit:
        text = "maxmemory is not set: the system may kill the server when memory is full"
        yield Finding(Level.WARNING, part, text, "set maxmemory below the memory of the machine")
    elif used > FULL * limit:
        level = Level.WARNING if used < limit else Level.WRONG
        text = f"{used / limit:.0%} of maxmemory are used: a full server accepts no commands"
        yield Finding(level, part, text, "give it more memory, or trim the stream of events")
    else:
        yield Finding(Level.OK, part, f"{used / limit:.0%} of maxmemory are used")


def _check_persistence(redis: Redis, part: str, info: Info) -> Iterator[Finding]:
    if not info.get("aof_enabled"):
        text = "appendonly is off: a restart loses waiting commands"
        yield Finding(Level.WRONG, part, text, "set appendonly yes")
        return
    fsync: Any = {}
    with suppress(NoPermissionError):  # the user of the operator may not read it
        fsync = redis.config_get("appendfsync")
    if fsync.get("appendfsync") == "no":
        text = "appendfsync is no: a crash of the machine loses many seconds of commands"
        yield Finding(Level.WARNING, part, text, "set appendfsync everysec, or always")
    failed = [text for name, text in PERSISTENCE.items() if info.get(name, "ok") != "ok"]
    for text in failed:
        yield Finding(Level.WRONG, part, text, "look at the server's log: is its disk full?")
    if not failed:
        yield Finding(Level.OK, part, "appendonly is on")


def _check_default_queue(redis: Redis) -> Finding:
    part = f"list {DEFAULT_QUEUE}"
    remedy = "name the queue in the producer, or set CARD_WORKER_ALSO_CONSUME=celery"
    try:
        count = count_ours(redis, {*COMMANDS, *QUERIES, APPLY})
    except NoPermissionError:
        # The user of the operator sees how many there are, and not what they are.
        count = sum(int(redis.llen(name)) for name in lists_of(DEFAULT_QUEUE))
        if count:
            text = f"messages wait there, perhaps commands of ours: {count}"
            return Finding(Level.WARNING, part, text, remedy)
    if count:
        text = f"commands wait there, and no worker reads it: {count} of the oldest messages"
        return Finding(Level.WRONG, part, text, remedy)
    return Finding(Level.OK, part, "no command waits there")


class _Entry(NamedTuple):
    """An event on the stream."""

    entry_id: str
    id: UUID
    at: datetime
    event: str | None
    """Its JSON; None for an answer that was published again for another command."""


def check_groups(redis: Redis, settings: Settings) -> Iterator[Finding]:
    """Find consumer groups that may lose events. Raises RedisError."""
    limits = settings.event_stream_max, settings.event_stream_keep_s
    for group, entries, seconds in groups_behind(redis, settings.event_stream, *limits):
        unread = "" if entries is None else f"{entries:,} entries and "
        text = f"consumer group {group} is behind by {unread}{seconds:,} s"
        remedy = "its consumer is too slow or gone; entries are deleted by number and age"
        yield Finding(Level.WARNING, "stream", text, remedy)


def check_stream(redis: Redis, stream: str, engine: Engine) -> Iterator[Finding]:
    """Compare the last events of the stream with the outbox. Raises RedisError."""
    part = "stream"
    entries, unreadable = _last_entries(redis, stream)
    if unreadable:
        text = f"entries that are no events of ours: {unreadable} of the last {ENTRIES_CHECKED:,}"
        remedy = "let nobody but the relay write to the stream: docs/how-to/limit-rights.md"
        yield Finding(Level.WARNING, part, text, remedy)
    # Read afterwards: what is on the stream was committed before.
    with reading(engine) as connection:
        oldest = inspection.oldest_event(connection)
        stored = inspection.find_events(connection, {entry.id for entry in entries})
    if not entries:
        if oldest is None:
            yield Finding(Level.OK, part, "there are no events yet")
        else:
            text = f"{stream} is empty, and the outbox has events"
            remedy = "if Redis has lost its data: docs/how-to/losing-redis.md"
            yield Finding(Level.WARNING, part, text, remedy)
        return
    # What was removed from the outbox after its time can't be compared.
    ahead = [
        each for each in entries if each.id not in stored and (oldest is None or each.at >= oldest)
    ]
    other = [
        each
        for each in entries
        if (event := stored.get(each.id)) is not None
        and not is_pruned(event)
        and each.event not in (None, event)
    ]
    for found, what in (
        (ahead, "events that the outbox does not have"),
        (other, "events that are different in the outbox"),
    ):
        if found:
            first = found[-1]
            number = f"{len(found):,} of the last {len(entries):,}"
            text = f"{what}: {number}, the first is {first.entry_id} of {write_time(first.at)}"
            remedy = "the database was restored, or is another one: docs/how-to/backup.md"
            yield Finding(Level.WRONG, part, text, remedy)
    if not ahead and not other:
        yield Finding(Level.OK, part, f"the outbox agrees with the last {len(entries):,} events")


def _last_entries(redis: Redis, stream: str) -> tuple[list[_Entry], int]:
    """Return the last events of the stream, the newest first, and how many entries are none.

    Of an answer that was published again for another command, it is the first answer.
    """
    found, unreadable, end = list[_Entry](), 0, "+"
    while len(found) + unreadable < ENTRIES_CHECKED:
        page: Any = redis.xrevrange(stream, max=end, count=PAGE)
        for entry_id, fields in page:
            try:
                found.append(_read_entry(entry_id, fields))
            except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
                unreadable += 1
        if len(page) < PAGE:
            break
        end = f"({page[-1][0]}"
    return found, unreadable


def _read_entry(entry_id: str, fields: dict[str, str]) -> _Entry:
    text: str | None = fields["event"]
    event = json.loads(fields["event"])
    if event["type"] == EventType.COMMAND_REPEATED:
        text, data = None, event["data"]
        event = data.get("event") or {"id": data["event_id"], "time": event["time"]}
    return _Entry(entry_id, UUID(event["id"]), read_time(event["time"]), text)
