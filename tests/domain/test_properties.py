"""What holds of the books whatever is asked of them, in whatever order."""

import copy
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from card_worker.contracts.commands import Command, event_id
from card_worker.contracts.enums import Side
from card_worker.contracts.json_text import write_time
from card_worker.contracts.message import UnreadableItem, read_commands
from card_worker.domain.answers import Answer, answer
from card_worker.domain.books import Books
from card_worker.domain.decide import apply, decide, needs
from card_worker.domain.events import CommandRejected
from card_worker.domain.needs import Needs
from card_worker.domain.rows import Card
from card_worker.money import AMOUNT_MAX, Currency
from tests.domain.story import START, note_due_holds

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
CARD, WHY = {"card_id": CARD_IDS}, {"reason": st.just("because")}
REFS = ["r1", "r2", "r3", "r4"]
REF = {"ref_id": st.sampled_from(REFS)}
PARTS = st.none() | st.integers(1, 200)
NOK = {"currency": st.just("NOK")}
MADE = [
    str(event_id(account, f"ref/2/{card}/{ref}"))
    for account in ("T00000001", "P00000001")
    for card in ("A1", "A2", "A3")
    for ref in REFS
]
BY_TRANSACTION = {"transaction_id": st.sampled_from(MADE), **REF}
FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "cards.create": LOADED,
    "cards.activate": LOADED,
    "cards.expire": CARD,
    "cards.reverse_activation": CARD,
    "cards.update": {**CARD, "name": st.just("x"), "expires_at": TIMES},
    "cards.block": {**CARD, **WHY},
    "cards.unblock": {**CARD, **WHY},
    "cards.close": {**CARD, **WHY},
    "cards.replace": {**CARD, **WHY, "new_card_id": CARD_IDS},
    "cards.transfer": {**CARD, **REF, "to_card_id": CARD_IDS, "amount": PARTS},
    "cards.adjust": {**CARD, **REF, **WHY, **NOK, "amount": st.integers(-50, 50)},
    "transactions.create": {
        **CARD,
        **REF,
        **NOK,
        "amount": st.integers(1, 200),
        "type": st.sampled_from([None, "fund"]),
        "pending": st.booleans(),
        "hold_expires_in": st.none() | st.integers(1, 30),
    },
    "transactions.capture": {**BY_TRANSACTION, "amount": PARTS},
    "transactions.void": BY_TRANSACTION,
    "transactions.refund": {**BY_TRANSACTION, "amount": PARTS},
    "holds.expire": {"transaction_id": st.sampled_from(MADE)},
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
JOURNEYS = st.lists(ASKED, max_size=25)
Asked = tuple[str, dict[str, Any], int]


def request(task: str, **fields: Any) -> Asked:
    always = {"account_id": "T00000001", "not_after": None, "dry_run": False}
    return task, {**always, **fields}, 0


CREATED_EMPTY = request("cards.create", card_id="A1", amount=0, currency="NOK")
SPENT = (
    request("cards.create", card_id="A1", amount=300, currency="NOK"),
    request("transactions.create", card_id="A1", amount=200, currency="NOK", ref_id="r1"),
)
REPLACED = request("cards.replace", card_id="A1", new_card_id="A2", reason="worn")
REPLACED_AGAIN = request("cards.replace", card_id="A2", new_card_id="A3", reason="worn")
REFUNDED = request("transactions.refund", transaction_id=MADE[0], ref_id="r2")


def commands(journey: Sequence[Asked]) -> Iterator[tuple[Command, datetime]]:
    now, asked = START, set[tuple[str, str]]()
    for number, (task, fields, pause_s) in enumerate(journey):
        now += timedelta(seconds=pause_s)
        given_fields = {name: value for name, value in fields.items() if value is not None}
        (command,) = read_commands(task, f"c{number}", given_fields)
        assert not isinstance(command, UnreadableItem)
        # What has been asked before is answered before it comes to the rules.
        if (key := (command.account_id, command.key)) not in asked:
            asked.add(key)
            yield command, now


def step(books: Books, command: Command, now: datetime) -> list[Answer]:
    """Do what a command leads to, as the handler does; return what is told of it."""
    note_due_holds(books, now)
    decided = decide(books, command, now)
    books = books.aside() if command.dry_run else books
    told = [answer(books, event, apply(event, books)) for event in decided.events]
    return [told[len(decided.before)]] if command.dry_run else told


def amounts(card: Card) -> list[int]:
    names = ("funds", "drawdown", "balance", "pending", "reserved", "available")
    return [getattr(card, f"amount_{name}") for name in names]


@given(JOURNEYS)
def test_money_is_where_it_went(journey: list[Asked]) -> None:
    books = Books()
    for command, now in commands(journey):
        step(books, command, now)
        at = Counter[tuple[Any, Side]]()
        for row in books.transactions:
            at[row.currency, row.credit] += row.amount
            at[row.currency, row.debit] -= row.amount
        held: Counter[Any] = Counter()
        locked: Counter[Any] = Counter()
        for card in books.cards.values():
            held[card.currency] += card.amount_balance
            locked[card.currency] += card.amount_reserved
        for currency in Currency:
            assert at[currency, Side.CARD] == held[currency]
            assert at[currency, Side.OTHER_CARD] == 0
        # What is captured was locked until then.
        for hold in books.holds.values():
            locked[books.cards[books.card_keys[hold.card]].currency] -= hold.amount_open
        assert not any(locked.values())


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
        for told in step(books, command, now):
            event = json.loads(told.event)
            account_id = command.account_id
            if event["type"] == "batch.completed" and not command.dry_run:
                seen.update((account_id, card["card_id"]) for card in event["data"]["cards"])
            if "sequence" in event:
                key = account_id, event["subject"]
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
            assert row.account_id == card.account_id
            assert card.currency in (row.currency, None) or card.version > row.version
            moved = {row.credit: row.amount, row.debit: -row.amount}.get(Side.CARD, 0)
            assert (row.balance_before, row.balance_after) == (balance, balance + moved)
            balance = row.balance_after
        assert balance == card.amount_balance


@given(JOURNEYS)
def test_to_decide_changes_nothing_and_says_the_same_again(journey: list[Asked]) -> None:
    books = Books()
    for command, now in commands(journey):
        note_due_holds(books, now)
        before = copy.deepcopy(books)
        assert decide(books, command, now) == decide(books, command, now)
        assert books == before
        step(books, command, now)


@given(JOURNEYS)
def test_refusals_and_dry_runs_change_nothing(journey: list[Asked]) -> None:
    books = Books()
    for command, now in commands(journey):
        note_due_holds(books, now)
        before = copy.deepcopy(books)
        event = decide(books, command, now).answer
        step(books, command, now)
        unchanged = isinstance(event, CommandRejected) or command.dry_run
        assert (books == before) is unchanged


@given(JOURNEYS)
@example([*SPENT, REPLACED, REFUNDED])
@example([*SPENT, REPLACED, REPLACED_AGAIN, REFUNDED])
@example([CREATED_EMPTY, REPLACED, request("cards.reverse_activation", card_id="A2")])
def test_a_command_touches_only_the_rows_it_said_it_needs(journey: list[Asked]) -> None:
    books = Books()
    for command, now in commands(journey):
        known = _only(books, needs(command))
        # With nothing but those rows it comes to the same.
        assert step(known, command, now) == step(books, command, now)
        assert {key: books.cards[key] for key in known.cards} == known.cards
        assert {id: books.holds[id] for id in known.holds} == known.holds


def _only(books: Books, needed: Needs) -> Books:
    """Return the rows that a database would be asked for, and no others."""
    ids = [id for _, id in needed.transactions if id in books.named]
    cards = books.cards_for(needed)
    own = {card.id for card in cards}
    held = own if needed.holds else set()
    only = Books(
        named={id: books.named[id] for id in ids},
        refunded={id: books.refunded[id] for id in ids if id in books.refunded},
        replaced={new: books.replaced[new] for new in own & {*books.replaced}}
        if needed.is_successor
        else {},
        refs={
            ref: id
            for ref, id in books.refs.items()
            if cards and ref == (cards[0].id, needed.ref_id)
        },
    )
    for id in ids:
        cards += _with_successors(books, books.card_by_id(books.named[id].card), needed)
    for card in cards:
        only.load_card(card)
    for batch in (books.batches[key] for key in needed.batches if key in books.batches):
        only.batches.load(batch)
    for hold in books.holds.values():
        if hold.id in ids or hold.card in held:
            only.holds.load(hold)
    return only


def _with_successors(books: Books, card: Card, needed: Needs) -> Iterator[Card]:
    yield card
    while needed.successor and card.replaced_by is not None:
        card = books.card_by_id(card.replaced_by)
        yield card


@given(JOURNEYS)
def test_every_command_has_one_answer_with_an_id_of_its_own(journey: list[Asked]) -> None:
    books = Books()
    asked = list(commands(journey))
    told = [one for command, now in asked for one in step(books, command, now)]
    assert len({one.id for one in told}) == len(told) >= len(asked)
    own = {event_id(command.account_id, command.key) for command, _ in asked}
    assert own <= {one.id for one in told}
