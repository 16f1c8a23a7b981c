"""What the transport promises, on a real Valkey: nothing lost, nothing twice, many at once."""

import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from hashlib import sha1
from pathlib import Path
from time import sleep
from typing import Any, cast

import pytest
from celery import Celery
from hypothesis import example, given
from hypothesis import strategies as st
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.message import Message
from kombu.messaging import Consumer
from redis import Redis
from redis.exceptions import OutOfMemoryError

from card_worker import transport
from card_worker.embedded.valkey import Valkey, valkey
from card_worker.transport import channel, liveness
from card_worker.transport import in_flight as flight
from card_worker.transport.envelope import aside_payload, payload
from card_worker.transport.in_flight import ENTRY_BYTES_MAX, InFlight
from card_worker.transport.liveness import BEAT_S, DEAD_S, REPLY_GAP_S_MAX, Heart, Watch
from tests.flow.processes import until
from tests.proxy import proxy

TRANSPORT = "card_worker.transport:Transport"


def send(url: str, *names: str, queue: str = "cards", **options: Any) -> None:
    with Celery(broker=url, set_as_current=False) as celery:
        for name in names:
            celery.send_task("any.task", task_id=name, queue=queue, **options)


def in_flight(redis: Redis, prefix: str = "") -> InFlight:
    return InFlight(redis, prefix)


def take(of: InFlight, *lists: str, messages: int = 500, size: int = 10**9) -> list[Any]:
    command = of.take_command(lists, messages_max=messages, bytes_max=size)
    reply: Any = of._redis.execute_command(*command)  # type: ignore[no-untyped-call]
    return of.read_taken(reply)


class Reader:
    """A consumer that keeps what it is given until it is told to acknowledge."""

    def __init__(self, url: str, *queues: str, room: int = 1000, no_ack: bool = False) -> None:
        self.got: list[Message] = []
        self._connection = Connection(url, transport=TRANSPORT)
        self.channel = self._connection.channel()
        consumer = Consumer(
            self.channel,
            [Queue(name, Exchange(name), name) for name in queues or ("cards",)],
            on_message=self.got.append,
            no_ack=no_ack,
        )
        consumer.qos(prefetch_count=room)
        consumer.consume()

    @property
    def names(self) -> list[str]:
        return [str(one.headers.get("id")) for one in self.got]

    def read(self, messages: int, *, tries: int = 200) -> None:
        """Read until so many messages have come; a connection that breaks is made anew."""
        for _ in range(tries):
            if len(self.got) >= messages:
                return
            try:
                self._connection.drain_events(timeout=0.2)
            except TimeoutError:
                continue
            except self._connection.connection_errors:
                continue
        raise AssertionError(f"{len(self.got)} of {messages} messages came")

    def ack(self) -> None:
        self.channel.qos.ack_all([one.delivery_tag for one in self.got])

    def close(self) -> None:
        self._connection.release()


@pytest.fixture
def bytes_client(broker_url: str) -> Iterator[Redis]:
    with Redis.from_url(broker_url) as client:
        yield client


def test_what_waits_is_taken_at_once_in_its_order(broker_url: str, bytes_client: Redis) -> None:
    send(broker_url, "a", "b", "c")
    reader = Reader(broker_url)
    reader.read(3)
    assert reader.names == ["a", "b", "c"]
    assert bytes_client.llen("cards") == 0
    assert bytes_client.hlen(reader.channel.in_flight.key) == 3
    reader.ack()
    assert bytes_client.hlen(reader.channel.in_flight.key) == 0
    reader.close()
    assert not bytes_client.exists("inflight.consumers")


def test_no_more_is_taken_than_there_is_room_for(broker_url: str, bytes_client: Redis) -> None:
    send(broker_url, "a", "b", "c")
    reader = Reader(broker_url, room=2)
    reader.read(2)
    assert (reader.names, bytes_client.llen("cards")) == (["a", "b"], 1)
    reader.ack()
    reader.read(3)
    reader.ack()
    reader.close()


def test_a_take_ends_where_its_bytes_end_but_brings_one(bytes_client: Redis) -> None:
    bytes_client.lpush("cards", *(b"x" * 100 for _ in range(5)))
    consumer = in_flight(bytes_client)
    assert len(take(consumer, "cards", size=250)) == 3
    assert len(take(consumer, "cards", size=1)) == 1


def test_priorities_and_queues_are_those_of_kombu(broker_url: str) -> None:
    send(broker_url, "low", priority=9)
    send(broker_url, "high", priority=0)
    send(broker_url, "bulk", queue="cards.bulk", priority=0)
    reader = Reader(broker_url, "cards", "cards.bulk")
    reader.read(3)
    assert set(reader.names[:2]) == {"high", "bulk"}
    assert reader.names[2] == "low"
    reader.ack()
    reader.close()


def test_of_the_lowest_priority_one_is_taken_at_a_time(
    broker_url: str, bytes_client: Redis
) -> None:
    send(broker_url, "low-1", "low-2", "low-3", priority=9)
    send(broker_url, "slow", queue="cards.bulk", priority=9)
    send(broker_url, "a", "b", priority=6)
    reader = Reader(broker_url, "cards", "cards.bulk")
    reader.read(3)
    assert reader.names == ["a", "b", "low-1"]
    # What the first has left, the second takes; it doesn't have to wait for the first.
    other = Reader(broker_url, "cards", "cards.bulk")
    other.read(1)
    assert other.names in (["low-2"], ["slow"])
    # What has come meanwhile goes before the rest.
    send(broker_url, "c", priority=0)
    reader.ack()
    reader.read(5)
    assert reader.names[3] == "c"
    reader.ack()
    reader.read(6)
    assert bytes_client.dbsize() > 0
    for one in (reader, other):
        one.ack()
        one.close()


def test_one_that_rests_leaves_the_lowest_priority_for_a_while(broker_url: str) -> None:
    send(broker_url, "low", priority=9)
    reader = Reader(broker_url)
    reader.channel.throttle_low_priority(3600)
    send(broker_url, "high", priority=0)
    reader.read(1)
    assert reader.names == ["high"]
    reader.ack()
    reader.channel.throttle_low_priority(0)
    reader.channel.wake()
    reader.read(2)
    assert reader.names == ["high", "low"]
    reader.ack()
    reader.close()


def test_a_waiting_consumer_is_told_and_does_not_ask(
    broker_url: str, monkeypatch: pytest.MonkeyPatch, bytes_client: Redis
) -> None:
    monkeypatch.setattr(channel, "POLL_S", 3600.0)
    reader = Reader(broker_url)
    with pytest.raises(TimeoutError):
        reader._connection.drain_events(timeout=0.5)
    before = _calls(bytes_client, "exists")
    with pytest.raises(TimeoutError):
        reader._connection.drain_events(timeout=0.5)
    assert _calls(bytes_client, "exists") == before
    send(broker_url, "a", priority=6)
    reader.read(1)
    reader.ack()
    reader.close()


def test_a_message_costs_each_idle_consumer_two_commands(
    broker_url: str, bytes_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "POLL_S", 3600.0)
    idle = 20
    readers = [Reader(broker_url, "cards", "cards.bulk", "cards.system") for _ in range(idle)]
    for reader in readers:
        _rest(reader)
    before = _calls(bytes_client, "exists")
    bytes_client.lpush("cards", b"1")

    def has_come() -> bool:
        for reader in readers:
            _rest(reader)
        return any(reader.got for reader in readers)

    until(has_come, "the message")
    assert sum(len(reader.got) for reader in readers) == 1
    # Each is notified and looks once, the one that got it once more; a look is two commands, EVAL
    # and EXISTS. (Heartbeats are EVALs as well.)
    assert _calls(bytes_client, "exists") - before <= idle + 1
    for reader in readers:
        reader.ack()
        reader.close()


def _rest(reader: Reader) -> None:
    """Let a reader do what it has to do, until it is idle."""
    with suppress(TimeoutError):
        while True:
            reader._connection.drain_events(timeout=0.1)


def test_an_oversize_entry_is_described_and_kept_and_what_is_behind_it_goes_on(
    bytes_client: Redis,
) -> None:
    consumer = in_flight(bytes_client)
    large = [bytes([number]) * 1000 for number in range(3)]
    for raw in (b"before", large[0], b"between", large[1], b"behind"):
        bytes_client.lpush("cards", raw)
    command = consumer.take_command(
        ["cards", consumer.aside], messages_max=500, bytes_max=10**9, entry_bytes_max=999
    )
    reply: Any = bytes_client.execute_command(*command)  # type: ignore[no-untyped-call]
    taken = consumer.read_taken(reply)
    assert [raw for _, raw in taken[::2]] == [b"before", b"between", b"behind"]
    for (place, raw), whole in zip(taken[1::2], large, strict=False):
        message = aside_payload(raw, place, f"{consumer.aside}.of.")
        assert message is not None
        about = message["properties"]["delivery_info"]
        assert about["queue"] == "cards"
        assert about["aside"]["bytes"] == 1000
        assert about["aside"]["sha1"] == sha1(whole, usedforsecurity=False).hexdigest()
        assert whole.startswith(message["body"])
        assert bytes_client.lrange(about["aside"]["key"], 0, -1) == [whole]
        assert bytes_client.ttl(about["aside"]["key"]) > 0
    # Its description is returned like any message; the bytes stay where they are.
    other = in_flight(bytes_client)
    assert give_back_of(consumer, other)
    again = take(other, "cards", other.aside)
    descriptions = [aside_payload(raw, "", f"{other.aside}.of.") for _, raw in again]
    assert [one is None for one in descriptions] == [True] * 3 + [False] * 2


@pytest.mark.parametrize("others", [0, 1, 3, 11_000])
def test_entries_beside_an_oversize_one_stay_in_their_order(
    bytes_client: Redis, others: int
) -> None:
    """Whether the entry is moved or the list is renamed: few others, many, larger ones."""
    consumer = in_flight(bytes_client)
    small = [b"%d" % number for number in range(others)]
    for large in (b"x" * 200_000, b"y" * 100_000):
        bytes_client.lpush("cards", large)
        if small:
            bytes_client.lpush("cards", *small)
    for behind in (2 * others + 1, others):
        command = consumer.take_command(
            ["cards"], messages_max=1, bytes_max=10**9, entry_bytes_max=50_000
        )
        reply: Any = bytes_client.execute_command(*command)  # type: ignore[no-untyped-call]
        ((_, raw),) = consumer.read_taken(reply)
        about = json.loads(raw[6:])
        stored: Any = bytes_client.lrange(about["key"], 0, -1)
        (whole,) = stored
        assert sha1(whole, usedforsecurity=False).hexdigest() == about["sha1"]
        assert bytes_client.llen("cards") == behind
        assert [raw for _, raw in take(consumer, "cards", messages=others)] == small


def test_of_oversize_entries_only_so_much_is_kept(
    bytes_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight, "ASIDE_BYTES_MAX", 2500)
    consumer = in_flight(bytes_client)
    bytes_client.lpush("cards", *(b"x" * 1000 for _ in range(4)))

    def kept() -> list[bool]:
        command = consumer.take_command(
            ["cards"], messages_max=500, bytes_max=10**9, entry_bytes_max=999
        )
        reply: Any = bytes_client.execute_command(*command)  # type: ignore[no-untyped-call]
        return ["key" in json.loads(raw[6:]) for _, raw in consumer.read_taken(reply)]

    assert kept() == [True, True, False, False]
    # What an operator has dropped, or what has expired, counts no more.
    bytes_client.unlink(*bytes_client.keys(f"{consumer.aside}.of.*"))
    bytes_client.lpush("cards", b"x" * 1000)
    assert kept() == [True]


def test_a_take_reads_no_more_of_large_entries_than_it_brings(bytes_client: Redis) -> None:
    bytes_client.lpush("cards", *(b"x" * 100 for _ in range(50)))
    bytes_client.lpush("cards", *(b"y" * 100_000 for _ in range(50)))
    consumer = in_flight(bytes_client)
    taken = take(consumer, "cards", size=1_000_000)
    # After the small ones they are read one by one, and not a chunk at a time.
    assert len(taken) == 50 + 10
    assert [raw[:1] for _, raw in taken] == [b"x"] * 50 + [b"y"] * 10
    assert bytes_client.llen("cards") == 40


def test_a_take_reads_one_oversize_entry_at_most(tmp_path: Path) -> None:
    size, large = 1_000_000, 40
    with valkey(tmp_path) as server, Redis.from_url(server.url) as redis:
        redis.lpush("cards", *(b"x" for _ in range(31)))
        for _ in range(large):
            redis.lpush("cards", bytes(size))
        redis.lpush("cards", b"behind")
        consumer, takes = in_flight(redis), 0
        while redis.llen("cards"):
            command = consumer.take_command(
                ["cards"], messages_max=500, bytes_max=size, entry_bytes_max=size // 2
            )
            reply: Any = redis.execute_command(*command)
            assert consumer.read_taken(reply)
            takes += 1
        memory: Any = redis.info("memory")
        assert takes >= large
        assert memory["used_memory_peak"] - memory["used_memory"] < 15 * size
        assert len(redis.hgetall(consumer.key)) == 31 + large + 1


@pytest.mark.parametrize("junk", [b"text", {"inflight.aside.of.x": "-1e18", "cards": "text"}])
def test_junk_in_place_of_the_sizes_stops_nobody(
    junk: bytes | dict[str, str], bytes_client: Redis
) -> None:
    consumer = in_flight(bytes_client)
    sizes = f"{consumer.aside}.sizes"
    if isinstance(junk, bytes):
        bytes_client.set(sizes, junk)
    else:
        bytes_client.set("inflight.aside.of.x", "x")
        for name, size in junk.items():
            bytes_client.hset(sizes, name, size)
    bytes_client.lpush("cards", b"x" * 1000, b"behind")
    command = consumer.take_command(
        ["cards"], messages_max=500, bytes_max=10**9, entry_bytes_max=999
    )
    reply: Any = bytes_client.execute_command(*command)  # type: ignore[no-untyped-call]
    (_, description), (_, behind) = consumer.read_taken(reply)
    assert behind == b"behind"
    about = json.loads(description[6:])
    assert ("key" in about) == isinstance(junk, dict)
    if isinstance(junk, dict):
        assert bytes_client.hgetall(sizes) == {about["key"].encode(): b"1000"}


DESCRIPTION: dict[str, object] = {
    "list": "cards",
    "bytes": 1,
    "sha1": "0" * 40,
    "begins": "6a",
    "key": "aside.of.1",
}
CHANGES: list[tuple[str, object]] = [
    *(("list", value) for value in (1, "", "a\x00", None)),
    *(("bytes", value) for value in ("1", 1.5)),
    *(("sha1", value) for value in ("x", "\x00")),
    *(("begins", value) for value in ("zz", "abc", None)),
    *(("key", value) for value in ("card-events", 1, "aside.of.\x00")),
]
"""What makes a description none."""


def test_a_description_is_read() -> None:
    raw = b"aside:" + json.dumps(DESCRIPTION).encode() + b"  "
    message = aside_payload(raw, "1", "aside.of.")
    assert message is not None
    about = message["properties"]["delivery_info"]
    assert (message["body"], about["queue"], about["returns"]) == (b"j", "cards", 2)
    assert about["aside"] == {"bytes": 1, "sha1": "0" * 40, "key": "aside.of.1"}


@pytest.mark.parametrize(
    "junk",
    [
        *(b"", b"x", b"\xff", b"{", b"[]", b"{}", b"null", b"[" * 100_000),
        *(json.dumps({**DESCRIPTION, name: value}).encode() for name, value in CHANGES),
        b"\n" + json.dumps(DESCRIPTION).encode().replace(b'"6a"', b'"\\ud800"'),
    ],
)
def test_what_only_looks_like_a_description_is_none(junk: bytes) -> None:
    assert aside_payload(b"aside:" + junk, "1", "aside.of.") is None


def _calls(redis: Redis, command: str) -> int:
    stats: Any = redis.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


def give_back_of(dead: InFlight, living: InFlight) -> bool:
    """Return a dead consumer's messages, as one that has watched it for long enough does."""
    return living.return_dead(dead.consumer, living.beat()[dead.consumer])


def test_the_dead_are_returned_to_the_head_oldest_first(bytes_client: Redis) -> None:
    bytes_client.lpush("cards", b"{1}", b"{2}", b"{3}", b"{4}")
    dead, living = in_flight(bytes_client), in_flight(bytes_client)
    assert [raw for _, raw in take(dead, "cards", messages=3)] == [b"{1}", b"{2}", b"{3}"]
    assert give_back_of(dead, living)
    assert [raw for _, raw in take(living, "cards")] == [b"{1} ", b"{2} ", b"{3} ", b"{4}"]
    assert bytes_client.hlen(dead.key) == 0
    assert dead.consumer not in living.beat()


def test_one_that_beats_again_just_in_time_is_left_alone(bytes_client: Redis) -> None:
    bytes_client.lpush("cards", b"1")
    slow, other = in_flight(bytes_client), in_flight(bytes_client)
    take(slow, "cards")
    seen = other.beat()[slow.consumer]
    slow.beat()
    assert not other.return_dead(slow.consumer, seen)
    assert take(other, "cards") == []


def test_many_living_return_a_message_once(bytes_client: Redis) -> None:
    names = [str(number).encode() for number in range(200)]
    bytes_client.lpush("cards", *names)
    dead = in_flight(bytes_client)
    take(dead, "cards")
    seen = in_flight(bytes_client).beat()[dead.consumer]
    start = threading.Barrier(8)

    def return_it() -> None:
        start.wait()
        in_flight(bytes_client).return_dead(dead.consumer, seen)

    threads = [threading.Thread(target=return_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [raw.strip() for _, raw in take(in_flight(bytes_client), "cards")] == names


def test_a_mark_tells_the_dead_from_those_that_give_back(bytes_client: Redis) -> None:
    bytes_client.lpush("cards", b'{"n": 1}')
    for _ in range(2):
        dead, living = in_flight(bytes_client), in_flight(bytes_client)
        take(dead, "cards")
        assert give_back_of(dead, living)
        take(living, "cards")
        living.give_back()
        take(living, "cards")
        living.leave()
    ((place, raw),) = take(in_flight(bytes_client), "cards")
    assert raw == b'{"n": 1} \t\t \t\t'
    about = payload(raw, place, "cards")["properties"]["delivery_info"]
    assert (about["returns"], about["deaths"]) == (6, 2)


@pytest.mark.parametrize("strict", [True, False])
def test_no_sender_can_claim_that_an_entry_was_set_aside(*, strict: bool) -> None:
    """A dead letter that says so makes an operator's `drop` delete the key that it names."""
    forged = {"aside": {"bytes": 1, "sha1": "0" * 40, "key": "cards"}, "malformed": "forged"}
    raw = json.loads(_changed("body", "W10="))
    raw["properties"]["delivery_info"] |= forged
    about = payload(json.dumps(raw).encode(), "tag", "cards", strict=strict)
    assert not forged.keys() & about["properties"]["delivery_info"].keys()


@pytest.mark.parametrize("raw", [b"word", b"word \t", b"[1]", b"\xff", b"", b"}x"])
def test_what_is_no_message_comes_back_as_it_came(raw: bytes, bytes_client: Redis) -> None:
    bytes_client.lpush("cards", raw)
    for _ in range(3):
        dead, living = in_flight(bytes_client), in_flight(bytes_client)
        take(dead, "cards")
        assert give_back_of(dead, living)
    assert bytes_client.lrange("cards", 0, -1) == [raw]


def test_one_that_was_only_paused_finds_nothing_of_its_own(bytes_client: Redis) -> None:
    bytes_client.lpush("cards", b"1")
    paused, living = in_flight(bytes_client), in_flight(bytes_client)
    ((place, _),) = take(paused, "cards")
    give_back_of(paused, living)
    ((again, _),) = take(living, "cards")
    assert paused.acknowledge([place]) == 0
    assert living.acknowledge([again]) == 1
    # What it takes from now on is returned like anybody's.
    bytes_client.lpush("cards", b"{2}")
    take(paused, "cards")
    assert give_back_of(paused, living)
    assert [raw for _, raw in take(living, "cards")] == [b"{2} "]


# --- who is dead ------------------------------------------------------------------------------


def watched(watch: Watch, counts: dict[str, str], times: Iterable[float]) -> dict[str, str]:
    """Return the dead after looks at these times, at which nobody's count changes."""
    dead: dict[str, str] = {}
    for time in times:
        dead = watch.observe(counts, time)
    return dead


def looks(first: float, seconds: float) -> list[float]:
    """Return the times of looks that a server answers for so long."""
    return [first + BEAT_S * number for number in range(int(seconds // BEAT_S) + 1)]


def test_a_count_that_stands_still_for_long_is_a_death() -> None:
    watch = Watch()
    assert watched(watch, {"a": "7"}, looks(1000, DEAD_S - BEAT_S)) == {}
    assert watched(watch, {"a": "7"}, [1000 + DEAD_S]) == {"a": "7"}


def test_a_beat_in_between_is_a_life() -> None:
    watch = Watch()
    watched(watch, {"a": "7"}, looks(1000, DEAD_S - BEAT_S))
    assert watched(watch, {"a": "8"}, [1000 + DEAD_S]) == {}
    assert watched(watch, {"a": "8"}, looks(1000 + DEAD_S + BEAT_S, DEAD_S - 2 * BEAT_S)) == {}


def test_an_outage_makes_nobody_dead() -> None:
    watch = Watch()
    watched(watch, {"a": "7"}, looks(1000, BEAT_S))
    assert watched(watch, {"a": "7"}, looks(5000, DEAD_S - 2 * BEAT_S)) == {}
    # What was seen before the outage counts.
    assert watched(watch, {"a": "7"}, [5000 + DEAD_S - BEAT_S]) == {"a": "7"}


@pytest.mark.parametrize(("well_s", "silent_s"), [(7, 7), (14, 7), (7, 3), (10, 10)])
def test_the_dead_are_found_between_outages_within_a_minute(well_s: int, silent_s: int) -> None:
    assert silent_s > REPLY_GAP_S_MAX or silent_s == 3
    watch, now, dead = Watch(), 0.0, dict[str, str]()
    while not dead and now < 60:
        # A beat that was sent into the outage is answered, or fails, up to a beat after its end.
        dead = watched(watch, {"a": "7"}, looks(now + BEAT_S - 0.1, well_s - BEAT_S))
        now += well_s + silent_s
    assert dead
    assert now <= 45


def test_after_an_outage_only_the_dead_are_returned(
    own_broker: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "BEAT_S", 0.3)
    monkeypatch.setattr(liveness, "REPLY_GAP_S_MAX", 0.6)
    monkeypatch.setattr(liveness, "DEAD_S", 3.0)
    redis = Redis.from_url(own_broker.url)
    redis.lpush("cards", b"{1}", b"{2}", b"{3}")
    with proxy(own_broker.port) as between:
        through = Redis.from_url(f"redis://127.0.0.1:{between.port}/0", socket_timeout=1.0)
        consumers = [in_flight(through) for _ in range(3)]
        for consumer in consumers:
            take(consumer, "cards", messages=1)
        hearts = [Heart(living, Watch()) for living in consumers[1:]]
        for heart in hearts:
            heart.start()
        try:
            until(lambda: beats_of(redis, *consumers[1:]) >= 2, "heartbeats")
            between.pause()
            sleep(4.0)
            between.resume()
            until(lambda: redis.llen("cards"), "the message of the dead consumer")
            assert redis.lrange("cards", 0, -1) == [b"{1} "]
            assert [redis.hlen(one.key) for one in consumers] == [0, 1, 1]
        finally:
            for heart in hearts:
                heart.stop(5.0)
            through.close()
            redis.close()


def test_a_reconnect_does_not_restart_the_wait_for_the_dead(
    broker_url: str, bytes_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "BEAT_S", 0.3)
    monkeypatch.setattr(liveness, "REPLY_GAP_S_MAX", 3600.0)
    monkeypatch.setattr(liveness, "DEAD_S", 5.0)
    bytes_client.lpush("cards", b"{1}")
    dead = in_flight(bytes_client)
    take(dead, "cards")
    dead.beat()
    for _ in range(20):
        reader = Reader(broker_url, "cards")
        living = reader.channel.in_flight
        until(partial(_has_beaten, bytes_client, living), "heartbeats")
        reader.close()
        if bytes_client.llen("cards"):
            break
    assert bytes_client.lrange("cards", 0, -1) == [b"{1} "]


@pytest.mark.parametrize("junk", ["inf", "-inf", "1.5", "name", "text", "list"])
def test_junk_among_the_consumers_stops_no_heart(
    junk: str, bytes_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "BEAT_S", 0.1)
    monkeypatch.setattr(liveness, "REPLY_GAP_S_MAX", 3600.0)
    monkeypatch.setattr(liveness, "DEAD_S", 1.0)
    bytes_client.lpush("cards", b"1")
    dead, living = in_flight(bytes_client), in_flight(bytes_client)
    take(dead, "cards")
    match junk:
        case "text":
            bytes_client.rename(living.consumers_key, "elsewhere")
            bytes_client.set(living.consumers_key, "text")
        case "list":
            bytes_client.rename(living.consumers_key, "elsewhere")
            bytes_client.lpush(living.consumers_key, "text")
        case "name":
            bytes_client.zadd(living.consumers_key, {b"\xff": 1})
            bytes_client.hset(f"{living.hashes}".encode() + b"\xff", "000000000000001 cards", "2")
        case _:
            bytes_client.zadd(living.consumers_key, {"junk": junk})
            bytes_client.hset(f"{living.hashes}junk", "000000000000001 cards", "2")
    heart = Heart(living, Watch())
    heart.start()
    try:
        until(lambda: beats_of(bytes_client, living) >= 2, "heartbeats")
        if junk in ("text", "list"):
            bytes_client.lpush("cards", b"2")
            assert [raw for _, raw in take(living, "cards")] == [b"2"]
            assert bytes_client.exists(f"{living.consumers_key}.foreign")
        else:
            until(lambda: bytes_client.llen("cards") == 2, "all messages")
            until(lambda: bytes_client.zcard(living.consumers_key) == 1, "the end of the others")
        assert heart.is_alive()
    finally:
        heart.stop(5.0)


def _has_beaten(redis: Redis, consumer: InFlight) -> bool:
    return beats_of(redis, consumer) >= 3


def beats_of(redis: Redis, *consumers: InFlight) -> int:
    """Return the smallest number of heartbeats of some consumers."""
    scores = [redis.zscore(one.consumers_key, one.consumer) for one in consumers]
    return int(min(cast("float", score or 0) for score in scores))


# --- places that can't be given back to ---------------------------------------------------------


@pytest.mark.parametrize("full", [False, True])
def test_a_place_that_names_no_list_keeps_nobody_from_theirs(full: bool, tmp_path: Path) -> None:
    with valkey(tmp_path) as server, Redis.from_url(server.url) as redis:
        redis.lpush("cards", b"{1}", b"{2}")
        redis.zadd("a-set", {"x": 1})
        dead, living = in_flight(redis), InFlight(redis, "", lists=["cards", "a-set"])
        take(dead, "cards")
        bad = {
            "000000000000007 a-set": b"wrong type",
            "000000000000008 elsewhere": b"not a queue of ours",
            "no place at all": b"no number",
            "000000000000009 ": b"no name",
            "": b"nothing",
        }
        redis.hset(dead.key, mapping=bad)
        if full:
            redis.config_set("maxmemory", 1)
        assert give_back_of(dead, living)
        assert not redis.exists(dead.key, "elsewhere")
        taken = take(living, "cards", living.aside)
        assert [raw for _, raw in taken[:2]] == [b"{1} ", b"{2} "]
        assert {raw for _, raw in taken[2:]} == set(bad.values())


def test_a_hash_that_is_none_stops_nobody(bytes_client: Redis) -> None:
    dead, living = in_flight(bytes_client), in_flight(bytes_client)
    dead.beat()
    bytes_client.set(dead.key, "a text")
    assert give_back_of(dead, living)
    assert dead.consumer not in living.beat()
    assert bytes_client.get(dead.key) == b"a text"


def test_a_key_that_is_no_list_keeps_nobody_from_the_lists(bytes_client: Redis) -> None:
    bytes_client.set("cards", "a text")
    bytes_client.lpush("cards.bulk", b"1")
    assert [raw for _, raw in take(in_flight(bytes_client), "cards", "cards.bulk")] == [b"1"]


def test_a_consumer_that_leaves_gives_back_what_it_has(broker_url: str) -> None:
    send(broker_url, "a", "b", "c")
    first = Reader(broker_url)
    first.read(3)
    first.got[0].ack()
    first.close()
    second = Reader(broker_url)
    second.read(2)
    assert second.names == ["b", "c"]
    assert [one.delivery_info["redelivered"] for one in second.got] == [True, True]
    assert [one.delivery_info["returns"] for one in second.got] == [1, 1]
    second.ack()
    second.close()


def test_a_rejected_message_comes_again_first(broker_url: str) -> None:
    send(broker_url, "a", "b")
    reader = Reader(broker_url, room=1)
    reader.read(1)
    reader.got[0].requeue()
    reader.read(2)
    assert reader.names == ["a", "a"]
    reader.got[1].reject()
    reader.read(3)
    assert reader.names == ["a", "a", "b"]
    reader.ack()
    reader.close()


def test_a_stock_worker_can_take_over_and_back(broker_url: str) -> None:
    send(broker_url, "a")
    ours = Reader(broker_url)
    ours.read(1)
    ours.close()
    with Connection(broker_url) as stock:
        queue = stock.SimpleQueue("cards")
        message = queue.get(timeout=60)
        assert message.headers["id"] == "a"
        message.requeue()
        queue.close()
    again = Reader(broker_url)
    again.read(1)
    assert again.names == ["a"]
    again.ack()
    again.close()


def test_a_consumer_that_never_acknowledges_leaves_nothing_behind(
    broker_url: str, bytes_client: Redis
) -> None:
    send(broker_url, "a")
    reader = Reader(broker_url, no_ack=True)
    reader.read(1)
    # Its Redis user needs no right on keys in flight.
    assert not bytes_client.keys("inflight.*")
    reader.close()
    assert not bytes_client.keys("inflight.*")


def test_an_oversize_entry_reaches_a_consumer_that_never_acknowledges_as_a_description(
    broker_url: str, bytes_client: Redis
) -> None:
    bytes_client.lpush("cards", b"x" * (ENTRY_BYTES_MAX + 1))
    reader = Reader(broker_url, no_ack=True)
    reader.read(1)
    reader.close()
    assert not bytes_client.exists("cards")
    assert not bytes_client.keys("inflight.*")


def test_one_message_can_be_got_by_asking(broker_url: str) -> None:
    send(broker_url, "a")
    with Connection(broker_url, transport=TRANSPORT) as connection:
        queue = connection.SimpleQueue("cards")
        message = queue.get(timeout=60)
        assert message.headers["id"] == "a"
        message.ack()
        queue.close()


def test_a_full_server_can_still_be_emptied(tmp_path: Path) -> None:
    with valkey(tmp_path) as server, Redis.from_url(server.url) as redis:
        redis.lpush("cards", *(b"x" * 1000 for _ in range(100)))
        dead, living = in_flight(redis), in_flight(redis)
        take(dead, "cards", messages=10)
        redis.config_set("maxmemory", 1)
        with pytest.raises(OutOfMemoryError):
            redis.lpush("cards", b"x")
        give_back_of(dead, living)
        taken = take(living, "cards", messages=100)
        assert len(taken) == 100
        assert living.acknowledge([place for place, _ in taken]) == 100
        assert redis.llen("cards") == 0


def test_a_lost_connection_and_a_lost_server_are_found_again(tmp_path: Path) -> None:
    with valkey(tmp_path) as server:
        send(server.url, "a")
        reader = Reader(server.url)
        reader.read(1)
        with Redis.from_url(server.url) as redis:
            redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        send(server.url, "b")
        reader.read(2)
        server.kill()
        server.start()
        send(server.url, "c")
        reader.read(3)
        assert reader.names == ["a", "b", "c"]
        reader.ack()
        with Redis.from_url(server.url) as redis:
            assert redis.hlen(reader.channel.in_flight.key) == 0
        reader.close()


ENVELOPE = {
    "body": "W1tdLHt9LHt9XQ==",
    "headers": {"id": "a", "task": "x"},
    "content-type": "application/json",
    "content-encoding": "utf-8",
    "properties": {"body_encoding": "base64", "delivery_info": {"exchange": "", "routing_key": ""}},
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def _changed(part: str, value: object) -> bytes:
    place, _, name = part.rpartition(".")
    changed: dict[str, Any] = json.loads(json.dumps(ENVELOPE))
    (changed[place] if place else changed)[name] = value
    return json.dumps(changed).encode()


PARTS = ["body", "headers", "properties", "content-type", "content-encoding"]
DEEPER = ["headers.compression", "properties.body_encoding", "properties.delivery_info"]


@given(
    st.binary()
    | VALUES.map(lambda value: json.dumps(value).encode())
    | st.builds(_changed, st.sampled_from(PARTS + DEEPER), VALUES)
)
@example(b"")
@example(b"[" * 100_000)
@example(b"1" * 5_000)
@example(_changed("headers.compression", "zlib"))
@example(_changed("properties.body_encoding", "rot13"))
@example(_changed("body", "not base64"))
def test_of_any_bytes_kombu_can_make_a_message(raw: bytes) -> None:
    class NoChannel:
        decode_body = transport.Channel.decode_body
        codecs = transport.Channel.codecs
        strict = True

    read = payload(raw, "tag", "cards", strict=True)
    message = transport.Message(read, channel=cast(transport.Channel, NoChannel()))
    assert not message.errors
    assert message.delivery_tag == "tag"
    if read["content-type"] == "application/octet-stream":
        assert message.body == raw
