"""The stream keeps what the settings say, and the relay warns of groups that would lose entries."""

from time import sleep
from typing import NamedTuple
from uuid import UUID, uuid4

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError
from structlog.testing import capture_logs

from card_worker.contracts.enums import EventType
from card_worker.redis_url import RedisAddress
from card_worker.sinks import RedisStream
from card_worker.streams import groups_behind
from tests.flow.system import STREAM

NODE = 100
"""Entries of a node of the stream: only whole nodes are removed."""


class Event(NamedTuple):
    id: UUID
    type: EventType = EventType.CARD_CREATED
    account_id: str = "T00000001"
    subject: str = "card"
    event: str = "{}"


def publish(broker_url: str, events: int, *, entries_max: int = 10**6, keep_s: int = 10**6) -> None:
    sink = RedisStream(
        RedisAddress.parse(broker_url), STREAM, entries_max=entries_max, keep_s=keep_s
    )
    sink.publish([Event(uuid4()) for _ in range(events)])
    sink.close()


def test_the_stream_keeps_the_newest_entries(broker_url: str, redis_client: "Redis") -> None:
    for _ in range(8):
        publish(broker_url, 125, entries_max=300)
        assert redis_client.xlen(STREAM) <= 300 + NODE
    assert redis_client.xlen(STREAM) >= 300


def test_the_stream_keeps_no_entry_for_longer(broker_url: str, redis_client: "Redis") -> None:
    for number in range(1, 1001):
        redis_client.xadd(STREAM, {"event": "{}"}, id=f"{number}-0")
    publish(broker_url, 50, keep_s=3600)
    assert 50 <= redis_client.xlen(STREAM) <= 50 + NODE


def test_a_full_server_frees_the_memory_of_old_entries(
    broker_url: str, redis_client: "Redis"
) -> None:
    publish(broker_url, 1000)
    redis_client.config_set("maxmemory", 1)
    try:
        with pytest.raises(OutOfMemoryError):
            publish(broker_url, 1, entries_max=300)
        assert 300 <= redis_client.xlen(STREAM) <= 300 + NODE
    finally:
        redis_client.config_set("maxmemory", 0)


def test_limits_beyond_the_age_of_time_remove_nothing(
    broker_url: str, redis_client: "Redis"
) -> None:
    publish(broker_url, 500, keep_s=100 * 366 * 86_400, entries_max=2**53)
    assert redis_client.xlen(STREAM) == 500


def test_a_group_may_have_any_name(broker_url: str, redis_client: "Redis") -> None:
    publish(broker_url, 2)
    redis_client.xgroup_create(STREAM, b"\xff\xfe", id="0")
    with capture_logs() as logs:
        publish(broker_url, 1, entries_max=4)
    assert [(each["group"], each["entries"]) for each in logs] == [("\udcff\udcfe", 3)]


def test_events_are_published_if_groups_cannot_be_read(
    broker_url: str, redis_client: "Redis"
) -> None:
    redis_client.acl_setuser(
        "blind", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-xinfo"]
    )
    try:
        with capture_logs() as logs:
            publish(broker_url.replace("://", "://blind:any@"), 1)
    finally:
        redis_client.acl_deluser("blind")
    assert redis_client.xlen(STREAM) == 1
    assert [each["event"] for each in logs] == ["consumer groups not checked"]


@pytest.mark.parametrize("acknowledge", [True, False])
def test_a_group_that_is_behind_is_reported(
    acknowledge: bool, broker_url: str, redis_client: "Redis"
) -> None:
    assert list(groups_behind(redis_client, STREAM, 10, 10)) == []
    for group in ("behind", "reads"):
        redis_client.xgroup_create(STREAM, group, id="0", mkstream=True)
    publish(broker_url, 20)
    redis_client.xreadgroup("reads", "one", {STREAM: ">"}, noack=acknowledge)
    with capture_logs() as logs:
        publish(broker_url, 1, entries_max=40)
    assert [(each["group"], each["entries"]) for each in logs] == [("behind", 21)]
    sleep(1.1)  # the server's clock is what is compared
    late = {each.group for each in groups_behind(redis_client, STREAM, 10**6, 2)}
    assert late == {"behind", "reads"}
    redis_client.xreadgroup("reads", "one", {STREAM: ">"}, noack=True)
    late = {each.group for each in groups_behind(redis_client, STREAM, 10**6, 2)}
    assert late == ({"behind"} if acknowledge else {"behind", "reads"})
