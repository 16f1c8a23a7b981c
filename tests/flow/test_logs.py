"""Logs: one line for each group and each refusal, and never what a message carries."""

import json
from typing import Any

import pytest

from tests.flow import defects
from tests.flow.system import System, card, envelope

MARK = "Kari-Nordmann-7f3a"
"""What a customer is called. Wherever it is sent, no log may show it."""


@pytest.fixture(scope="module")
def logged(shared: System) -> System:
    """The system after messages of every kind, each of which carries the mark."""
    defects.plant(shared.engine)
    shared.start("worker", LOG_FORMAT="json", RESULT_BACKEND_URL=shared.broker_url)
    shared.start("worker", "--hostname=second@%h", "--loglevel=DEBUG")
    shared.start("relay", LOG_FORMAT="json")
    marked: dict[str, Any] = {
        "name": MARK,
        "customer_id": MARK,
        "metadata": {MARK: MARK},
        "originated_by": MARK,
        "created_by": MARK,
    }
    for number in range(4):  # so that each worker has some
        suffix = f"{number}"
        shared.create(f"made-{suffix}", **marked)
        shared.create(f"invalid-{suffix}", **{**marked, "amount": MARK, MARK: MARK})
        shared.send("cards.activate", f"refused-{suffix}", **card("none", **marked, type=None))
        shared.create(f"defect-{suffix}", **marked)
        part = {"command": "cards.create", "command_id": f"part-{suffix}"}
        listed = [{**part, **card(f"part-{suffix}", **marked)}, {MARK: MARK}, MARK]
        shared.push(envelope("commands.apply", f"list-{suffix}", {"commands": listed}))
        asked = card("odd", **marked, account_id=None)
        shared.push(envelope("cards.create", f"nobody-{suffix}", asked))
        raw = f'[[], {{"name": "{MARK}", "name": "{MARK}"}}, {{}}]'.encode()
        shared.push(envelope("cards.create", f"twice-{suffix}", body=raw))
        odd = {"compression": "zlib", "argsrepr": MARK, "kwargsrepr": MARK}
        shared.push(envelope("cards.create", f"packed-{suffix}", body=raw, headers=odd))
        plain = {"argsrepr": MARK, "kwargsrepr": MARK, "origin": MARK, "baggage": MARK}
        message = envelope(
            "cards.create", f"plain-{suffix}", card(f"plain-{suffix}"), headers=plain
        )
        shared.push(message)
        raw = json.dumps(
            {"task": "cards.create", "id": MARK, "args": [MARK], "kwargs": {}}
        ).encode()
        shared.push({**envelope("", "", body=raw), "headers": {}})
    for number in range(4):
        shared.answers(*(f"{what}-{number}" for what in ("made", "refused", "plain", "part")))
        for what in ("defect-", "nobody-", "twice-", "packed-"):
            shared.letter(f"{what}{number}")
    return shared


def _lines(logged: System, number: int) -> list[dict[str, Any]]:
    # Celery prints its banner and its warning against root before there is a log.
    return [
        json.loads(line)
        for line in logged.parts.all[number].said.splitlines()
        if line.startswith("{")
    ]


def test_no_log_shows_what_a_message_carries(logged: System) -> None:
    for part in logged.parts.all:
        assert [line for line in part.said.splitlines() if MARK in line] == []


def test_with_json_each_line_is_json(logged: System) -> None:
    worker, _, relay = logged.parts.all
    after_start = worker.said[worker.said.index('{"') :].splitlines()
    assert all(isinstance(json.loads(line), dict) for line in after_start)
    assert all(isinstance(json.loads(line), dict) for line in relay.said.splitlines())


def test_each_group_has_a_line_with_its_commands(logged: System) -> None:
    both = [*_lines(logged, 0), *_console(logged)]
    groups = [line for line in both if line["event"] == "group committed"]
    for command_id in ("made-0", "refused-1", "part-2", "plain-3"):
        assert len([one for one in groups if command_id in one["command_ids"]]) == 1


def test_each_refusal_has_a_line_with_command_and_reason(logged: System) -> None:
    refused = [
        line
        for line in (*_lines(logged, 0), *_console(logged))
        if line["event"] == "command refused" and line["command_id"].startswith("refused-")
    ]
    assert {line["reason"] for line in refused} == {"card_not_found"}
    assert {line["command"] for line in refused} == {"cards.activate"}
    assert sorted(line["command_id"] for line in refused) == [f"refused-{n}" for n in range(4)]


def _console(logged: System) -> list[dict[str, Any]]:
    """Return our lines of the worker that writes for people, read as far as tests need it."""
    found = []
    for line in logged.parts.all[1].said.splitlines():
        for event in ("group committed", "command refused"):
            if f"] {event} " in line:
                pairs = dict(pair.split("=", 1) for pair in line.split() if "=" in pair)
                found.append({"event": event, **pairs})
    return found
