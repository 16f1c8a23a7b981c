"""The state that Redis holds for all processes, as metrics and operators see it."""

from redis import Redis

from card_worker.transport.access import lists_of
from card_worker.transport.in_flight import InFlight
from card_worker.transport.state import Unmoved, read_broker, read_memory, read_stream

QUEUES = ("cards", "cards.bulk")


def test_all_priorities_of_all_queues_are_counted(redis_client: Redis) -> None:
    for number, name in enumerate(lists_of("cards"), start=1):
        redis_client.lpush(name, *(f"{name} {each}" for each in range(number)))
    broker = read_broker(redis_client, QUEUES)
    assert broker.waiting == {"cards": 1 + 2 + 3 + 4, "cards.bulk": 0}


def test_messages_of_every_consumer_are_in_flight(redis_client: Redis, broker_url: str) -> None:
    with Redis.from_url(broker_url) as raw_client:
        for consumer in ("one", "two"):
            redis_client.lpush("cards", "a", "b")
            in_flight = InFlight(raw_client, "", consumer)
            while in_flight.take_one(["cards"]):
                pass
            in_flight.beat()
    broker = read_broker(redis_client, QUEUES)
    assert broker == ({"cards": 0, "cards.bulk": 0}, 4, 2)


def test_a_message_that_stays_at_the_head_is_timed_from_the_first_look(
    redis_client: Redis,
) -> None:
    unmoved = Unmoved()
    low = lists_of("cards")[-1]

    def look(now: float) -> float:
        return unmoved.observe(redis_client, QUEUES, now)["cards"]

    redis_client.lpush("cards", "a", "b")
    redis_client.lpush(low, "later")
    assert look(100.0) == 0.0
    assert look(107.0) == 7.0
    redis_client.rpop("cards")
    redis_client.rpop(low)
    assert look(110.0) == 0.0  # the second one is the first now
    assert look(111.0) == 1.0
    redis_client.rpop("cards")
    assert look(112.0) == 0.0


def test_stream_and_memory_are_read(redis_client: Redis) -> None:
    assert read_stream(redis_client, "card-events") == (0, 0)
    redis_client.xadd("card-events", {"event": "x" * 1_000})
    stream = read_stream(redis_client, "card-events")
    assert stream.entries == 1
    assert stream.bytes > 1_000
    memory = read_memory(redis_client)
    assert memory.used > 100_000
    assert memory.max == 0
