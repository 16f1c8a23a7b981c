"""Logs: one line for each group and each refusal, without the content of messages."""

import json
from typing import Any

import pytest

from tests.flow import defects
from tests.flow.system import System, card, envelope

MARK = "Kari-Nordmann-7f3a"
"""What a customer is called. Wherever it is sent, no log may show it."""


@pytest.fixture(scope="module")
def logged(shared: System) -> System:
    """The system after messages of every kind, each of which carries the mark.

    Each worker had two of every kind to itself, and has ended: its log is complete.
    """
    defects.plant(shared.engine)
    shared.start("relay", LOG_FORMAT="json")
    for_programs = {"LOG_FORMAT": "json", "RESULT_BACKEND_URL": shared.broker_url}
    for options, settings, numbers in (
        ((), for_programs, (0, 1)),
        (("--loglevel=DEBUG",), {}, (2, 3)),
    ):
        worker = shared.start("worker", *options, **settings)
        for number in numbers:
            _send_every_kind(shared, number)
        for number in numbers:
            shared.answers(*(f"{what}-{number}" for what in ("made", "refused", "plain", "part")))
            for what in ("defect", "nobody", "twice", "packed"):
                shared.letter(f"{what}-{number}")
        assert worker.stop() == 0, worker.tail
    return shared


def _send_every_kind(shared: System, number: int) -> None:
    marked: dict[str, Any] = {
        "name": MARK,
        "customer_id": MARK,
        "metadata": {MARK: MARK},
        "originated_by": MARK,
        "created_by": MARK,
    }
    shared.create(f"made-{number}", **marked)
    shared.create(f"invalid-{number}", **{**marked, "amount": MARK, MARK: MARK})
    shared.send("cards.activate", f"refused-{number}", **card("none", **marked, type=None))
    shared.create(f"defect-{number}", **marked)
    part = {"command": "cards.create", "command_id": f"part-{number}"}
    listed = [{**part, **card(f"part-{number}", **marked)}, {MARK: MARK}, MARK]
    shared.push(envelope("commands.apply", f"list-{number}", {"commands": listed}))
    asked = card("odd", **marked, account_id=None)
    shared.push(envelope("cards.create", f"nobody-{number}", asked))
    raw = f'[[], {{"name": "{MARK}", "name": "{MARK}"}}, {{}}]'.encode()
    shared.push(envelope("cards.create", f"twice-{number}", body=raw))
    odd = {"compression": "zlib", "argsrepr": MARK, "kwargsrepr": MARK}
    shared.push(envelope("cards.create", f"packed-{number}", body=raw, headers=odd))
    plain = {"argsrepr": MARK, "kwargsrepr": MARK, "origin": MARK, "baggage": MARK}
    shared.push(envelope("cards.create", f"plain-{number}", card(f"plain-{number}"), headers=plain))
    raw = json.dumps({"task": "cards.create", "id": MARK, "args": [MARK], "kwargs": {}}).encode()
    shared.push({**envelope("", "", body=raw), "headers": {}})


def _for_programs(logged: System) -> list[dict[str, Any]]:
    """Return the lines of the worker that writes JSON."""
    # Celery prints its banner and its warning against root before there is a log.
    lines = logged.parts.all[1].said.splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_no_log_line_has_the_content_of_a_message(logged: System) -> None:
    for part in logged.parts.all:
        assert [line for line in part.said.splitlines() if MARK in line] == []


def test_with_json_each_line_is_json(logged: System) -> None:
    relay, worker, _ = logged.parts.all
    # Before and after its log, Celery prints its banner and that it was asked to stop.
    log = worker.said[worker.said.index('{"') : worker.said.index("worker: Warm shutdown")]
    assert all(isinstance(json.loads(line), dict) for line in log.splitlines() if line)
    assert all(isinstance(json.loads(line), dict) for line in relay.said.splitlines())


def test_each_group_has_a_line_with_its_commands(logged: System) -> None:
    both = [*_for_programs(logged), *_for_people(logged)]
    groups = [line for line in both if line["event"] == "group committed"]
    for command_id in ("made-0", "refused-1", "part-2", "plain-3"):
        assert len([one for one in groups if command_id in one["command_ids"]]) == 1


def test_each_refusal_has_a_line_with_command_and_reason(logged: System) -> None:
    refused = [
        line
        for line in (*_for_programs(logged), *_for_people(logged))
        if line["event"] == "command refused" and line["command_id"].startswith("refused-")
    ]
    assert {line["reason"] for line in refused} == {"card_not_found"}
    assert {line["command"] for line in refused} == {"cards.activate"}
    assert sorted(line["command_id"] for line in refused) == [f"refused-{n}" for n in range(4)]


def _for_people(logged: System) -> list[dict[str, Any]]:
    """Return our lines of the worker that writes for people, read as far as tests need it."""
    found = []
    for line in logged.parts.all[2].said.splitlines():
        for event in ("group committed", "command refused"):
            if f"] {event} " in line:
                pairs = dict(pair.split("=", 1) for pair in line.split() if "=" in pair)
                found.append({"event": event, **pairs})
    return found
