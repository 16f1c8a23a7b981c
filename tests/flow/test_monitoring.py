"""What monitors such as Flower get to see of messages and workers."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from tests.flow.processes import until
from tests.flow.system import System, card, envelope


def events(pubsub: Any) -> list[dict[str, Any]]:
    """Return the Celery events that have come since the last call."""
    found: list[dict[str, Any]] = []
    while (message := pubsub.get_message(ignore_subscribe_messages=True)) is not None:
        if not message["data"]:
            continue  # the check of a worker's rights
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


class Monitor:
    """The task events that a system's worker has sent, in their order."""

    def __init__(self, system: System) -> None:
        self.system = system
        self._pubsub: Any = system.redis.pubsub()  # type: ignore[no-untyped-call]
        self._pubsub.psubscribe("*celeryev*")
        self._seen: list[dict[str, Any]] = []

    def seen(self, last: str) -> dict[str, list[dict[str, Any]]]:
        """Return all events by message, once the message `last` has an outcome."""

        def is_done() -> bool:
            self._seen += [event for event in events(self._pubsub) if "uuid" in event]
            outcomes = ("task-succeeded", "task-failed")
            return any(event["uuid"] == last and event["type"] in outcomes for event in self._seen)

        until(is_done, f"the outcome of {last}")
        found: dict[str, list[dict[str, Any]]] = {}
        for event in self._seen:
            found.setdefault(event["uuid"], []).append(event)
        return found

    def outcomes(self, last: str) -> dict[str, tuple[str, str]]:
        """Return how each message ended, and what its result is."""
        return {
            id: (each[-1]["type"], each[-1].get("result", ""))
            for id, each in self.seen(last).items()
        }

    def close(self) -> None:
        self._pubsub.close()


@pytest.fixture(scope="module")
def shared_monitor(shared: System) -> Iterator[Monitor]:
    shared.start("worker", "--task-events").says("ready.")
    monitor = Monitor(shared)
    yield monitor
    monitor.close()


def test_a_refusal_shows_its_reason_also_when_it_is_given_again(shared_monitor: Monitor) -> None:
    for _ in range(2):
        shared_monitor.system.push(
            envelope("cards.expire", "refused", {"account_id": "T00000001", "card_id": "none"})
        )
    shared_monitor.system.push(envelope("cards.get", "query", {"account_id": "T00000001"}))
    shared_monitor.system.create("known")
    found = shared_monitor.seen("known")
    ends = [event["result"] for event in found["refused"] if event["type"] == "task-succeeded"]
    assert ends == ["command.rejected: card_not_found"] * 2
    assert found["query"][-1]["result"] == "refused: invalid"
    assert found["known"][-1]["result"] == "card.created"


def test_a_list_shows_how_often_each_outcome_came(shared_monitor: Monitor) -> None:
    blocked = {"command": "cards.expire", "account_id": "T00000001", "card_id": "none"}
    created = {"command": "cards.create", **card("listed")}
    listed = [created, *({**blocked, "command_id": f"blocked-{n}"} for n in range(2))]
    listed = [{"command_id": "listed", **each} for each in listed]
    shared_monitor.system.push(envelope("commands.apply", "good", {"commands": listed}))
    spoilt = {"commands": [*listed, "nonsense"]}
    shared_monitor.system.push(envelope("commands.apply", "spoilt", spoilt))
    found = shared_monitor.outcomes("spoilt")
    counted = "card.created, command.rejected: card_not_found × 2"
    assert found["good"] == ("task-succeeded", counted)
    assert found["spoilt"] == (
        "task-failed",
        "items_unreadable: Items of the list are not readable as commands; the others were handled"
        f" (1 of 4). {counted}",
    )


def test_each_dead_letter_with_a_name_and_an_id_shows_its_reason(shared_monitor: Monitor) -> None:
    letters = {
        "not-a-call": envelope("cards.create", "not-a-call", body=b"{}"),
        "no-task": envelope("cards.explode", "no-task"),
        "no-account": envelope("cards.expire", "no-account", {"card_id": "x"}),
        "no-json": {**envelope("cards.expire", "no-json"), "content-type": "application/x-python"},
        "no-sweep": envelope("sweeps.expire_cards", "no-sweep", {"swept": "x"}),
    }
    shared_monitor.system.push(envelope("", "nameless"))
    shared_monitor.system.push(envelope("cards.create", ""))
    shared_monitor.system.push("not JSON")
    for letter in letters.values():
        shared_monitor.system.push(letter)
        shared_monitor.seen(letter["headers"]["id"])
    found = shared_monitor.seen("no-sweep")
    assert not found.keys() & {"nameless", "", None}
    for id, letter in letters.items():
        assert found[id][0]["type"] == "task-received"
        assert found[id][0]["name"] == letter["headers"]["task"]
        end = found[id][-1]
        assert end["type"] == "task-failed"
        assert end["exception"] == end["result"]
        reason = shared_monitor.system.letter(id).reason
        assert end["result"].startswith(f"{reason}: ")


def test_a_sweep_sends_no_events(shared_monitor: Monitor) -> None:
    for id, fields in {"sweep": {}, "spoilt-sweep": {"swept": "x"}}.items():
        shared_monitor.system.push(envelope("sweeps.expire_cards", id, fields), "cards.system")
    assert "sweep" not in shared_monitor.seen("spoilt-sweep")


def test_the_runtime_of_a_message_is_its_share_of_the_group(own: System) -> None:
    block = {"account_id": "T00000001", "card_id": "none"}
    listed = [{"command": "cards.expire", "command_id": f"b-{n}", **block} for n in range(9)]
    own.push(envelope("commands.apply", "list", {"commands": listed}))
    own.push(envelope("cards.expire", "single", block))
    monitor = Monitor(own)
    own.start("worker", "--task-events")
    found = monitor.seen("single")
    runtimes = {id: found[id][-1]["runtime"] for id in ("list", "single")}
    assert runtimes["list"] == pytest.approx(9 * runtimes["single"])
    monitor.close()


def test_workers_of_one_host_have_names_of_their_own(own: System) -> None:
    pids = [own.start("worker").pid, own.start("worker").pid]
    own.start("worker", "-n", "named@%h")
    with Celery(broker=own.broker_url, set_as_current=False) as app:
        names = set[str]()

        def all_answer() -> bool:
            for answer in app.control.ping(timeout=1):
                names.update(name.partition("@")[0] for name in answer)
            return len(names) == 3

        until(all_answer, "the workers")
    assert names == {"named", *(f"celery-{pid}" for pid in pids)}
