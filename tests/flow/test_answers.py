"""Of all events about a command, the client returns its answer."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeAlias

import pytest
from redis import Redis
from sqlalchemy import update

from card_worker.batches.work import PROGRESS_INTERVAL
from card_worker.client import STREAM, Client
from card_worker.contracts.enums import Action
from card_worker.domain.rows import CARDS_PER_CHUNK
from card_worker.files import confirm
from card_worker.storage.engine import begin, open_engine
from card_worker.storage.files import find_files, mark_written
from card_worker.storage.tables import holds, jobs
from tests.orders import ACCOUNT, CODES, Orders

LOAD = {"amount": 500, "currency": "NOK"}
LISTED = {"cards": [{"card_id": "X1"}], "batch_id": "X"}
Event: TypeAlias = dict[str, Any]


@pytest.fixture
def orders(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Orders]:
    """A database whose orders are made card by card."""
    monkeypatch.setitem(CARDS_PER_CHUNK, Action.MAKE, 1)
    engine = open_engine(sqlite_url)
    yield Orders(engine)
    engine.dispose()


def an_order(orders: Orders) -> Event:
    answer = orders.order(3, **CODES)
    with begin(orders.engine) as (connection, now):
        connection.execute(update(jobs).values(last_progress_at=now - PROGRESS_INTERVAL))
    orders.work()
    with begin(orders.engine) as (connection, now):
        for file in find_files(connection, ACCOUNT, "B1"):
            mark_written(connection, file, now)
    confirm(orders.engine, ACCOUNT, "B1")
    return answer


def an_order_that_can_not_be_made(orders: Orders) -> Event:
    answer = orders.order(3)
    # After the order was looked at, as if both had come at once.
    with begin(orders.engine) as (connection, _):
        connection.exec_driver_sql("UPDATE batches SET busy = 0")
    orders.ask("cards.create", "first", card_id="B1-0002", **LOAD)
    orders.work()
    return answer


def a_list_that_waits_for_approval(orders: Orders) -> Event:
    asked = {**LISTED, "needs_approval": True, "created_by": "kari"}
    orders.ask("cards.batch_create", "list", **asked)
    answer = orders.ask("batches.approve", "approve", batch_id="X", created_by="ola")
    orders.work()
    return answer


def a_list(orders: Orders) -> Event:
    return orders.ask("cards.batch_create", "list", **LISTED)


def a_recall(orders: Orders) -> Event:
    orders.order(2)
    orders.work()
    answer = orders.ask("batches.close", "recall", batch_id="B1", reason="lost")
    orders.work()
    return answer


def an_order_let_go(orders: Orders) -> Event:
    orders.order(2)
    orders.work()
    answer = orders.ask("batches.cancel", "let-go", batch_id="B1")
    orders.work()
    return answer


def due_hold(orders: Orders) -> str:
    orders.ask("cards.create", "card", card_id="C1", **LOAD)
    pending = {"card_id": "C1", "ref_id": "r", "pending": True, "hold_expires_in": 60}
    placed = orders.ask("transactions.create", "hold", **pending, **LOAD)
    with begin(orders.engine) as (connection, now):
        connection.execute(update(holds).values(expires_at=now - timedelta(seconds=1)))
    return str(placed["data"]["transaction"]["id"])


def an_end_with_a_hold_that_is_due(orders: Orders) -> Event:
    due_hold(orders)
    return orders.ask("cards.close", "close", card_id="C1", reason="lost")


def a_hold_that_expires(orders: Orders) -> Event:
    answer = orders.ask("holds.expire", "expire", transaction_id=due_hold(orders))
    assert answer["type"] == "hold.expired"
    return answer


@pytest.mark.parametrize(
    ("story", "others"),
    [
        (an_order, {"batch.progressed", "batch.completed", "batch.confirmed"}),
        (an_order_that_can_not_be_made, {"batch.cancelled"}),
        (a_list_that_waits_for_approval, {"batch.completed"}),
        (a_list, set()),
        (a_recall, {"batch.recalled"}),
        (an_order_let_go, {"batch.recalled"}),
        (an_end_with_a_hold_that_is_due, {"hold.expired"}),
        (a_hold_that_expires, set()),
    ],
)
def test_other_events_of_a_command_are_not_its_answer(
    story: Callable[[Orders], Event],
    others: set[str],
    orders: Orders,
    broker_url: str,
    redis_client: Redis,
) -> None:
    answer = story(orders)
    asked = answer["correlationid"]
    told = [event for event in orders.events() if event["correlationid"] == asked]
    later = [event for event in told if event != answer]
    assert others <= {event["type"] for event in later}
    # As one sees it who asks again meanwhile.
    for event in (*later, answer):
        redis_client.xadd(STREAM, {"event": json.dumps(event)})
    with Client(broker_url) as client:
        answers = client.answers([asked], account_id=ACCOUNT, after="0-0", timeout_s=60)
    assert answers == {asked: answer}
