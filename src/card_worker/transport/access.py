"""Checks before the start whether the Redis user may run all commands that a process needs.

A process waits for a server that is unavailable. It refuses to start, with a line that names the
command, if waiting does not help: a missing permission, a wrong password, an unknown database.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from typing import Any
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


class Refused(Exception):
    """Redis refuses a command permanently. The text is one line."""


Step = tuple[str, Callable[[Redis], object]]
"""A command's name, and a function that runs it without lasting effect."""


def consuming(queues: Sequence[str], *, prefix: str = "", db: int = 0) -> Iterator[Step]:
    """Yield the commands of a consumer of these queues."""
    free = f"{prefix}inflight.of.{uuid4().hex}"
    names = ("inflight.consumers", "inflight.aside", "inflight.aside.sizes", *_stored(queues))
    keys = [free, *(f"{prefix}{name}" for name in names)]
    topic = f"/{db}.celeryev/probe"  # a subscriber ignores an empty message
    yield "EVAL", lambda redis: _run_probe(redis, keys)
    yield "SCRIPT LOAD", lambda redis: redis.script_load(_NO_OPERATION)
    yield "EVALSHA", _run_in_transaction
    yield "CLIENT TRACKING", _track
    yield "PUBLISH", lambda redis: redis.publish(topic, b"")
    yield "PSUBSCRIBE", lambda redis: _subscribe(redis, f"/{db}.celery.pidbox")


def publishing(queues: Sequence[str]) -> Iterator[Step]:
    """Yield the commands of a publisher to these queues."""
    free = f"inflight.of.{uuid4().hex}"
    yield "EVAL", lambda redis: _run_probe(redis, [free, *_stored(queues)])


def streaming(stream: str) -> Iterator[Step]:
    """Yield the commands of a publisher of events."""
    # An entry can't have this id: the server checks the right to add one, and adds none.
    refused = "return redis.pcall('XADD', KEYS[1], '0-0', 'a', 'a').err"
    yield "EVAL", lambda redis: redis.eval(_NO_OPERATION, 1, stream)
    yield "XADD", lambda redis: _raise_if_lasting("XADD", redis.eval(refused, 1, stream))


def check_access(redis: Redis, steps: Iterable[Step]) -> None:
    """Run `steps`. Raises Refused, or RedisError when it may be tried again."""
    connecting: Step = ("the connection", lambda redis: redis.ping())
    for name, run in chain([connecting], steps):
        try:
            run(redis)
        except RedisError as error:
            if _is_lasting(error):
                raise Refused(f"Redis refuses {name}: {error}") from None
            raise


def _run_probe(redis: Redis, keys: Sequence[str]) -> None:
    reply: Any = redis.eval(_PROBE, len(keys), *keys)
    if reply:
        name, words = (part if isinstance(part, str) else part.decode() for part in reply)
        _raise_if_lasting(name, words)
        raise RedisError(f"{name}: {words}")


def _stored(queues: Sequence[str]) -> Iterator[str]:
    """Yield the keys that kombu has for queues: a list for each priority, tables of bindings."""
    for queue in queues:
        yield from (
            f"{queue}{StockChannel.sep}{step}" if step else queue for step in PRIORITY_STEPS
        )
        yield StockChannel.keyprefix_queue % queue
        yield StockChannel.keyprefix_binding_permanent % queue
    yield StockChannel.keyprefix_queue % "celery.pidbox"
    yield StockChannel.keyprefix_binding_deadlines


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
