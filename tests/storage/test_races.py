"""Concurrent commands that exclude each other: one succeeds, and the books add up."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import Engine, event, insert, select
from tenacity import retry, retry_if_exception

from card_worker.contracts.commands import Command, event_id
from card_worker.contracts.enums import Action
from card_worker.contracts.message import UnreadableItem, read_commands
from card_worker.domain.answers import Answer
from card_worker.domain.ids import card_uuid
from card_worker.domain.rows import CARDS_PER_CHUNK
from card_worker.handler import handle
from card_worker.secret_issuer import SecretIssuer
from card_worker.storage.engine import begin, open_engine, reading
from card_worker.storage.errors import RACES_MAX, is_race, is_retryable
from card_worker.storage.pin_attempts import store_pin_attempts
from card_worker.storage.reconcile import differences, totals
from card_worker.storage.tables import dead_letters, outbox, pin_attempts, pins
from card_worker.worker.delivery import Delivery
from card_worker.worker.messages import Answered, Failed, Message, Outcome
from card_worker.worker.starts import STARTS_MAX
from tests.codes import PIN, SEAL_TO, VAULT
from tests.flow.processes import until
from tests.orders import Orders
from tests.storage.test_loading import waits

ACCOUNT = "T00000001"
NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
ROUNDS = int(os.environ.get("RACES", "60"))


def is_temporary(error: BaseException) -> bool:
    return is_retryable(error) or is_race(error)


def command(task: str, command_id: str, **fields: Any) -> Command:
    (read,) = read_commands(task, command_id, {"account_id": ACCOUNT, **fields}, VAULT)
    assert not isinstance(read, UnreadableItem)
    return read


@retry(retry=retry_if_exception(is_temporary))
def handle_commands(
    engine: Engine, commands: Sequence[Command], now: datetime = NOW
) -> list[Answer]:
    with begin(engine) as (connection, _):
        return handle(connection, commands, now)


def make_cards(engine: Engine, *names: str, amount: int = 100) -> None:
    made = [
        command("cards.create", name, card_id=name, amount=amount, currency="NOK") for name in names
    ]
    assert {answer.type for answer in handle_commands(engine, made)} == {"card.created"}


def run_concurrently(url: str, *works: Callable[[Engine], list[Answer]]) -> list[list[Answer]]:
    """Run functions at the same time, each with an engine of its own; return their answers."""
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


def assert_books_add_up(engine: Engine) -> None:
    with reading(engine) as connection:
        assert list(differences(connection)) == []
        assert all(one.adds_up for one in totals(connection))


def test_one_of_capture_void_and_expiry_of_a_hold_succeeds(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    # A card for each: whatever comes to a card releases all its holds that are due.
    names = [f"A{number}" for number in range(ROUNDS)]
    make_cards(engine, *names)
    placed = [spend(0, card_id=name, pending=True, hold_expires_in=60) for name in names]
    handle_commands(engine, placed)
    holds = [str(event_id(ACCOUNT, one.key)) for one in placed]

    def each(task: str, now: datetime) -> Callable[[Engine], list[Answer]]:
        asked = [{"transaction_id": hold} for hold in holds]
        if task != "holds.expire":
            asked = [{**fields, "ref_id": task} for fields in asked]
        commands = [
            command(task, f"{task}-{number}", **fields) for number, fields in enumerate(asked)
        ]
        return lambda own: [
            answer for one in commands for answer in handle_commands(own, [one], now)
        ]

    ended = run_concurrently(
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
    assert_books_add_up(engine)
    engine.dispose()


@pytest.mark.parametrize("spenders", [4])
def test_a_balance_is_spent_once(spenders: int, postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    make_cards(engine, "A1", amount=100 * ROUNDS)

    def all_of_it(first: int) -> Callable[[Engine], list[Answer]]:
        commands = [spend(first + number) for number in range(ROUNDS)]
        return lambda own: [answer for one in commands for answer in handle_commands(own, [one])]

    ended = run_concurrently(postgres_url, *(all_of_it(ROUNDS * n) for n in range(spenders)))
    told = Counter(str(answer.reason or answer.type) for answers in ended for answer in answers)
    assert told == {
        "card.drawn_down": ROUNDS,
        "exceeds_available": ROUNDS * (spenders - 1),
    }
    assert_books_add_up(engine)
    engine.dispose()


def test_transfers_in_both_directions_do_not_deadlock(postgres_url: str) -> None:
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
        return lambda own: [answer for one in commands for answer in handle_commands(own, [one])]

    ended = run_concurrently(postgres_url, move("A1", "A2"), move("A2", "A1"))
    told = Counter(str(answer.reason or answer.type) for answers in ended for answer in answers)
    assert told == {"card.transferred_out": 2 * ROUNDS}
    assert_books_add_up(engine)
    engine.dispose()


def test_a_pin_attempt_on_a_card_that_is_being_removed_names_no_card(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    orders = Orders(engine)
    with patch.dict(CARDS_PER_CHUNK, {Action.MAKE: 1}):
        orders.order(2)
    orders.work(1)
    orders.waiting.clear()
    orders.ask("batches.cancel", "cancel", batch_id="B1", reason="because")
    with ThreadPoolExecutor(1) as pool:
        with begin(engine) as (connection, now):
            store_pin_attempts(connection, [spend(1, card_id="B1-0001", pin=PIN)], now)
            removed = pool.submit(orders.work)
            until(lambda: waits(engine), "the removal waits")
        assert removed.result() > 0
    with reading(engine) as connection:
        attempts = connection.execute(select(pin_attempts.c.card, pin_attempts.c.number)).all()
    assert attempts == [(None, 0)]
    assert_books_add_up(engine)
    engine.dispose()


# --- the same card, made twice ----------------------------------------------------------------

NEIGHBOURS = 100
MONEY: dict[str, Any] = {"amount": 100, "currency": "NOK"}
CODES = {**SEAL_TO, "card_token": {}, "pin": {}}
SAME_CARD: dict[str, tuple[str, dict[str, Any]]] = {
    "with nothing": ("cards.create", {"card_id": "same", "amount": 0, "currency": "NOK"}),
    "with money": ("cards.create", {"card_id": "same", **MONEY}),
    "with a PIN": ("cards.create", {"card_id": "same", **MONEY, **SEAL_TO, "pin": {}}),
    "with a token": ("cards.create", {"card_id": "same", **MONEY, **SEAL_TO, "card_token": {}}),
    "with all": ("cards.create", {"card_id": "same", **MONEY, **CODES}),
    "of a batch": ("cards.batch_create", {"cards": [{"card_id": "same"}]}),
    "of the same batch": (
        "cards.batch_create",
        {"batch_id": "same", "cards": [{"card_id": "same"}]},
    ),
    "a replacement": ("cards.replace", {"new_card_id": "same", "reason": "lost"}),
}


def message(task: str, id: str, **fields: Any) -> Message:
    kwargs = {"account_id": ACCOUNT, **fields}
    return Message(task=task, id=id, queue="cards", kwargs=kwargs, body=id.encode())


def group(name: str, task: str, fields: dict[str, Any]) -> list[Message]:
    """Return a group of messages of a worker; one of them makes the card that is made twice."""
    if task == "cards.replace":
        fields = {**fields, "card_id": f"old-{name}"}
    made = [
        message("cards.create", f"{name}-{number}", card_id=f"{name}-{number}", **MONEY)
        for number in range(NEIGHBOURS)
    ]
    return [*made, message(task, f"{name}-same", **fields)]


def deliver(url: str, messages: Sequence[Message]) -> tuple[list[Outcome], int]:
    """Return the outcomes of a group of messages, and how many commits that took."""
    engine = open_engine(url)
    commits: list[object] = []
    event.listen(engine, "commit", commits.append)
    try:
        return Delivery(engine, lambda: False, vault=VAULT).deliver(messages), len(commits)
    finally:
        engine.dispose()


@pytest.mark.parametrize(("task", "fields"), SAME_CARD.values(), ids=SAME_CARD.keys())
def test_a_group_that_waits_for_the_same_card_is_done_in_one_commit(
    task: str, fields: dict[str, Any], postgres_url: str
) -> None:
    engine = open_engine(postgres_url)
    if task == "cards.replace":
        make_cards(engine, "old-one", "old-two")
    with ThreadPoolExecutor(1) as pool:
        with begin(engine) as (connection, _):
            one = group("one", task, fields)
            mine = [command(each.task, each.id, **each.kwargs) for each in one]
            handle(connection, mine, NOW, SecretIssuer(VAULT))
            finished = pool.submit(deliver, postgres_url, group("two", task, fields))
            until(lambda: waits(engine), "the other group waits")
        outcomes, commits = finished.result()
    refused = [one for end in outcomes if isinstance(end, Answered) for one in end.answers]
    assert len(refused) == len(outcomes) == NEIGHBOURS + 1
    assert [answer.reason for answer in refused if answer.reason] == [refused[-1].reason]
    assert commits == 1
    assert_books_add_up(engine)
    engine.dispose()


def test_two_workers_that_create_the_same_cards_need_one_commit_per_group(
    postgres_url: str,
) -> None:
    engine = open_engine(postgres_url)
    rounds, start, commits = 10, Barrier(2), 0

    def work(name: str) -> int:
        counted = 0
        for number in range(rounds):
            start.wait()
            same = {"card_id": f"same-{number}", **MONEY, **CODES}
            _, done = deliver(postgres_url, group(f"{name}-{number}", "cards.create", same))
            counted += done
        return counted

    with ThreadPoolExecutor(2) as pool:
        commits = sum(pool.map(work, ("one", "two")))
    assert commits == 2 * rounds
    with reading(engine) as connection:
        told = Counter(connection.execute(select(outbox.c.type)).scalars())
    assert told == {
        "card.created": rounds * (2 * NEIGHBOURS + 1),
        "command.rejected": rounds,
    }
    assert_books_add_up(engine)
    engine.dispose()


def test_a_command_that_always_violates_a_constraint_is_a_defect(engine: Engine) -> None:
    # Of a card that isn't there. No commit of ours leaves it behind.
    orphan = {"id": card_uuid(ACCOUNT, "same"), "account_id": ACCOUNT, "kid": "p1", "digest": ""}
    with begin(engine) as (connection, now):
        connection.execute(insert(pins).values(**orphan, changed_at=now))
    tries: list[object] = []
    event.listen(engine, "rollback", tries.append)
    fields = {"card_id": "same", **MONEY, **CODES}
    *others, bad = Delivery(engine, lambda: False, vault=VAULT).deliver(
        group("one", "cards.create", fields)
    )
    assert all(isinstance(outcome, Answered) for outcome in others)
    assert isinstance(bad, Failed)
    assert bad.explanation.endswith("(IntegrityError).")
    # First the group, then the message alone.
    assert RACES_MAX < len(tries) <= (1 + STARTS_MAX) * RACES_MAX
    with reading(engine) as connection:
        assert connection.execute(select(dead_letters.c.message_id)).scalars().all() == ["one-same"]
