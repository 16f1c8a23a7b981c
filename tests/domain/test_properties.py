"""What holds of the books whatever is asked of them, in whatever order."""

import copy
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from card_worker.contracts.commands import Command
from card_worker.contracts.fields import write_time
from card_worker.contracts.kinds import Side
from card_worker.contracts.message import Letter, read_commands
from card_worker.domain.answers import Answer, answer
from card_worker.domain.books import Books
from card_worker.domain.events import CommandRejected, Event
from card_worker.domain.evolve import evolve
from card_worker.domain.needs import needs
from card_worker.domain.rows import Card
from card_worker.domain.rules import decide
from card_worker.money import AMOUNT_MAX
from tests.domain.story import START

ACCOUNTS = st.sampled_from(["T00000001", "P00000001"])
CARD_IDS = st.sampled_from(["A1", "A2", "A3"])
AMOUNTS = st.integers(-1, 300) | st.just(AMOUNT_MAX)
# Seconds from the beginning; most commands come in the first hundred.
TIMES = st.none() | st.integers(-10, 120).map(lambda s: write_time(START + timedelta(seconds=s)))
LOADED = {
    "card_id": CARD_IDS,
    "amount": AMOUNTS,
    "currency": st.sampled_from(["NOK", "EUR", "GBP"]),
    "expires_at": TIMES,
    "active_from": TIMES,
}
FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "cards.create": LOADED,
    "cards.activate": LOADED,
    "cards.expire": {"card_id": CARD_IDS},
    "cards.batch_create": {
        "cards": st.lists(st.fixed_dictionaries({"card_id": CARD_IDS}), min_size=1, max_size=3),
        "batch_id": st.sampled_from(["B1", "B2"]),
    },
}
ALWAYS = {"account_id": ACCOUNTS, "not_after": TIMES, "dry_run": st.booleans()}
ASKED = st.sampled_from(sorted(FIELDS)).flatmap(
    lambda task: st.tuples(
        st.just(task), st.fixed_dictionaries(ALWAYS | FIELDS[task]), st.integers(0, 20)
    )
)
JOURNEYS = st.lists(ASKED, max_size=15)
Asked = tuple[str, dict[str, Any], int]


def commands(journey: Sequence[Asked]) -> Iterator[tuple[Command, datetime]]:
    now = START
    for number, (task, fields, pause_s) in enumerate(journey):
        now += timedelta(seconds=pause_s)
        given_fields = {name: value for name, value in fields.items() if value is not None}
        (command,) = read_commands(task, f"c{number}", given_fields)
        assert not isinstance(command, Letter)
        yield command, now


def step(books: Books, command: Command, now: datetime) -> tuple[Event, Answer]:
    (event,) = decide(books, command, now).events
    books = books.aside() if command.dry_run else books
    return event, answer(books, event, evolve(event, books))


def amounts(card: Card) -> list[int]:
    names = ("funds", "drawdown", "balance", "pending", "reserved", "available")
    return [getattr(card, f"amount_{name}") for name in names]


@given(JOURNEYS)
def test_what_cards_hold_is_what_was_issued(journey: list[Asked]) -> None:
    books = Books()
    for command, now in commands(journey):
        step(books, command, now)
        issued: Counter[Any] = Counter()
        for row in books.transactions:
            assert (row.debit, row.credit) == (Side.ISSUER, Side.CARD)
            issued[row.currency] += row.amount
        held: Counter[Any] = Counter()
        for card in books.cards.values():
            held[card.currency] += card.amount_balance
        assert +held == +issued


@given(JOURNEYS)
def test_no_amount_is_ever_negative(journey: list[Asked]) -> None:
    books = Books()
    for command, now in commands(journey):
        step(books, command, now)
        assert min([0, *(amount for card in books.cards.values() for amount in amounts(card))]) == 0


@given(JOURNEYS)
def test_versions_of_a_card_have_no_gap(journey: list[Asked]) -> None:
    books, seen = Books(), Counter[tuple[str, str]]()
    for command, now in commands(journey):
        _, told = step(books, command, now)
        event = json.loads(told.event)
        if event["type"] == "batch.completed" and not command.dry_run:
            seen.update((command.account_id, card["card_id"]) for card in event["data"]["cards"])
        if "sequence" in event:
            key = command.account_id, event["subject"]
            seen[key] += 1
            assert int(event["sequence"]) == event["data"]["version"] == seen[key]
    assert {key: card.version for key, card in books.cards.items()} == seen


@given(JOURNEYS)
def test_each_transaction_proves_its_neighbours(journey: list[Asked]) -> None:
    books = Books()
    for command, now in commands(journey):
        step(books, command, now)
    for card in books.cards.values():
        balance = 0
        for row in (row for row in books.transactions if row.card == card.id):
            assert row.amount > 0
            assert (row.account_id, row.currency) == (card.account_id, card.currency)
            assert (row.balance_before, row.balance_after) == (balance, balance + row.amount)
            balance = row.balance_after
        assert balance == card.amount_balance


@given(JOURNEYS)
def test_to_decide_changes_nothing_and_says_the_same_again(journey: list[Asked]) -> None:
    books = Books()
    for command, now in commands(journey):
        before = copy.deepcopy(books)
        assert decide(books, command, now) == decide(books, command, now)
        assert books == before
        step(books, command, now)


@given(JOURNEYS)
def test_refusals_and_dry_runs_change_nothing(journey: list[Asked]) -> None:
    books = Books()
    for command, now in commands(journey):
        before = copy.deepcopy(books)
        event, _ = step(books, command, now)
        unchanged = isinstance(event, CommandRejected) or command.dry_run
        assert (books == before) is unchanged


@given(JOURNEYS)
def test_a_command_touches_only_the_rows_it_said_it_needs(journey: list[Asked]) -> None:
    books = Books()
    for command, now in commands(journey):
        needed = needs(command)
        known = Books(
            {key: books.cards[key] for key in needed.cards if key in books.cards},
            {key: books.batches[key] for key in needed.batches if key in books.batches},
        )
        # With nothing but those rows it comes to the same.
        assert step(known, command, now) == step(books, command, now)
        assert {key: books.cards[key] for key in known.cards} == known.cards
        assert set(known.cards) <= set(needed.cards)


@given(JOURNEYS)
def test_every_command_has_one_answer_with_an_id_of_its_own(journey: list[Asked]) -> None:
    books = Books()
    told = [step(books, command, now)[1] for command, now in commands(journey)]
    assert len({one.id for one in told}) == len(told) == len(journey)
