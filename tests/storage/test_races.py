"""Commands that can't all be right, at once: one wins, and the books add up."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Engine
from tenacity import retry, retry_if_exception

from card_worker.contracts.commands import Command, event_id
from card_worker.contracts.message import Letter, read_commands
from card_worker.domain.answers import Answer
from card_worker.handler import handle
from card_worker.storage.engine import begin, open_engine, reading
from card_worker.storage.errors import is_retryable
from card_worker.storage.reconcile import differences, totals

ACCOUNT = "T00000001"
NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
ROUNDS = int(os.environ.get("RACES", "60"))


def command(task: str, command_id: str, **fields: Any) -> Command:
    (read,) = read_commands(task, command_id, {"account_id": ACCOUNT, **fields})
    assert not isinstance(read, Letter)
    return read


@retry(retry=retry_if_exception(is_retryable))
def do(engine: Engine, commands: Sequence[Command], now: datetime = NOW) -> list[Answer]:
    with begin(engine) as (connection, _):
        return handle(connection, commands, now)


def make_cards(engine: Engine, *names: str, amount: int = 100) -> None:
    made = [
        command("cards.create", name, card_id=name, amount=amount, currency="NOK") for name in names
    ]
    assert {answer.type for answer in do(engine, made)} == {"card.created"}


def at_once(url: str, *works: Callable[[Engine], list[Answer]]) -> list[list[Answer]]:
    """Do all of it at the same time, each on connections of its own."""
    start = Barrier(len(works))

    def work(one: Callable[[Engine], list[Answer]]) -> list[Answer]:
        engine = open_engine(url)
        try:
            start.wait()
            return one(engine)
        finally:
            engine.dispose()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(work, works))


def spend(number: int, **fields: Any) -> Command:
    asked = {"card_id": "A1", "ref_id": f"r{number}", "amount": 100, "currency": "NOK", **fields}
    return command("transactions.create", f"c{number}", **asked)


def prove(engine: Engine) -> None:
    with reading(engine) as connection:
        assert list(differences(connection)) == []
        assert all(one.adds_up for one in totals(connection))


def test_of_capture_void_and_expiry_of_a_hold_one_wins(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    # A card for each: whatever comes to a card releases all its holds that are due.
    names = [f"A{number}" for number in range(ROUNDS)]
    make_cards(engine, *names)
    placed = [spend(0, card_id=name, pending=True, hold_expires_in=60) for name in names]
    do(engine, placed)
    holds = [str(event_id(ACCOUNT, one.key)) for one in placed]

    def each(task: str, now: datetime) -> Callable[[Engine], list[Answer]]:
        asked = [{"transaction_id": hold} for hold in holds]
        if task != "holds.expire":
            asked = [{**fields, "ref_id": task} for fields in asked]
        commands = [
            command(task, f"{task}-{number}", **fields) for number, fields in enumerate(asked)
        ]
        return lambda own: [answer for one in commands for answer in do(own, [one], now)]

    ended = at_once(
        postgres_url,
        each("transactions.capture", NOW),
        each("transactions.void", NOW),
        each("holds.expire", LATER),
    )
    for answers in zip(*ended, strict=True):
        won = Counter(str(answer.reason or "won") for answer in answers)
        # Once the other two are told, they are told why not.
        assert won["won"] == 1, answers
        assert won["hold_closed"] == 2, answers
    prove(engine)
    engine.dispose()


@pytest.mark.parametrize("spenders", [4])
def test_what_is_on_a_card_is_spent_once(spenders: int, postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    make_cards(engine, "A1", amount=100 * ROUNDS)

    def all_of_it(first: int) -> Callable[[Engine], list[Answer]]:
        commands = [spend(first + number) for number in range(ROUNDS)]
        return lambda own: [answer for one in commands for answer in do(own, [one])]

    ended = at_once(postgres_url, *(all_of_it(ROUNDS * n) for n in range(spenders)))
    told = Counter(str(answer.reason or answer.type) for answers in ended for answer in answers)
    assert told == {
        "card.drawn_down": ROUNDS,
        "exceeds_available": ROUNDS * (spenders - 1),
    }
    prove(engine)
    engine.dispose()


def test_transfers_to_and_fro_never_wait_for_each_other_for_good(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    make_cards(engine, "A1", "A2", amount=10 * ROUNDS)

    def move(here: str, there: str) -> Callable[[Engine], list[Answer]]:
        commands = [
            command(
                "cards.transfer",
                f"{here}-{number}",
                card_id=here,
                to_card_id=there,
                ref_id=f"r{number}",
                amount=1,
            )
            for number in range(ROUNDS)
        ]
        return lambda own: [answer for one in commands for answer in do(own, [one])]

    ended = at_once(postgres_url, move("A1", "A2"), move("A2", "A1"))
    told = Counter(str(answer.reason or answer.type) for answers in ended for answer in answers)
    assert told == {"card.transferred_out": 2 * ROUNDS}
    prove(engine)
    engine.dispose()
