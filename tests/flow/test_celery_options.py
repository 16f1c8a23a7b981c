"""A command is answered whatever ordinary options a Celery client sends it with."""

import gc
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from celery import Celery, chain, group, signature

from tests.flow.processes import WAIT_S, until
from tests.flow.system import ACCOUNT, System, card, envelope

NEXT = signature("cards.create", kwargs=card("next"))
DONE = "card.created"
OPTIONS: dict[str, tuple[dict[str, Any], str | list[str]]] = {
    "expires later": ({"expires": 3600}, DONE),
    "expires at a time": ({"expires": datetime.now(UTC) + timedelta(hours=1)}, DONE),
    "has expired": ({"expires": datetime.now(UTC) - timedelta(hours=1)}, "stale_command"),
    "zlib": ({"compression": "zlib"}, DONE),
    "gzip": ({"compression": "gzip"}, DONE),
    "bzip2": ({"compression": "bzip2"}, DONE),
    "lzma": ({"compression": "lzma"}, DONE),
    "group": ({"group_id": "group-1"}, DONE),
    "retries": ({"retries": 3}, DONE),
    "shadow": ({"shadow": "a name for monitors"}, DONE),
    "priority": ({"priority": 5}, DONE),
    "headers of one's own": ({"headers": {"till": 7}}, DONE),
    "countdown": ({"countdown": 60}, ["headers.eta"]),
    "eta": ({"eta": datetime.now(UTC) + timedelta(hours=1)}, ["headers.eta"]),
    "time limit": ({"time_limit": 5, "soft_time_limit": 4}, ["headers.timelimit"]),
    "link": ({"link": NEXT}, ["callbacks"]),
    "link_error": ({"link_error": NEXT}, ["errbacks"]),
    "chain": ({"chain": [NEXT]}, ["chain"]),
    "chord": ({"chord": NEXT}, ["chord"]),
    "positional": ({"args": ["card-1"]}, ["args"]),
    "several": ({"countdown": 60, "link": NEXT}, ["headers.eta", "callbacks"]),
}
"""Options by name, and what answers them: an event's type, a reason, or the fields of problems."""


@pytest.fixture(scope="module")
def running(shared: System) -> System:
    shared.start("worker", RESULT_BACKEND_URL=shared.broker_url)
    shared.start("relay")
    return shared


def send(plain_celery_client: Celery, name: str, options: dict[str, Any], **fields: Any) -> Any:
    return plain_celery_client.send_task(
        "cards.create",
        kwargs=card(name, **fields),
        queue="cards",
        task_id=name,
        ignore_result=False,
        **options,
    )


def answers(running: System, name: str) -> list[dict[str, Any]]:
    return [event for event in running.events() if event["correlationid"] == name]


def _has_answers(running: System, name: str, times: int) -> bool:
    return len(answers(running, name)) >= times


@pytest.mark.parametrize("name", OPTIONS)
def test_each_sending_is_answered_on_the_stream_and_by_the_result(
    name: str, running: System, plain_celery_client: Celery
) -> None:
    options, expected = OPTIONS[name]
    for times in (1, 2):
        result = send(plain_celery_client, name, options)
        until(partial(_has_answers, running, name, times), f"answer {times}")
        value = result.get(timeout=WAIT_S)
        assert value == answers(running, name)[0]
    (answer,) = {event["id"]: event for event in answers(running, name)}.values()
    data = answer["data"]
    assert answer["answer"] is True
    if isinstance(expected, list):
        assert data["reason"] == "invalid"
        assert [problem["field"] for problem in data["problems"]] == expected
    else:
        assert data.get("reason", answer["type"]) == expected


def test_nothing_that_was_refused_is_done_or_sent_on(
    running: System, plain_celery_client: Celery
) -> None:
    name = "refused with a chain"
    send(plain_celery_client, name, {"chain": [NEXT], "countdown": 1})
    assert running.types(name) == ["invalid"]
    running.catches_up()
    assert "next" not in {event["subject"] for event in running.events()}


def test_a_group_of_signatures_is_answered(running: System, plain_celery_client: Celery) -> None:
    names = [f"of-group-{number}" for number in range(3)]
    sent = [
        plain_celery_client.signature(
            "cards.create", kwargs=card(name, command_id=name), queue="cards"
        )
        for name in names
    ]
    group(sent, app=plain_celery_client).apply_async()
    assert running.types(*names) == [DONE] * 3


def test_the_first_of_a_chain_is_refused(running: System, plain_celery_client: Celery) -> None:
    names = ["first-of-chain", "second-of-chain"]
    sent = [
        plain_celery_client.signature(
            "cards.create", kwargs=card(name, command_id=name), queue="cards", immutable=True
        )
        for name in names
    ]
    chain(*sent, app=plain_celery_client).apply_async()
    assert running.types(names[0]) == ["invalid"]


def test_an_expires_without_a_zone_is_refused(running: System) -> None:
    headers = {"expires": "2030-01-01T00:00:00"}
    running.push(envelope("cards.create", "no zone", card("no zone"), headers=headers))
    (answer,) = running.answers("no zone").values()
    assert [problem["field"] for problem in answer["data"]["problems"]] == ["headers.expires"]


def test_the_result_of_what_cannot_be_answered_is_a_failure(
    running: System, plain_celery_client: Celery
) -> None:
    for name, fields in (("nobody", {"account_id": "nobody"}), ("no fields", {})):
        result = plain_celery_client.send_task(
            "cards.create", kwargs=fields, queue="cards", task_id=name, ignore_result=False
        )
        with pytest.raises(Exception, match="account_id_invalid"):
            result.get(timeout=WAIT_S)
    result = plain_celery_client.send_task("cards.explode", queue="cards", ignore_result=False)
    with pytest.raises(Exception, match="task_unknown"):
        result.get(timeout=WAIT_S)


def test_with_a_deadline_in_both_places_the_earlier_one_counts(
    running: System, plain_celery_client: Celery
) -> None:
    past = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    send(plain_celery_client, "late by a field", {"expires": 3600}, not_after=past)
    assert running.types("late by a field") == ["stale_command"]


def test_without_a_backend_only_queries_have_a_result(own: System) -> None:
    own.start("worker")
    own.start("relay")
    with Celery(
        broker=own.broker_url, backend=own.broker_url, set_as_current=False
    ) as plain_celery_client:
        command = send(plain_celery_client, "plain", {})
        assert own.types("plain") == [DONE]
        asked = {"account_id": ACCOUNT, "card_id": "plain"}
        query = plain_celery_client.send_task(
            "cards.get", kwargs=asked, queue="cards", ignore_result=False, task_id="query"
        )
        assert query.get(timeout=WAIT_S)["card"]["status"] == "unused"
        listed = plain_celery_client.send_task(
            "cards.list", kwargs={"account_id": ACCOUNT}, queue="cards", ignore_result=False
        )
        assert [one["card_id"] for one in listed.get(timeout=WAIT_S)["cards"]] == ["plain"]
        assert own.redis.exists(f"celery-task-meta-{command.id}") == 0
        lives_s = own.redis.ttl("celery-task-meta-query")
        assert 0 < int(str(lives_s)) <= 3600
        # Else each asks the server for something when it is deleted.
        for result in (command, query, listed):
            result.forget()
        del command, query, listed, result
        gc.collect()
        plain_celery_client.backend.result_consumer.stop()
        plain_celery_client.backend.client.connection_pool.disconnect()
        plain_celery_client.pool.force_close_all()
