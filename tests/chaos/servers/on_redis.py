"""Faults of Redis, of its network, and of what lies in it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from threading import Thread
from time import monotonic
from typing import Any
from uuid import uuid4

import psutil
from redis import Redis
from redis.exceptions import RedisError

from tests.chaos.servers.broker import USER, faketime
from tests.chaos.servers.checker import POISONED
from tests.chaos.servers.journal import Garbage
from tests.chaos.servers.kinds import Counts, Kind
from tests.chaos.servers.report import WAIT_MAX_S
from tests.chaos.servers.world import IN_FLIGHT, World

NOWHERE = ("127.0.0.1", "1")
"""A host and port where nobody listens."""
FILLERS = 2_000
HOUR_S = 3_600
FOUND_S = 20.0
"""How long an entry that names no list may take to become a dead letter."""
NO_LIST = "no-list"
POISON = (f"{0:015d} {NO_LIST}", f"{10**15 - 1:015d} {NO_LIST}")
"""Places in an in-flight hash, before and behind all others: a number, and a message's list."""
PILE_UP_S = 1.5
MB = 2**20
# KEYS: a list, and in-flight hashes.
TAKE_AWAY = """
for place = redis.call('LLEN', KEYS[1]) - 1, 0, -1 do
  local raw = redis.call('LINDEX', KEYS[1], place)
  if #raw > 1000000 then redis.call('LREM', KEYS[1], 0, raw) end
end
for turn = 2, #KEYS do
  for _, place in ipairs(redis.call('HKEYS', KEYS[turn])) do
    if redis.call('HSTRLEN', KEYS[turn], place) > 1000000 then
      redis.call('HDEL', KEYS[turn], place)
    end
  end
end
"""
FREE_FOR_500_MB = 8 * 2**30

BAD_EVENTS = (
    b"[" * 200_000,
    b"[]",
    b"null",
    b"{",
    b"\xff\xfe",
    b'{"body": []}',
    b'{"body": "W10=", "properties": {"body_encoding": "base64", "delivery_info": []}}',
    b'{"body": "W10=", "headers": {}, "content-type": "application/json",'
    b' "content-encoding": "utf-8", "properties": {"body_encoding": "base64",'
    b' "delivery_tag": "x", "delivery_info": {"exchange": "", "routing_key": ""}}}',
)
"""What is published on the channels of events and remote control. The last one's body is a list."""


@contextmanager
def paused_for_all(world: World) -> Iterator[None]:
    """CLIENT PAUSE 7000 ALL."""
    _ask(world, "CLIENT", "PAUSE", "7000", "ALL")
    yield


@contextmanager
def paused_for_writes(world: World) -> Iterator[None]:
    """CLIENT PAUSE 7000 WRITE."""
    _ask(world, "CLIENT", "PAUSE", "7000", "WRITE")
    yield


@contextmanager
def stopped(world: World) -> Iterator[None]:
    """SIGSTOP of the server, SIGCONT at the end."""
    world.broker.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        world.broker.signal(signal.SIGCONT)


@contextmanager
def killed(world: World) -> Iterator[None]:
    """SIGKILL of the server, started again at the end."""
    world.broker.kill()
    yield
    world.broker.start()


@contextmanager
def full(world: World) -> Iterator[None]:
    """`maxmemory` below what is in use while commands wait; all workers are restarted meanwhile."""
    world.crew.kill(*world.crew.workers)
    world.crew.wait(lambda: False, max_s=PILE_UP_S)
    with _client(world) as client:
        in_use = int(client.info("memory")["used_memory"])
        client.config_set("maxmemory", in_use - 64 * 1024)
    world.crew.start_all()
    try:
        yield
    finally:
        _ask(world, "CONFIG", "SET", "maxmemory", "0")


@contextmanager
def read_only(world: World) -> Iterator[None]:
    """READONLY: the server is a replica of a host that isn't there."""
    _ask(world, "REPLICAOF", *NOWHERE)
    try:
        yield
    finally:
        _ask(world, "REPLICAOF", "NO", "ONE")


@contextmanager
def master_down(world: World) -> Iterator[None]:
    """MASTERDOWN: such a replica, which serves no stale data."""
    _ask(world, "CONFIG", "SET", "replica-serve-stale-data", "no")
    _ask(world, "REPLICAOF", *NOWHERE)
    try:
        yield
    finally:
        _ask(world, "REPLICAOF", "NO", "ONE")
        _ask(world, "CONFIG", "SET", "replica-serve-stale-data", "yes")


@contextmanager
def misconf(world: World) -> Iterator[None]:
    """MISCONF: the last snapshot could not be written."""
    # A snapshot is renamed to its name, which a folder has.
    (world.broker.folder / "in-the-way").mkdir(exist_ok=True)
    _ask(world, "CONFIG", "SET", "dbfilename", "in-the-way")
    _ask(world, "CONFIG", "SET", "save", "3600 1")
    _ask(world, "BGSAVE")
    try:
        world.crew.wait(lambda: _info(world, "rdb_last_bgsave_status") == "err", max_s=10)
        yield
    finally:
        _ask(world, "CONFIG", "SET", "save", "")
        _ask(world, "CONFIG", "SET", "dbfilename", "dump.rdb")


@contextmanager
def no_replicas(world: World) -> Iterator[None]:
    """NOREPLICAS: `min-replicas-to-write` is 1."""
    _ask(world, "CONFIG", "SET", "min-replicas-to-write", "1")
    try:
        yield
    finally:
        _ask(world, "CONFIG", "SET", "min-replicas-to-write", "0")


@contextmanager
def loading(world: World) -> Iterator[None]:
    """LOADING: killed and started again, and slow in reading its data back."""
    with _client(world) as client:
        keys = [f"filler:{number}" for number in range(FILLERS)]
        client.mset(dict.fromkeys(keys, "x"))
        # Only in a snapshot there is a delay for each key.
        client.bgrewriteaof()
    world.crew.wait(lambda: _info(world, "aof_rewrite_in_progress") == 0, max_s=30)
    world.broker.kill()
    delay_us = int(world.seconds(3, 10) * 1e6 / FILLERS)
    world.broker.start(load_delay_us=delay_us, wait=False)
    world.crew.wait(world.broker.is_loading, max_s=10)
    world.crew.wait(lambda: not world.broker.is_loading() and _answers(world), max_s=120)
    with _client(world) as client:
        client.delete(*keys)
    yield


@contextmanager
def busy(world: World) -> Iterator[None]:
    """BUSY: a script runs until it is killed."""
    _ask(world, "CONFIG", "SET", "busy-reply-threshold", "50")

    def run() -> None:
        with world.broker.client(timeout_s=120) as client, suppress(RedisError):
            client.eval("while true do end", 0)

    thread = Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        while thread.is_alive():
            with suppress(RedisError):
                _ask(world, "SCRIPT", "KILL")
            thread.join(timeout=0.2)
        _ask(world, "CONFIG", "SET", "busy-reply-threshold", "5000")


@contextmanager
def no_permission(world: World) -> Iterator[None]:
    """NOPERM: the parts' user may do nothing but connect."""
    _ask(world, "ACL", "SETUSER", USER, "-@all", "+@connection")
    try:
        yield
    finally:
        _ask(world, "ACL", "SETUSER", USER, "+@all")


@contextmanager
def clients_killed(world: World) -> Iterator[None]:
    """CLIENT KILL of every connection, five times."""
    for _ in range(5):
        for kind in ("normal", "pubsub"):
            _ask(world, "CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        world.rest(0.5)
    yield


@contextmanager
def silent(world: World) -> Iterator[None]:
    """Connections to Redis stay open and carry nothing."""
    world.to_broker.pause()
    try:
        yield
    finally:
        world.to_broker.resume()


@contextmanager
def replies_held(world: World) -> Iterator[None]:
    """Redis does what it is asked, and nobody hears its replies."""
    world.to_broker.hold_replies()
    try:
        yield
    finally:
        world.to_broker.resume()


@contextmanager
def refused(world: World) -> Iterator[None]:
    """Connections to Redis are refused."""
    world.to_broker.refuse()
    try:
        yield
    finally:
        world.to_broker.accept()


@contextmanager
def clock_ahead(world: World) -> Iterator[None]:
    """The server's clock is an hour ahead; a worker is killed, and the clock is set right."""
    world.broker.set_clock(HOUR_S)
    try:
        yield
        _kill_at_work(world)
    finally:
        world.broker.set_clock(0)


@contextmanager
def clock_behind(world: World) -> Iterator[None]:
    """A worker is killed, and the server's clock goes an hour back; then it is set right."""
    _kill_at_work(world)
    world.broker.set_clock(-HOUR_S)
    try:
        yield
    finally:
        world.broker.set_clock(0)


def _kill_at_work(world: World) -> None:
    with world.at_work():
        world.crew.kill(world.worker())
    world.crew.start_all()


@contextmanager
def hiccups(world: World) -> Iterator[None]:
    """SIGSTOP for 7 s of every 21 s; all workers are killed with messages in hand meanwhile."""
    for number in range(int(world.seconds(2, 4))):
        with stopped(world):
            world.rest(7)
        if number == 0:
            with world.at_work():
                world.crew.kill(*world.crew.workers)
            world.crew.start_all()
        world.rest(14)
    yield


@contextmanager
def large_entry(world: World) -> Iterator[None]:
    """An entry of 5 MB that is no message."""
    _push(world, b"\xff" * 5 * MB)
    yield


@contextmanager
def huge_entry(world: World) -> Iterator[None]:
    """An entry of 500 MB that is no message."""
    _push(world, b"\xff" * 500 * MB)
    yield


@contextmanager
def bad_events(world: World) -> Iterator[None]:
    """Junk on the channels of Celery's events and remote control."""
    with _client(world, text=False) as client:
        channels: list[bytes] = client.pubsub_channels()
        database = b"/0."
        names = {b"celery.pidbox", b"celeryev", b"celeryev/worker.heartbeat"}
        for channel in {*channels, *(database + name for name in names)}:
            for junk in BAD_EVENTS:
                client.publish(channel, junk)
    yield


@contextmanager
def poisoned(world: World) -> Iterator[None]:
    """All workers die; what they held names a key that is no list."""
    with world.at_work():
        world.crew.kill(*world.crew.workers)
    doses = 0
    with _client(world) as client:
        client.set(NO_LIST, "x")
        for key in list(client.scan_iter(IN_FLIGHT)):
            for place in POISON:
                doses += int(str(client.hset(str(key), place, f"{POISONED} {uuid4()}")))
    world.clean_ups.append(partial(_take_poison_away, world, doses))
    world.crew.start_all()
    yield


def _take_poison_away(world: World, doses: int) -> None:
    """Look for what was put in; what is still in flight is taken away."""
    world.crew.wait(lambda: _letters_with(world, POISONED) >= doses, max_s=FOUND_S)
    found = _letters_with(world, POISONED)
    with _client(world) as client:
        for key in list(client.scan_iter(IN_FLIGHT)):
            found += int(str(client.hdel(str(key), *POISON)))
        client.delete(NO_LIST)
    if found < doses:
        world.violations.append(f"of {doses} poisoned entries {doses - found} left no trace")


@contextmanager
def results_silent(world: World) -> Iterator[None]:
    """Connections to the result backend stay open and carry nothing."""
    world.to_results.pause()
    try:
        yield
    finally:
        world.to_results.resume()


def _ask(world: World, *command: str) -> Any:
    """Send a command as the default user, again while the server can't be asked."""
    for left in range(50, -1, -1):
        try:
            with _client(world) as client:
                return client.execute_command(*command)
        except RedisError:
            if not left:
                raise
            world.rest(0.2)
    return None


def _info(world: World, name: str) -> Any:
    with world.broker.client() as client, suppress(RedisError):
        return client.info("persistence")[name]
    return None


def _answers(world: World) -> bool:
    with world.broker.client() as client, suppress(RedisError):
        return bool(client.ping())
    return False


def _push(world: World, raw: bytes) -> None:
    """Put an entry on a queue; it has to become a dead letter in time."""
    mark = str(uuid4())
    with _client(world) as client:
        client.lpush("cards", mark.encode() + raw)
    world.journal.garbage.append(Garbage(mark, accepted=monotonic()))
    world.clean_ups.append(partial(_await_letter, world, mark, len(raw)))


def _await_letter(world: World, mark: str, size: int) -> None:
    if not world.crew.wait(lambda: _letters_with(world, mark), max_s=WAIT_MAX_S):
        about = f"an entry of {size // MB} MB"
        world.violations.append(f"{about} is no dead letter {WAIT_MAX_S:g} s after its fault")
        _take_large_ones_away(world)


def _take_large_ones_away(world: World) -> None:
    with _client(world) as client:
        hashes = [str(key) for key in client.scan_iter(IN_FLIGHT)]
        client.eval(TAKE_AWAY, len(hashes) + 1, "cards", *hashes)


def _letters_with(world: World, mark: str) -> int:
    """Return how many dead letters have a mark at the beginning of their body."""
    counting = "SELECT count(*) FROM dead_letters WHERE substring(body for 100) LIKE %s"
    with world.database.connect() as connection:
        ((letters,),) = connection.execute(counting, [f"%{mark}%".encode()]).fetchall()
    return int(letters)


def _client(world: World, *, text: bool = True) -> "Redis":
    """Return a client that waits for a busy server."""
    return world.broker.client(timeout_s=30, text=text)


def _no_faketime() -> str | None:
    return None if faketime() else "libfaketime (apt-get install libfaketime)"


def _no_room_for_500_mb() -> str | None:
    is_there = psutil.virtual_memory().available >= FREE_FOR_500_MB
    return None if is_there else f"{FREE_FOR_500_MB / 2**30:g} GB of free memory"


FULL = Counts.IN_FULL
KINDS = (
    Kind("redis-paused", paused_for_all, 7, 7),
    Kind("redis-writes-paused", paused_for_writes, 7, 7),
    Kind("redis-stopped", stopped, 4, 15),
    Kind("redis-killed", killed, 2, 8),
    Kind("redis-full", full, 8, 20),
    Kind("redis-read-only", read_only, 3, 15),
    Kind("redis-master-down", master_down, 3, 15),
    Kind("redis-misconf", misconf, 3, 15),
    Kind("redis-no-replicas", no_replicas, 3, 15),
    Kind("redis-loading", loading, 0, 0, busy_s=(4, 12)),
    Kind("redis-busy", busy, 3, 15),
    Kind("redis-no-permission", no_permission, 3, 10),
    Kind("redis-clients-killed", clients_killed, 0, 0, FULL, busy_s=(2.5, 2.5)),
    Kind("redis-silent", silent, 7, 20),
    Kind("redis-replies-held", replies_held, 7, 20),
    Kind("redis-refused", refused, 3, 15),
    Kind("redis-clock-ahead", clock_ahead, 3, 20, FULL, _no_faketime, busy_s=(5, 8)),
    Kind("redis-clock-behind", clock_behind, 3, 30, FULL, _no_faketime),
    Kind("redis-hiccups", hiccups, 0, 0, FULL, busy_s=(42, 84)),
    Kind("entry-of-5-mb", large_entry, 1, 3, FULL),
    Kind("entry-of-500-mb", huge_entry, 10, 10, FULL, _no_room_for_500_mb, long_only=True),
    Kind("bad-events", bad_events, 2, 5, FULL),
    Kind("poisoned-hash", poisoned, 3, 10, FULL),
    Kind("results-silent", results_silent, 8, 20, FULL),
)
