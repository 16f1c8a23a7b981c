"""Celery's signals of tasks: a closed sequence for each message, after its commit."""

import json
from pathlib import Path
from typing import Any

from tests.flow.processes import PARTS, until
from tests.flow.system import System, card, envelope

TOKEN = "tok-12345678-secret"


def test_a_listener_hears_each_message_from_its_beginning_to_its_end(own: System) -> None:
    own.push(envelope("cards.create", "made", card("made")))
    own.push(envelope("cards.explode", "unknown"))
    own.push(envelope("cards.create", "unreadable", body=b"{}"))
    own.push(envelope("cards.expire", "no-account", {"card_id": "x"}))
    spent = {"account_id": "T00000001", "token": TOKEN, "amount": 1, "ref_id": "r"}
    own.push(envelope("transactions.create", "refused", spent))
    module = "tests.flow.listening"
    env = {"CELERY_CONFIG_MODULE": module, "PYTHONPATH": str(Path(__file__).parents[2])}
    own.parts.run(*PARTS["worker"], name="worker", env=env)

    def heard() -> list[dict[str, Any]]:
        entries: Any = own.redis.lrange("heard", 0, -1)
        return [json.loads(entry) for entry in entries]

    until(lambda: len(heard()) == 12, "the signals")
    sequences = [heard()[start : start + 3] for start in range(0, 12, 3)]
    for sequence in sequences:
        assert len({(each["id"], each["task"]) for each in sequence}) == 1
    assert {sequence[0]["id"]: [each["signal"] for each in sequence] for sequence in sequences} == {
        "made": ["task_prerun", "task_success", "task_postrun"],
        "refused": ["task_prerun", "task_success", "task_postrun"],
        "unreadable": ["task_prerun", "task_failure", "task_postrun"],
        "no-account": ["task_prerun", "task_failure", "task_postrun"],
    }
    ends = {prerun["id"]: (prerun, end, postrun) for prerun, end, postrun in sequences}
    prerun, success, postrun = ends["made"]
    assert prerun["events"] == 2, "not committed yet"
    assert prerun["kwargs"]["card_id"] == "made"
    assert success["result"]["type"] == "card.created"
    assert postrun["state"] == "SUCCESS"
    assert ends["refused"][1]["result"]["data"]["reason"] == "invalid"
    assert ends["no-account"][1]["exception"].startswith("account_id_invalid: ")
    assert "DeadLettered: account_id_invalid" in ends["no-account"][1]["einfo"]
    assert ends["unreadable"][2]["state"] == "FAILURE"
    assert TOKEN not in json.dumps(heard())
