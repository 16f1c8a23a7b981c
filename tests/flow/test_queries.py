"""Queries for cards, their histories and batches: the result is stored nowhere else."""

from typing import Any

import pytest
from celery import Celery

from tests.flow.processes import WAIT_S
from tests.flow.system import ACCOUNT, Event, System, envelope


@pytest.fixture(scope="module")
def running(shared: System) -> System:
    shared.start("worker", RESULT_BACKEND_URL=shared.broker_url)
    shared.start("relay")
    shared.send("cards.batch_create", "batch-1", cards=[{"card_id": "c1"}], name="July")
    shared.send("cards.create", "make", card_id="c2", amount=500, currency="NOK")
    shared.answers("batch-1", "make")
    move(shared, "draw", amount=100)
    move(shared, "hold", amount=50, pending=True)
    move(shared, "gone", amount=30, pending=True)
    shared.answers("draw", "hold", "gone")
    shared.sql("UPDATE holds SET expires_at = now() WHERE amount = 30")
    return shared


def move(system: System, ref_id: str, **fields: Any) -> None:
    asked = {"card_id": "c2", "ref_id": ref_id, "currency": "NOK", **fields}
    system.send("transactions.create", ref_id, **asked)


def run_query(plain_celery_client: Celery, task: str, **fields: Any) -> Any:
    asked = {"account_id": ACCOUNT, **fields}
    sent = plain_celery_client.send_task(task, queue="cards", kwargs=asked, ignore_result=False)
    seen = sent.get(timeout=WAIT_S)
    sent.forget()
    return seen


def test_a_card_is_shown_as_it_is_now(running: System, plain_celery_client: Celery) -> None:
    card = run_query(plain_celery_client, "cards.get", card_id="c2")["card"]
    assert (card["amount_balance"], card["status"]) == (400, "partially_used")
    assert (card["amount_reserved"], card["amount_available"]) == (50, 350)
    assert run_query(plain_celery_client, "cards.get", card_id="c1")["card"]["status"] == "inactive"
    (same,) = running.cli_json("card", "show", "c1", "--account", ACCOUNT)
    assert same == run_query(plain_celery_client, "cards.get", card_id="c1")["card"]


def test_a_query_sees_commands_that_were_sent_before(
    running: System, plain_celery_client: Celery
) -> None:
    running.send("cards.update", "call-it", card_id="c1", name="Kari")
    assert run_query(plain_celery_client, "cards.get", card_id="c1")["card"]["name"] == "Kari"


def test_a_history_is_shown_page_by_page(plain_celery_client: Celery) -> None:
    whole = run_query(plain_celery_client, "transactions.list", card_id="c2")
    assert [row["ref_id"] for row in whole["transactions"]][:3] == [None, "draw", "hold"]
    assert whole["next_cursor"] is None
    rows, cursor = [], None
    while True:
        asked = {"limit": 1} if cursor is None else {"limit": 1, "cursor": cursor}
        page = run_query(plain_celery_client, "transactions.list", card_id="c2", **asked)
        rows += page["transactions"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert rows == whole["transactions"]


def test_a_batch_is_shown(plain_celery_client: Celery) -> None:
    batch = run_query(plain_celery_client, "batches.get", batch_id="batch-1")["batch"]
    assert (batch["state"], batch["requested"], batch["name"]) == ("completed", 1, "July")


@pytest.mark.parametrize(
    ("task", "fields", "reason"),
    [
        ("cards.get", {"card_id": "nobody"}, "card_not_found"),
        ("cards.get", {"card_id": "c1", "account_id": "T00000002"}, "card_not_found"),
        ("transactions.list", {"card_id": "nobody"}, "card_not_found"),
        ("batches.get", {"batch_id": "nobody"}, "batch_not_found"),
        ("cards.get", {}, "invalid"),
        ("cards.get", {"card_id": "c1", "colour": "red"}, "invalid"),
        ("transactions.list", {"card_id": "c1", "cursor": "x"}, "invalid"),
        ("transactions.list", {"card_id": "c1", "limit": 501}, "invalid"),
    ],
)
def test_refused_queries_return_the_reason(
    task: str, fields: dict[str, Any], reason: str, plain_celery_client: Celery
) -> None:
    seen = run_query(plain_celery_client, task, **fields)
    assert seen["reason"] == reason
    assert seen["message"]
    if reason == "invalid":
        assert seen["problems"][0]["field"]


def test_a_query_stores_neither_event_nor_key(running: System, plain_celery_client: Celery) -> None:
    running.catches_up()
    before, events = running.rows(), len(events_of_account(running))
    run_query(plain_celery_client, "cards.get", card_id="c2")
    # One that nobody waits for, and one that nobody can be answered: only that is kept.
    running.send("cards.get", "for-nobody", card_id="c2")
    running.push(envelope("cards.get", "from-nobody", {"card_id": "c2"}))
    assert running.letter("from-nobody").reason == "account_id_invalid"
    running.catches_up()
    assert running.rows() == before
    assert len(events_of_account(running)) == events


def events_of_account(running: System) -> list[Event]:
    return [event for event in running.events() if event["data"]["account_id"] == ACCOUNT]
