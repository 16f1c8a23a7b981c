"""The limit of a producer for wrong PINs and unknown short tokens, on both databases."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from threading import Barrier
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, Table, select
from structlog.testing import capture_logs

from card_worker.attempts import within_limits
from card_worker.contracts.commands import Command
from card_worker.contracts.message import read_query
from card_worker.contracts.queries import CardQuery
from card_worker.domain.attempts import WINDOW_S
from card_worker.domain.producers import WRONG_MAX, ProducerKey, Sender
from card_worker.handler import handle
from card_worker.query_handler import answer_card_query
from card_worker.secrets.signing import Algorithm
from card_worker.storage.engine import begin, reading
from card_worker.storage.errors import retry_races
from card_worker.storage.pin_attempts import store_pin_attempts
from card_worker.storage.reconcile import differences
from card_worker.storage.tables import idempotency_keys, pin_attempts, source_attempts
from card_worker.sweeps import forget_attempts
from card_worker.worker.messages import Answered
from tests.codes import PIN, VAULT, WRONG_PIN, plain_issuer
from tests.flow.processes import until
from tests.producers import message, signed
from tests.storage.statements import tracing
from tests.storage.test_codes import ACCOUNT, answer_types, create, pay
from tests.storage.test_senders import Shop
from tests.storage.test_senders import told as reason

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
LATER = NOW + timedelta(seconds=WINDOW_S)
REFUSED, UNUSABLE = "too_many_attempts", "card_not_usable"
NUMBERS = count()


def signer(producer: str = "shop", wrong_max: int = WRONG_MAX, signed_at: datetime = NOW) -> Sender:
    """Return the sender of one message: each has a signature of its own."""
    key = ProducerKey("k1", producer, Algorithm.ED25519, NOW, NOW, wrong_max=wrong_max)
    return Sender(key, int(signed_at.timestamp()), str(uuid4()), {})


def guess(**fields: Any) -> Command:
    number = next(NUMBERS)
    return pay(f"guess-{number}", token=f"GUESS-{number}", **fields)


def tell(
    engine: Engine,
    commands: list[Command],
    sender: Sender | None,
    *,
    now: datetime = NOW,
    senders: list[Sender | None] | None = None,
) -> list[str]:
    """Handle a group as a worker does; return the types of the answers, or the reasons."""
    with begin(engine) as (connection, _):
        store_pin_attempts(connection, commands, now)

    def commit(refused: Any) -> list[str]:
        with begin(engine) as (connection, _):
            by = senders or [sender] * len(commands)
            answers = handle(connection, commands, now, plain_issuer(), by, refused=refused)
            told = [json.loads(answer.event) for answer in answers]
            return [event["data"].get("reason", event["type"]) for event in told]

    return retry_races(lambda: within_limits(commit))


def ask(engine: Engine, sender: Sender | None, **fields: Any) -> str:
    """Answer a query for a card; return the reason against it."""
    query = read_query("cards.get", str(uuid4()), {"account_id": ACCOUNT, **fields}, VAULT)
    assert isinstance(query, CardQuery)
    with begin(engine) as (connection, _):
        store_pin_attempts(connection, [query], NOW)

    def commit(_: Any) -> str:
        with begin(engine) as (connection, _now):
            result = answer_card_query(connection, query, NOW, sender)
            return str(result.get("reason", "shown"))

    return within_limits(commit)


def stored(engine: Engine, table: Table = source_attempts) -> list[Any]:
    with reading(engine) as connection:
        return list(connection.execute(select(table)).mappings())


@pytest.fixture
def card(engine: Engine) -> None:
    """A card with the token TOKEN-0 and a PIN."""
    assert answer_types(engine, create("A1", card_token={}, pin={})) == ["card.created"]


def test_of_many_guesses_in_a_group_as_many_are_compared_as_the_limit_says(engine: Engine) -> None:
    told = tell(engine, [guess() for _ in range(160)], signer())
    assert told == [UNUSABLE] * WRONG_MAX + [REFUSED] * 110
    assert tell(engine, [guess()], signer()) == [REFUSED]
    (row,) = stored(engine)
    assert (row["source"], row["attempts"], row["wrong"]) == ("producer/shop", 50, 50)
    # Of another producer, and without a signature, nothing is refused.
    assert tell(engine, [guess()], signer("other")) == [UNUSABLE]
    assert tell(engine, [guess() for _ in range(60)], None) == [UNUSABLE] * 60


def test_the_limit_holds_across_groups_and_keys_until_the_window_ends(engine: Engine) -> None:
    for _ in range(3):
        assert tell(engine, [guess(), guess()], signer(wrong_max=7)) == [UNUSABLE] * 2
    assert tell(engine, [guess(), guess()], signer(wrong_max=7)) == [UNUSABLE, REFUSED]
    last = LATER - timedelta(milliseconds=1)
    assert tell(engine, [guess()], signer(wrong_max=7), now=last) == [REFUSED]
    assert tell(engine, [guess()], signer(wrong_max=7), now=LATER) == [UNUSABLE]


@pytest.mark.usefixtures("card")
def test_beyond_the_limit_a_right_pin_is_not_compared_either(engine: Engine) -> None:
    own = signer(wrong_max=1)
    wrong, right = pay("r1", pin=WRONG_PIN), pay("r2", pin=PIN)
    activations: list[Command] = [create("A2"), create("A3")]
    told = tell(engine, [activations[0], wrong, right, activations[1]], own)
    assert told == ["card.created", UNUSABLE, REFUSED, "card.created"]
    outcomes = {row["number"]: row["outcome"].value for row in stored(engine, pin_attempts)}
    assert outcomes == {1: "wrong"}
    # Long tokens cannot be guessed: they are no attempts.
    unknown = pay("r3", token=f"DINCARD:{uuid4()}")
    assert tell(engine, [unknown], signer(wrong_max=1)) == [UNUSABLE]
    assert stored(engine)[0]["attempts"] == 1


@pytest.mark.usefixtures("card")
def test_the_same_signature_is_refused_for_ever_and_the_key_stays_free(engine: Engine) -> None:
    tell(engine, [guess()], signer(wrong_max=1))
    refused, right = signer(wrong_max=1), pay("r", pin=PIN)
    keys = len(stored(engine, idempotency_keys))
    assert tell(engine, [right], refused) == [REFUSED]
    assert tell(engine, [right], refused) == [REFUSED]
    assert tell(engine, [right], refused, now=LATER) == [REFUSED]
    rows = stored(engine, idempotency_keys)
    assert len(rows) == keys + 1
    assert right.key not in {row["key"] for row in rows}
    # Signed anew it is judged anew; a command that was handled has its answer for ever.
    assert tell(engine, [right], signer(wrong_max=1), now=LATER) == ["card.drawn_down"]
    tell(engine, [guess()], signer(wrong_max=1), now=LATER)
    assert tell(engine, [right], signer(wrong_max=1), now=LATER) == ["card.drawn_down"]


@pytest.mark.usefixtures("card")
def test_a_refusal_for_the_sender_leaves_no_pin_attempt(engine: Engine) -> None:
    right = pay("r", pin=PIN)
    early = signer(signed_at=NOW + timedelta(hours=1))
    for _ in range(2):
        assert tell(engine, [right], early) == ["signature_from_the_future"]
        assert stored(engine, pin_attempts) == []
    with begin(engine) as (connection, _):
        store_pin_attempts(connection, [right], NOW)
    # A key without rights doesn't touch the attempt of the owner's command.
    nobody = early._replace(key=early.key._replace(accounts=[]))
    by: list[Sender | None] = [nobody]
    with begin(engine) as (connection, _):
        handle(connection, [right], NOW, plain_issuer(), by)
    assert len(stored(engine, pin_attempts)) == 1
    told = tell(engine, [right, right], None, senders=[early, signer()])
    assert told == ["signature_from_the_future", "card.drawn_down"]
    # Also if what was refused had no PIN.
    told = tell(engine, [pay("r2"), pay("r2", pin=PIN)], None, senders=[early, signer()])
    assert told == ["signature_from_the_future", "card.drawn_down"]


@pytest.mark.usefixtures("card")
def test_a_refused_copy_in_between_does_not_take_the_attempt_of_a_payment(engine: Engine) -> None:
    right, early = pay("r", pin=PIN), signer(signed_at=NOW + timedelta(hours=1))
    tries = count()

    def commit() -> list[str]:
        with begin(engine) as (connection, _):
            store_pin_attempts(connection, [right], NOW)
        if next(tries) == 0:
            assert tell(engine, [right], early) == ["signature_from_the_future"]
        with begin(engine) as (connection, _):
            answers = handle(connection, [right], NOW, plain_issuer(), [signer()])
            return [answer.type for answer in answers]

    assert retry_races(commit) == ["card.drawn_down"]
    assert next(tries) == 2


@pytest.mark.usefixtures("card")
def test_another_producer_may_use_a_key_that_was_refused_in_the_same_group(engine: Engine) -> None:
    right = pay("r", pin=PIN)
    by: list[Sender | None] = [signer(wrong_max=1), signer(wrong_max=1), signer("owner")]
    told = tell(engine, [guess(), right, right], None, senders=by)
    assert told == [UNUSABLE, REFUSED, "card.drawn_down"]


@pytest.mark.usefixtures("card")
def test_copies_of_an_attempt_count_once(engine: Engine) -> None:
    own, other, same = signer(wrong_max=2), signer(wrong_max=2), guess()
    by: list[Sender | None] = [own, own, other]
    assert tell(engine, [same] * 3, None, senders=by) == [UNUSABLE] * 3
    for _ in range(3):
        assert tell(engine, [same], own) == [UNUSABLE]
    assert (stored(engine)[0]["attempts"], stored(engine)[0]["wrong"]) == (1, 1)


@pytest.mark.parametrize("groups", [1, 2])
def test_five_percent_of_many_attempts_may_be_wrong(engine: Engine, groups: int) -> None:
    assert answer_types(engine, create("A1", amount=2_000, card_token={})) == ["card.created"]
    right, wrong = [pay(f"r{n}") for n in range(1_200)], [guess() for _ in range(100)]
    parts = [[*right, *wrong]] if groups == 1 else [right, wrong]
    told = Counter(answer for part in parts for answer in tell(engine, part, signer()))
    assert told == {"card.drawn_down": 1_200, UNUSABLE: 63, REFUSED: 37}
    assert (stored(engine)[0]["attempts"], stored(engine)[0]["wrong"]) == (1_263, 63)


def test_two_workers_at_once_do_not_exceed_the_limit(engine: Engine) -> None:
    for round in range(3):
        start, sender = Barrier(4), f"shop-{round}"
        parts = [[guess() for _ in range(20)] for _ in range(4)]

        def send(part: list[Command], start: Barrier = start, name: str = sender) -> list[str]:
            start.wait()
            return tell(engine, part, signer(name))

        with ThreadPoolExecutor(4) as pool:
            told = Counter(answer for part in pool.map(send, parts) for answer in part)
        assert told == {UNUSABLE: WRONG_MAX, REFUSED: 80 - WRONG_MAX}
        assert stored(engine)[-1]["wrong"] == WRONG_MAX


@pytest.mark.usefixtures("card")
def test_queries_are_attempts_as_well(engine: Engine) -> None:
    def own() -> Sender:
        return signer(wrong_max=3)

    assert ask(engine, own(), token="UNKNOWN") == UNUSABLE
    assert ask(engine, own(), card_id="A1", pin=WRONG_PIN) == UNUSABLE
    assert ask(engine, own(), card_id="A1", pin=PIN) == "shown"
    assert tell(engine, [guess(), guess()], own()) == [UNUSABLE, REFUSED]
    for asked in ({"card_id": "A1", "pin": PIN}, {"token": "TOKEN-0"}, {"token": "UNKNOWN"}):
        assert ask(engine, own(), **asked) == REFUSED
    assert "open" not in {row["outcome"].value for row in stored(engine, pin_attempts)}
    assert ask(engine, None, token="UNKNOWN") == UNUSABLE
    counted = {row["source"]: (row["attempts"], row["wrong"]) for row in stored(engine)}
    assert counted == {"producer/shop": (4, 3), f"account/{ACCOUNT}": (1, 1)}


@pytest.mark.usefixtures("card")
def test_what_is_refused_before_a_comparison_is_not_wrong(engine: Engine) -> None:
    late = {"not_after": "2020-01-01T00:00:00Z"}
    told = tell(engine, [guess(**late), guess(dry_run=True), pay("r1")], signer())
    assert told == ["stale_command", UNUSABLE, "pin_required"]
    assert (stored(engine)[0]["attempts"], stored(engine)[0]["wrong"]) == (3, 1)


def test_a_source_is_reported_once_in_a_window(engine: Engine) -> None:
    def reports(sender: Sender | None, guesses: int, now: datetime = NOW) -> list[Any]:
        with capture_logs() as lines:
            tell(engine, [guess() for _ in range(guesses)], sender, now=now)
        named = [line for line in lines if line["event"] == "many wrong tokens and PINs"]
        return [(line["source"], line["wrong"], line["refuses"]) for line in named]

    unsigned = f"account/{ACCOUNT}"
    assert reports(None, WRONG_MAX - 1) == []
    assert reports(None, 2) == [(unsigned, WRONG_MAX + 1, False)]
    assert reports(None, 2) == []
    assert reports(None, WRONG_MAX, LATER) == [(unsigned, WRONG_MAX, False)]
    assert reports(signer(wrong_max=4), 3) == []
    assert reports(signer(wrong_max=4), 3) == [("producer/shop", 4, True)]
    assert reports(signer(wrong_max=4), 3) == []


def test_other_commands_take_no_statement_more(engine: Engine) -> None:
    with tracing(engine) as trace:
        tell(engine, [create("A1", card_token={})], signer())
        tell(engine, [pay("r1", token=f"DINCARD:{uuid4()}")], signer())
    assert not [statement for statement in trace if "source_attempts" in statement]
    with tracing(engine) as trace:
        tell(engine, [pay("r2"), guess(), guess()], signer())
    assert len([statement for statement in trace if "source_attempts" in statement]) == 2


def test_attempts_are_deleted_after_a_day(engine: Engine) -> None:
    with begin(engine) as (_, now):
        pass
    for hours in (0, 23, 25):
        tell(engine, [guess()], None, now=now - timedelta(hours=hours))
    assert len(stored(engine)) == 3
    forget_attempts(engine)
    assert len(stored(engine)) == 2


def test_a_worker_refuses_guesses_in_a_signed_list_and_in_queries(engine: Engine) -> None:
    shop = Shop(engine)
    shop.register(wrong_max=3)
    items = [
        {"command": "transactions.create", "account_id": ACCOUNT, "command_id": f"g-{number}",
         "token": f"GUESS-{number}", "ref_id": f"g-{number}", "amount": 1, "currency": "NOK"}
        for number in range(160)
    ]  # fmt: skip
    guesses = message("commands.apply", signed(shop.ed25519, "commands.apply", {"commands": items}))
    first, again = shop.deliver(guesses), shop.deliver(guesses)
    assert isinstance(first, Answered)
    assert isinstance(again, Answered)
    assert [answer.reason for answer in first.answers] == [UNUSABLE] * 3 + [REFUSED] * 157
    assert [answer.event for answer in again.answers] == [answer.event for answer in first.answers]
    event = json.loads(first.answers[-1].event)
    assert event["data"]["key_id"] == shop.ed25519.key_id
    with reading(engine) as connection:
        assert list(differences(connection)) == []

    def ask() -> str:
        sent = shop.message("cards.get", token="UNKNOWN")
        return reason(shop.deliver(replace(sent, id=sent.kwargs["command_id"])))

    until(lambda: ask() == REFUSED, "a query is refused")
    with reading(engine) as connection:
        assert connection.execute(select(pin_attempts.c.id)).all() == []
