"""A group or query sees all of a concurrent commit, or nothing of it."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from card_worker.contracts.commands import Command, event_id
from card_worker.contracts.message import read_query
from card_worker.contracts.queries import GetBatch, GetCard, Query
from card_worker.domain.answers import Answer
from card_worker.domain.decide import needs
from card_worker.handler import handle
from card_worker.query_handler import QueryResult, answer_query
from card_worker.storage.engine import begin, open_engine, reading
from card_worker.storage.loading import load
from card_worker.storage.reconcile import differences
from tests.codes import SEAL_TO, VAULT, plain_issuer
from tests.flow.processes import until
from tests.orders import Orders
from tests.storage.test_handler import (
    ACCOUNT,
    NOW,
    activate,
    answer_types,
    command,
    create,
    follow_up,
    spend,
)

LOCK_CARD = text("SELECT FROM cards WHERE card_id = 'locked' FOR UPDATE")


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    """Only on PostgreSQL can anything be committed between two statements of a commit."""
    engine = open_engine(postgres_url)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("named_by", ["card", "transaction", "token"])
def test_a_card_is_locked_when_it_is_loaded(engine: Engine, named_by: str) -> None:
    coded = create("A1", card_token={}, **SEAL_TO)
    first = spend("A1", "r1", pending=True)
    paid = command(
        "transactions.create", "t", token="TOKEN-0", ref_id="t", amount=1, currency="NOK"
    )
    handle_commands(engine, coded, first)
    of = {"card": spend("A1", "r2"), "transaction": follow_up("capture", first), "token": paid}
    needed = [needs(of[named_by])]
    with begin(engine) as (connection, now):
        assert load(connection, needed, now)().cards
        with (
            pytest.raises(OperationalError, match="lock timeout"),
            begin(engine, lock_timeout_ms=20) as (other, _),
        ):
            load(other, needed, now)()


def handle_commands(engine: Engine, *commands: Command) -> list[Answer]:
    with begin(engine) as (connection, _):
        return handle(connection, commands, NOW, plain_issuer())


def waits(engine: Engine) -> bool:
    """Say whether a session of the test's database waits for a lock."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with reading(engine) as connection:
        return bool(connection.execute(text(waiting)).scalar_one())


def while_it_waits(
    engine: Engine, commands: Sequence[Command], meanwhile: Callable[[], Any]
) -> list[Answer]:
    """Handle commands behind one on a locked card; do `meanwhile` while they wait for that."""
    handle_commands(engine, create("locked"))
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as holding:
            holding.execute(LOCK_CARD)
            answers = pool.submit(handle_commands, engine, spend("locked", "first"), *commands)
            until(lambda: waits(engine), "the group waits")
            meanwhile()
        _, *others = answers.result()
    return others


DRAWN, HELD = spend("A1", "draw"), spend("A1", "hold", pending=True)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (follow_up("capture", HELD), "hold_not_found"),
        (follow_up("void", HELD), "hold_not_found"),
        (follow_up("refund", DRAWN), "transaction_not_found"),
        (
            command("holds.expire", "e", transaction_id=str(event_id(ACCOUNT, HELD.key))),
            "hold_not_found",
        ),
    ],
    ids=["capture", "void", "refund", "expire"],
)
def test_a_transaction_made_meanwhile_is_not_found(
    engine: Engine, asked: Command, reason: str
) -> None:
    handle_commands(engine, create("A1"))
    neighbour = create("A2")
    answers = while_it_waits(
        engine, [asked, neighbour], lambda: handle_commands(engine, DRAWN, HELD)
    )
    assert answer_types(answers) == [reason, "card.created"]


def test_a_token_made_meanwhile_is_not_found(engine: Engine) -> None:
    handle_commands(engine, create("A1"), create("A2"))
    made = command("tokens.create", "t", card_id="A1", ref_id="t", expires_in=60, **SEAL_TO)
    token_id = str(event_id(ACCOUNT, made.key))
    revoke = command("tokens.revoke", "revoke", card_id="A2", token_id=token_id)
    paid = {"token": "TOKEN-0", "ref_id": "r", "amount": 1, "currency": "NOK"}
    pay = command("transactions.create", "pay", **paid)
    answers = while_it_waits(engine, [revoke, pay], lambda: handle_commands(engine, made))
    assert answer_types(answers) == ["token_not_found", "card_not_usable"]


def test_a_card_of_an_order_that_ends_meanwhile_is_found(engine: Engine) -> None:
    orders = Orders(engine)
    orders.order(3)
    card = "B1-0001"
    block = command("cards.block", "block", card_id=card, reason="lost")
    answers = while_it_waits(engine, [activate(card), block, spend("none", "r")], orders.work)
    assert answer_types(answers) == ["card.activated", "card.blocked", "card_not_found"]
    with reading(engine) as connection:
        assert list(differences(connection)) == []


# --- queries ------------------------------------------------------------------------------------


def query(task: str, **fields: Any) -> Query:
    asked = read_query(task, "q", {"account_id": ACCOUNT, **fields}, VAULT)
    assert isinstance(asked, GetCard | GetBatch)
    return asked


def look_during(
    engine: Engine, asked: Query, table: str, work: Callable[[Any], Any]
) -> QueryResult:
    """Return what a query shows that has to wait for `table` while `work` is committed."""

    def seen() -> QueryResult:
        with reading(engine) as connection:
            return answer_query(connection, asked)

    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as changing:
            changing.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
            shown = pool.submit(seen)
            until(lambda: waits(engine), "the query waits")
            work(changing)
        return shown.result()


def test_a_hold_that_ends_during_a_query_locks_nothing(engine: Engine) -> None:
    held = spend("A1", "hold", pending=True, hold_expires_in=60)
    handle_commands(engine, create("A1"), held)
    later = NOW + timedelta(hours=1)
    ended = command("holds.expire", "e", transaction_id=str(event_id(ACCOUNT, held.key)))
    asked = query("cards.get", card_id="A1")
    shown = look_during(engine, asked, "holds", lambda one: handle(one, [ended], later))
    assert shown["card"]["amount_available"] == 500
    assert shown["card"]["amount_reserved"] == 0
