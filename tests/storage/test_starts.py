"""Starts of messages are counted, unless the worker has broken them off."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine

from card_worker.storage.engine import begin
from card_worker.storage.starts import Start, count_starts, forget_starts, uncount_starts
from card_worker.worker.messages import Message
from card_worker.worker.starts import Starts

NOW = datetime(2026, 11, 25, tzinfo=UTC)


def test_starts_are_counted_unless_the_worker_has_broken_them_off(engine: Engine) -> None:
    def count(deaths: int, *, failed: bool = False) -> int:
        started = [Start("m", deaths), Start(f"other-{deaths}", deaths)]
        with begin(engine) as (connection, _):
            starts, _ = count_starts(connection, started, NOW, failed=failed)
        return starts

    assert [count(1), count(1), count(1)] == [1, 1, 1]  # broken off twice
    assert [count(2), count(3), count(3)] == [2, 3, 3]
    assert [count(3, failed=True), count(3, failed=True)] == [4, 5]
    for _ in range(2):  # what is taken back once isn't taken back again
        with begin(engine) as (connection, _):
            uncount_starts(connection, ["m"])
    assert [count(3), count(3), count(9)] == [5, 5, 6]
    with begin(engine) as (connection, _):
        forget_starts(connection, ["m", "unknown"])
    assert count(9) == 1


def test_starts_of_two_messages_with_one_id_are_counted_apart(engine: Engine) -> None:
    starts = Starts(engine)
    about: dict[str, Any] = {"task": "cards.create", "id": "same", "queue": "cards", "kwargs": {}}
    first, second = (Message(**about, body=body) for body in (b"first", b"second"))
    counted = [starts.count([replace(first, deaths=deaths)]) for deaths in (1, 2, 3)]
    assert counted == [[1], [2], [3]]
    assert starts.count([replace(second, deaths=1)]) == [1]
    starts.forget([second])
    assert starts.count([replace(first, deaths=4)]) == [4]
