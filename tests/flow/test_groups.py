"""Groups: the limits of a commit, and the ids that monitoring gets."""

import base64
import json
import re
from typing import Any

import pytest

from tests.flow.processes import Part, until
from tests.flow.system import ACCOUNT, System, card, envelope

COMMITTED = re.compile(r"group committed .*?commands=(\d+) messages=(\d+)")


def groups(worker: Part) -> list[tuple[int, int]]:
    """Return how many commands and messages each group had."""
    return [(int(one), int(other)) for one, other in COMMITTED.findall(worker.said)]


def expiries(name: str, count: int) -> dict[str, Any]:
    named = {"command": "cards.expire", "account_id": ACCOUNT, "card_id": "nobody"}
    listed = [{**named, "command_id": f"{name}-{number}"} for number in range(count)]
    return envelope("commands.apply", name, {"commands": listed})


def test_lists_that_wait_together_are_not_one_commit(own: System) -> None:
    for number in range(5):
        own.push(expiries(f"list-{number}", 999), "cards.bulk")
    worker = own.start("worker")
    until(lambda: sum(messages for _, messages in groups(worker)) == 5, "all lists")
    assert [commands for commands, _ in groups(worker)] == [1998, 1998, 999]


def test_commands_on_batches_that_wait_together_are_not_one_commit(own: System) -> None:
    for number in range(50):
        request = {"account_id": ACCOUNT, "batch_id": "nobody's", "reason": "recall"}
        own.push(envelope("batches.block", f"recall-{number}", request))
    worker = own.start("worker")
    until(lambda: sum(messages for _, messages in groups(worker)) == 50, "all recalls")
    assert [messages for _, messages in groups(worker)] == [19, 19, 12]


def events(pubsub: Any) -> list[dict[str, Any]]:
    """Return the Celery events that have come since the last call."""
    found: list[dict[str, Any]] = []
    while (message := pubsub.get_message(ignore_subscribe_messages=True)) is not None:
        said = json.loads(base64.b64decode(json.loads(message["data"])["body"]))
        found += said if isinstance(said, list) else [said]
    return found


IDS = {
    "good": "0e0b8ae1-6a5a-4a3b-9a67-3ee8a4fbfa9d",
    "long": "x" * 60_000,
    "an object": {"a": ["x" * 1_000] * 10},
    "a number": 5,
    "two lines": "a\nb",
    "empty": "",
}


@pytest.mark.parametrize("header", ["root_id", "parent_id"])
def test_monitors_get_ids_only_as_ids(own: System, header: str) -> None:
    own.start("worker", "--task-events").says("ready.")
    with own.redis.pubsub() as pubsub:  # type: ignore[no-untyped-call]
        pubsub.psubscribe("*celeryev*")
        for name, value in IDS.items():
            request = {**card(name), "name": "x" * 50_000}
            own.push(envelope("cards.create", name, request, headers={header: value}))
        received: dict[str, dict[str, Any]] = {}

        def all_received() -> bool:
            for event in events(pubsub):
                if event["type"] == "task-received":
                    received[event["uuid"]] = event
            return set(IDS) <= set(received)

        until(all_received, "the events")
    assert {name: received[name][header] for name in IDS} == {
        name: value if name == "good" else None for name, value in IDS.items()
    }
    assert all(len(json.dumps(event)) < 1_500 for event in received.values())


def test_monitors_get_no_lists_and_no_objects(own: System) -> None:
    secret = "tok-12345678"
    hiding: list[Any] = [{"token": secret}, [secret], {"a": [{"pin": secret}]}]
    own.start("worker", "--task-events").says("ready.")
    with own.redis.pubsub() as pubsub:  # type: ignore[no-untyped-call]
        pubsub.psubscribe("*celeryev*")
        for number, value in enumerate(hiding):
            shown = dict.fromkeys(("account_id", "card_id", "batch_id", "command_id"), value)
            own.push(envelope("cards.block", f"hiding-{number}", shown))
            listed = {"commands": [{"command": value, **card("x")}]}
            own.push(envelope("commands.apply", f"listed-{number}", listed))
        own.push(envelope("cards.create", "last", {**card("last"), "name": "x" * 50_000}))
        said: list[dict[str, Any]] = []

        def all_done() -> bool:
            said.extend(events(pubsub))
            return any((e["type"], e.get("uuid")) == ("task-succeeded", "last") for e in said)

        until(all_done, "the events")
    failed = [event for event in said if event["type"] == "task-failed"]
    assert len(failed) == 2 * len(hiding)
    assert secret not in json.dumps(said)
    assert secret not in "".join(f"{one.reason} {one.detail}" for one in own.letters())
