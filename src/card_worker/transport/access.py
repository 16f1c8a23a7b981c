"""What each part needs of Redis: for the rights of its user, and to check before the start.

A process waits for a server that is unavailable. It refuses to start, with a line that names the
command, if waiting does not help: a missing permission, a wrong password, an unknown database.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple
from uuid import uuid4

from kombu.transport.redis import PRIORITY_STEPS
from kombu.transport.redis import Channel as StockChannel
from redis import Redis
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    NoPermissionError,
    RedisError,
)

from card_worker.transport.in_flight import script

_PROBE = script("probe")
_NO_OPERATION = "return 0"
_PROBED = "inflight.probe."
"""The beginning of the unused keys on which commands are tried."""
_TABLES = (StockChannel.keyprefix_queue, StockChannel.keyprefix_binding_permanent)
RESULTS = "celery-task-meta-*"
"""The pattern of the keys and channels of Celery's results."""
# Texts of errors that have no class of their own.
_LASTING = (
    "NOPERM",
    "no permissions",
    "No permissions",
    "DB index is out of range",
    "invalid DB index",
    "unknown command",
    "SELECT is not allowed",  # of a cluster
    "CROSSSLOT",
    "MOVED",
)

Step = tuple[str, Callable[[Redis], object]]
"""A command's name, and a function that runs it without lasting effect."""


class Refused(Exception):
    """Redis refuses a command permanently. The text is one line."""


class Access(NamedTuple):
    """What a part needs of Redis, in the words of an ACL."""

    keys: Sequence[str]
    """Patterns of keys, each with `~`, or `%R~` and `%W~` to read or write only."""
    more: str = ""
    """Commands that are not tried at the start: their refusal shows at once."""
    channels: Sequence[str] = ()
    steps: Sequence[Step] = ()
    """Commands in the order in which they are tried at the start."""
    scripted: str = ""
    """Commands that scripts run, with arguments; also tried at the start."""
    selector: str = ""
    """Rules that allow further commands on other keys than these."""

    @property
    def commands(self) -> list[str]:
        """All its commands, in alphabetical order."""
        tried = (name.lower().replace(" ", "|") for name, _ in self.steps)
        scripted = (words[0].lower() for words in _split(self.scripted))
        return sorted({*tried, *scripted, *self.more.split(), *_CONNECTING.split()})

    @property
    def rules(self) -> list[str]:
        """The rules of an ACL that allow this, and nothing else."""
        allowed = [*self.keys, *(f"&{name}" for name in self.channels)]
        rules = ["resetkeys", "resetchannels", *allowed, "-@all", *(f"+{c}" for c in self.commands)]
        return [*rules, f"({self.selector})"] if self.selector else rules


_CONNECTING = "auth client|setinfo client|setname hello ping select"
_QUEUED = "exec multi"

# The commands of kombu and of the scripts of this transport, in an order in which they leave
# nothing behind. K stands for an unused key.
_CONSUMER = """
    ZREM K a, ZADD K NX 0 a, ZSCORE K a, ZRANGE K 0 -1 WITHSCORES, ZRANGEBYSCORE K 0 0, ZREM K a,
    HSET K a a, HGET K a, HGETALL K, HKEYS K, HDEL K a,
    LPUSH K a, RPUSH K a, LLEN K, LINDEX K -1, LMOVE K K RIGHT LEFT, RENAME K K, RPOP K,
    LTRIM K 1 0, SREM K a, SADD K a, SMEMBERS K, SREM K a, EXISTS K, TYPE K, EXPIRE K 1, DEL K, TIME
"""
# LPUSH is tried on a key of another type, because a publisher may not remove what it has pushed.
_PUBLISHER = "SREM K a, SADD K a, LPUSH K a, SMEMBERS K, SREM K a, LLEN K"


def consuming(queues: Sequence[str], *, prefix: str = "", db: int = 0) -> Access:
    """Return the needs of a worker on these queues, which also sends replies and events."""
    names = ["inflight.consumers", "inflight.aside", "inflight.aside.sizes"]
    names += [table % "celery.pidbox" for table in _TABLES]
    stored = [f"{prefix}{name}" for name in (*names, *_stored(queues))]
    topic = f"/{db}.celeryev/probe"  # a subscriber ignores an empty message
    exchanges = ("celery.pidbox", "reply.celery.pidbox", "celeryev")
    return Access(
        keys=[
            *_lists([*queues, "*.celery.pidbox"], prefix),
            *_tables([*queues, *exchanges], prefix),
            f"~{prefix}inflight.*",
        ],
        more=f"{_QUEUED} memory|usage pexpire punsubscribe script|exists",
        channels=[f"/{db}.celery.pidbox", f"/{db}.celeryev/*"],
        steps=[
            ("EVAL", lambda redis: _run_probe(redis, _CONSUMER, stored, prefix)),
            ("SCRIPT LOAD", lambda redis: redis.script_load(_NO_OPERATION)),
            ("EVALSHA", _run_in_transaction),
            ("CLIENT TRACKING", _track),
            ("PUBLISH", lambda redis: redis.publish(topic, b"")),
            ("PSUBSCRIBE", lambda redis: _subscribe(redis, f"/{db}.celery.pidbox")),
        ],
        scripted=_CONSUMER,
    )


def publishing(queues: Sequence[str]) -> Access:
    """Return the needs of a publisher to these queues that uses this transport."""
    stored = list(_stored(queues))
    return Access(
        keys=[*_lists(queues), *_tables(queues), f"~{_PROBED}*"],
        more=_QUEUED,
        steps=[("EVAL", lambda redis: _run_probe(redis, _PUBLISHER, stored))],
        scripted=_PUBLISHER,
    )


def producing(queues: Sequence[str]) -> Access:
    """Return the needs of any Celery client that publishes to these queues."""
    return Access(
        keys=[*_lists(queues, mode="%W"), *_tables(queues)],
        more=f"{_QUEUED} llen lpush sadd smembers",
    )


def querying(queues: Sequence[str]) -> Access:
    """Return the needs of a Celery client that publishes to these queues and gets results."""
    # A result is found only by the id of its task: without commands that list or match ids.
    publisher = producing(queues)
    return publisher._replace(
        keys=[*publisher.keys, f"%R~{RESULTS}"],
        more=f"{publisher.more} get mget subscribe unsubscribe",
        channels=[RESULTS],
    )


def monitoring(queues: Sequence[str], *, db: int = 0) -> Access:
    """Return the needs of Flower, which sees events, asks workers, and counts what waits."""
    exchanges = ("celery.pidbox", "reply.celery.pidbox", "celeryev")
    return Access(
        keys=[*_lists(["*.reply.celery.pidbox", "celeryev.*"]), *_tables(exchanges)],
        more=f"{_QUEUED} client|tracking del eval evalsha exists expire hdel hget lindex llen"
        " ltrim psubscribe publish punsubscribe rpop sadd script|exists script|load smembers srem"
        " subscribe time type unsubscribe zadd zrangebyscore zrem",
        channels=[f"/{db}.celery.pidbox", f"/{db}.celeryev/*"],
        selector=f"{' '.join(_lists(queues))} +llen",
    )


def streaming(stream: str) -> Access:
    """Return the needs of a publisher of events, which trims the stream and watches its groups."""
    # An entry can't have this id: the server checks the right to add one, and adds none.
    refused = "return redis.pcall('XADD', KEYS[1], '0-0', 'a', 'a').err"
    return Access(
        keys=[f"~{_literal(stream)}"],
        more="time xinfo|groups xpending xrange",
        steps=[
            ("EVAL", lambda redis: redis.eval(_NO_OPERATION, 1, stream)),
            ("XADD", lambda redis: _raise_if_lasting("XADD", redis.eval(refused, 1, stream))),
            ("XTRIM", lambda redis: redis.xtrim(stream, maxlen=2**53)),
        ],
    )


def reading(stream: str) -> Access:
    """Return the needs of a reader of events, with or without a consumer group."""
    return Access(
        keys=[f"~{_literal(stream)}"],
        more="xack xautoclaim xclaim xgroup|create xinfo|groups xinfo|stream xlen xpending xrange"
        " xread xreadgroup xrevrange",
    )


def lists_of(queue: str) -> list[str]:
    """Return the lists of a queue, one for each priority, the highest first."""
    return [f"{queue}{StockChannel.sep}{step}" if step else queue for step in PRIORITY_STEPS]


def observing(queues: Sequence[str], stream: str) -> Access:
    """Return the needs of `transport.state`, without those of Unmoved."""
    return Access(
        keys=[*_lists(queues, mode="%R"), "%R~inflight.*", f"%R~{_literal(stream)}"],
        more="hlen info llen memory|usage xlen zrange",
    )


def check_access(redis: Redis, access: Access) -> None:
    """Run the steps of `access`. Raises Refused, or RedisError when it may be tried again."""
    connecting: Step = ("the connection", lambda redis: redis.ping())
    for name, run in [connecting, *access.steps]:
        try:
            run(redis)
        except RedisError as error:
            if _is_lasting(error):
                raise Refused(f"Redis refuses {name}: {error}") from None
            raise


def _run_probe(redis: Redis, commands: str, stored: Sequence[str], prefix: str = "") -> None:
    key = f"{prefix}{_PROBED}{uuid4().hex}"
    words = [[key if word == "K" else word for word in each] for each in _split(commands)]
    reply: Any = redis.eval(_PROBE, 1 + len(stored), key, *stored, json.dumps(words))
    if reply:
        name, text = (part if isinstance(part, str) else part.decode() for part in reply)
        _raise_if_lasting(name, text)
        raise RedisError(f"{name}: {text}")


def _split(commands: str) -> list[list[str]]:
    return [each.split() for each in commands.split(",") if each.strip()]


def _stored(queues: Sequence[str]) -> Iterator[str]:
    """Yield the keys that kombu has for queues: a list for each priority, tables of bindings."""
    for queue in queues:
        yield from lists_of(queue)
        yield from (table % queue for table in _TABLES)
    yield StockChannel.keyprefix_binding_deadlines


def _lists(queues: Sequence[str], prefix: str = "", *, mode: str = "") -> Iterator[str]:
    """Yield patterns of the lists of queues."""
    steps = "".join(str(step) for step in PRIORITY_STEPS if step)
    separator = "?" * len(StockChannel.sep)  # it isn't printable
    for queue in queues:
        yield f"{mode}~{prefix}{queue}"
        yield f"{mode}~{prefix}{queue}{separator}[{steps}]"


def _tables(exchanges: Sequence[str], prefix: str = "") -> Iterator[str]:
    """Yield patterns of the tables of bindings."""
    for exchange in exchanges:
        yield from (f"~{prefix}{table % exchange}" for table in _TABLES)
    yield f"~{prefix}{StockChannel.keyprefix_binding_deadlines}"


def _literal(name: str) -> str:
    """Return the pattern that only `name` matches."""
    return re.sub(r"([\[\]*?\\])", r"\\\1", name)


def _run_in_transaction(redis: Redis) -> None:
    with redis.pipeline() as pipeline:
        redis.register_script(_NO_OPERATION)(client=pipeline)
        pipeline.execute()


def _track(redis: Redis) -> None:
    redis.execute_command("CLIENT", "TRACKING", "OFF")  # type: ignore[no-untyped-call]


def _subscribe(redis: Redis, channel: str) -> None:
    with closing(redis.pubsub()) as pubsub:  # type: ignore[no-untyped-call]
        pubsub.psubscribe(channel)
        pubsub.get_message(timeout=5)


def _raise_if_lasting(name: str, words: Any) -> None:
    words = words if isinstance(words, str) else words.decode()
    if any(part in words for part in _LASTING):
        raise Refused(f"Redis refuses {name}: {words}")


def _is_lasting(error: RedisError) -> bool:
    lasting = (AuthenticationError, AuthenticationWrongNumberOfArgsError, NoPermissionError)
    return isinstance(error, lasting) or any(part in str(error) for part in _LASTING)
