"""Groups: the limits of a commit."""

import re
from typing import Any

from tests.flow.processes import Part, until
from tests.flow.system import ACCOUNT, System, envelope

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
