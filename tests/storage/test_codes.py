"""Tokens and PINs in the database: stored as hashes, unique, with locks after wrong attempts."""

import base64
import csv
import hashlib
import io
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

from sqlalchemy import Engine, select
from tenacity import retry, retry_if_exception

from card_worker.contracts.commands import Command
from card_worker.contracts.enums import EventType
from card_worker.contracts.fields import read_time
from card_worker.contracts.message import UnreadableItem, read_commands, read_query
from card_worker.contracts.queries import GetCard
from card_worker.contracts.transactions import CreateTransaction
from card_worker.domain.access import LOCK_FIRST
from card_worker.domain.answers import Answer
from card_worker.domain.books import CHECKED_WITHIN
from card_worker.domain.codes import TOKENS_PER_CARD_MAX
from card_worker.domain.rows import Outcome
from card_worker.handler import handle
from card_worker.query_handler import answer_card_query, answer_query
from card_worker.secret_issuer import SecretIssuer
from card_worker.secrets.formats import FOUR_DIGITS
from card_worker.secrets.peppers import Pepper, Peppers
from card_worker.secrets.sealing import open_sealed
from card_worker.secrets.vault import Vault
from card_worker.storage.engine import begin, open_engine, reading
from card_worker.storage.errors import is_race, is_retryable
from card_worker.storage.pin_attempts import store_pin_attempts
from card_worker.storage.reconcile import differences
from card_worker.storage.tables import cards, file_parts, outbox, pin_attempts, pins, tokens
from tests.codes import OWNER, PIN, SEAL_TO, VAULT, WRONG_PIN, plain_issuer

ACCOUNT = "T00000001"
NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)


def is_temporary(error: BaseException) -> bool:
    return is_retryable(error) or is_race(error)


SIXTEEN = {"format": {"numbers": True, "length": 16}}
LOAD = {"amount": 500, "currency": "NOK"}
SENDERS = 64


def command(task: str, command_id: str, /, **fields: Any) -> Command:
    return keyed(VAULT, task, command_id, **fields)


def keyed(vault: Vault, task: str, command_id: str, /, **fields: Any) -> Command:
    (read,) = read_commands(task, command_id, {"account_id": ACCOUNT, **fields}, vault)
    assert not isinstance(read, UnreadableItem)
    return read


def create(card_id: str, **fields: Any) -> Command:
    asked = {"card_id": card_id, "amount": 500, "currency": "NOK", **SEAL_TO, **fields}
    return command("cards.create", f"make-{card_id}", **asked)


def pay(ref_id: str, token: str = "TOKEN-0", vault: Vault = VAULT, **fields: Any) -> Command:  # noqa: S107
    asked = {"token": token, "ref_id": ref_id, "amount": 1, "currency": "NOK", **fields}
    return keyed(vault, "transactions.create", ref_id, **asked)


def answer_types(
    engine: Engine, *commands: Command, issuer: SecretIssuer | None = None
) -> list[str]:
    """Handle commands as a worker does; return the types of the answers, or the reasons."""
    said = [
        json.loads(answer.event) for answer in store_and_handle(engine, *commands, issuer=issuer)
    ]
    return [one["data"].get("reason", one["type"]) for one in said]


def store_and_handle(
    engine: Engine, *commands: Command, issuer: SecretIssuer | None = None
) -> list[Answer]:
    store_attempts(engine, *commands)
    return handle_commands(engine, *commands, issuer=issuer)


@retry(retry=retry_if_exception(is_temporary))
def store_attempts(engine: Engine, *commands: Command) -> None:
    attempts = [one for one in commands if isinstance(one, CreateTransaction) and one.pin]
    if attempts:
        with begin(engine) as (connection, _):
            store_pin_attempts(connection, attempts, NOW)


@retry(retry=retry_if_exception(is_temporary))
def handle_commands(
    engine: Engine, *commands: Command, issuer: SecretIssuer | None = None, now: datetime = NOW
) -> list[Answer]:
    with begin(engine) as (connection, _):
        return handle(connection, commands, now, issuer or plain_issuer())


def rows(engine: Engine, table: Any) -> list[Any]:
    with reading(engine) as connection:
        return list(connection.execute(select(table)).all())


def locks(engine: Engine) -> list[datetime]:
    """Return the ends of the locks that were told, in their order."""
    told = select(outbox.c.event).where(outbox.c.type == EventType.CARD_PIN_LOCKED)
    with reading(engine) as connection:
        events = connection.execute(told.order_by(outbox.c.position)).scalars()
        pins = [json.loads(event)["data"]["card"]["pin"] for event in events]
    return [read_time(pin["locked_until"]) for pin in pins]


def last_event(engine: Engine) -> Any:
    return json.loads(rows(engine, outbox.c.event)[-1].event)


def shows(engine: Engine, card_id: str = "A1") -> Any:
    """Return a card as its last event shows it."""
    return [
        json.loads(row.event)["data"]["card"]
        for row in rows(engine, outbox.c.event)
        if json.loads(row.event)["data"].get("card", {}).get("card_id") == card_id
    ][-1]


# --- what is kept -----------------------------------------------------------------------------


def test_a_card_shows_masked_codes_and_its_owner_receives_them_sealed(engine: Engine) -> None:
    (told,) = store_and_handle(
        engine, create("A1", card_token={}, pin={}), issuer=SecretIssuer(VAULT)
    )
    data = json.loads(told.event)["data"]
    secrets = json.loads(open_sealed([OWNER.identity], data["sealed"].encode()))
    assert (secrets["card_id"], len(secrets["pin"])) == ("A1", 4)
    (token,) = data["card"]["tokens"]
    assert (
        token["masked_code"] == f"DINCARD:********-****-****-****-********{secrets['token'][-4:]}"
    )
    assert (token["ref_id"], token["expires_after_transaction"]) == (None, False)
    digits = FOUR_DIGITS.model_dump(mode="json")
    assert data["card"]["pin"] == {"format": digits, "locked_until": None}
    assert answer_types(engine, pay("r1", secrets["token"], pin=secrets["pin"])) == [
        "card.drawn_down"
    ]
    assert shows(engine)["tokens"] == [token]


def test_hashes_depend_on_the_pepper_and_that_of_a_pin_on_its_card(engine: Engine) -> None:
    answer_types(engine, create("A1", card_token={}, pin={}), create("A2", pin={}))
    (token,) = rows(engine, tokens)
    one, two = rows(engine, pins)
    assert (token.kid, one.kid) == ("t1", "p1")
    assert one.digest != two.digest
    assert hashlib.sha256(b"TOKEN-0").hexdigest() != token.digest


def test_codes_of_a_batch_are_only_in_its_file(engine: Engine) -> None:
    asked = [{"card_id": f"A{n}", "type": "credit_note"} for n in range(3)]
    options: dict[str, Any] = {"card_token": {}, "pin": {}}
    order = command("cards.batch_create", "B/1", cards=asked, options=options, **SEAL_TO)
    (told,) = store_and_handle(engine, order, issuer=SecretIssuer(VAULT))
    data = json.loads(told.event)["data"]
    (kept,) = rows(engine, file_parts)
    sealed = base64.b64decode(kept.content)
    assert data["file"] == {
        "name": f"{ACCOUNT}/B%2F1.csv.age",
        "sha256": hashlib.sha256(sealed).hexdigest(),
        "cards": 3,
        "bytes": len(sealed),
        "recipients": [OWNER.recipient],
    }
    listed = list(csv.DictReader(io.StringIO(open_sealed([OWNER.identity], sealed).decode())))
    assert [row["card_id"] for row in listed] == ["A0", "A1", "A2"]
    assert {row["type"] for row in listed} == {"credit_note"}
    for card_id in ("A0", "A1", "A2"):
        answer_types(engine, command("cards.activate", f"on-{card_id}", card_id=card_id, **LOAD))
    paid = [pay(row["card_id"], row["token"], pin=row["pin"]) for row in listed]
    assert answer_types(engine, *paid) == ["card.drawn_down"] * 3
    assert (
        store_and_handle(engine, order)[0].event == told.event
    )  # once more: not one of them is made anew
    assert len(rows(engine, tokens)) == len(rows(engine, pins)) == 3


def test_a_reversed_activation_restores_a_token_that_has_expired(engine: Engine) -> None:
    listed = {"cards": [{"card_id": "A1"}], "options": {"card_token": {}}, **SEAL_TO}
    answer_types(engine, command("cards.batch_create", "B1", **listed))
    (issued,) = rows(engine, tokens)
    behaviour = {"expires_in": 60, "expires_after_transaction": True}
    answer_types(
        engine, command("cards.activate", "on", card_id="A1", card_token=behaviour, **LOAD)
    )
    assert rows(engine, tokens) != [issued]
    with begin(engine) as (connection, _):
        reverse = command("cards.reverse_activation", "off", card_id="A1")
        later = NOW + timedelta(minutes=2)
        (reversed_,) = handle(connection, [reverse], later, plain_issuer())
    assert reversed_.reason is None
    assert rows(engine, tokens) == [issued]
    assert [token["id"] for token in shows(engine)["tokens"]] == [str(issued.id)]
    answer_types(engine, command("cards.activate", "again", card_id="A1", **LOAD))
    assert answer_types(engine, pay("r1"), pay("r2")) == ["card.drawn_down"] * 2
    with reading(engine) as connection:
        assert list(differences(connection)) == []


def test_tokens_that_a_reversal_makes_usable_again_count_towards_the_limit(engine: Engine) -> None:
    issuer = plain_issuer()

    def run(*commands: Command, after_s: int) -> list[str | None]:
        with begin(engine) as (connection, _):
            now = NOW + timedelta(seconds=after_s)
            return [answer.reason for answer in handle(connection, commands, now, issuer)]

    def token(number: int) -> Command:
        fields = {"card_id": "A1", "ref_id": f"t{number}", "expires_in": 86400, **SEAL_TO}
        return command("tokens.create", f"t{number}", **fields)

    listed = {"cards": [{"card_id": "A1"}], "options": {"card_token": {}}, **SEAL_TO}
    run(command("cards.batch_create", "B1", **listed), after_s=0)
    assert run(*map(token, range(1, TOKENS_PER_CARD_MAX)), after_s=0) == [None] * 99
    lapsing = {"card_id": "A1", "card_token": {"expires_in": 60}, **LOAD}
    run(command("cards.activate", "on", **lapsing), after_s=0)
    assert run(token(100), after_s=120) == ["limit_exceeded"]
    assert run(command("cards.reverse_activation", "off", card_id="A1"), after_s=120) == [None]
    assert len(shows(engine)["tokens"]) == TOKENS_PER_CARD_MAX


# --- never twice ------------------------------------------------------------------------------


def test_a_token_that_exists_is_drawn_again(engine: Engine) -> None:
    same, other = "1" * 16, "2" * 16
    issuer = plain_issuer(VAULT, same, same, other)
    wanted = [create(name, card_token=SIXTEEN) for name in ("A1", "A2")]
    assert answer_types(engine, *wanted, issuer=issuer) == ["card.created"] * 2
    paid = [pay("r1", same), pay("r2", other)]
    assert answer_types(engine, *paid) == ["card.drawn_down"] * 2
    issuer = plain_issuer(VAULT, other, same, "3" * 16)
    assert answer_types(engine, create("A3", card_token=SIXTEEN), issuer=issuer) == ["card.created"]
    order = command(
        "cards.batch_create",
        "B1",
        cards=[{"card_id": "A4"}, {"card_id": "A5"}],
        options={"card_token": SIXTEEN},
        **SEAL_TO,
    )
    issuer = plain_issuer(VAULT, "4" * 16, "4" * 16, same, "5" * 16)
    assert answer_types(engine, order, issuer=issuer) == ["batch.completed"]
    assert len({row.digest for row in rows(engine, tokens)}) == 5


def test_a_format_with_too_few_free_values_is_refused(engine: Engine) -> None:
    same = ["1" * 16] * 60
    asked = [create("A1", card_token=SIXTEEN), create("A2", card_token=SIXTEEN)]
    issuer = plain_issuer(VAULT, *same)
    assert answer_types(engine, *asked, issuer=issuer) == ["card.created", "format_invalid"]
    more = command(
        "tokens.create", "t", card_id="A1", ref_id="t", expires_in=9, **SIXTEEN, **SEAL_TO
    )
    (told,) = store_and_handle(engine, more, issuer=plain_issuer(VAULT, *same))
    problems = json.loads(told.event)["data"]["problems"]
    assert problems == [{"field": "format", "message": "hardly any value is left"}]
    options = {"card_token": SIXTEEN}
    order = command(
        "cards.batch_create", "b", cards=[{"card_id": "A9"}], options=options, **SEAL_TO
    )
    (told,) = store_and_handle(engine, order, issuer=plain_issuer(VAULT, *same))
    (problem,) = json.loads(told.event)["data"]["problems"]
    assert problem["field"] == "options.card_token.format"
    assert len(rows(engine, tokens)) == 1


def test_one_of_two_commits_with_the_same_token_draws_again(postgres_url: str) -> None:
    start, tries = Barrier(2), Counter[str]()

    @retry(retry=retry_if_exception(is_temporary))
    def make(card_id: str, issuer: SecretIssuer) -> None:
        tries[card_id] += 1
        with begin(engine) as (connection, _):
            if tries[card_id] == 1:
                start.wait()
            handle(connection, [create(card_id, card_token={})], NOW, issuer)

    engine = open_engine(postgres_url)  # SQLite has one commit at a time
    with ThreadPoolExecutor(2) as pool:
        issuers = plain_issuer(VAULT, "SAME", "ONE"), plain_issuer(VAULT, "SAME", "TWO")
        list(pool.map(make, ("A1", "A2"), issuers))
    assert tries.total() == 3
    assert len({row.digest for row in rows(engine, tokens)}) == 2
    engine.dispose()


# --- peppers change ---------------------------------------------------------------------------


def test_codes_are_hashed_again_with_a_new_pepper_when_used(engine: Engine) -> None:
    new_token, new_pin = Pepper("t2", b"t" * 32), Pepper("p2", b"p" * 32)
    old_token, old_pin = Pepper("t1", bytes(32)), Pepper("p1", bytes(range(32)))
    both = Vault(Peppers([new_token, old_token]), Peppers([new_pin, old_pin]))
    new = Vault(Peppers([new_token]), Peppers([new_pin]))
    answer_types(engine, *(create(name, card_token={}, pin={}) for name in ("A1", "A2")))
    first = pay("r1", vault=both, pin=PIN)
    assert answer_types(engine, first) == ["card.drawn_down"]
    assert {(row.kid) for row in rows(engine, tokens)} == {"t1", "t2"}
    assert {(row.kid) for row in rows(engine, pins)} == {"p1", "p2"}
    used, unused = pay("r2", vault=new, pin=PIN), pay("r2", "TOKEN-1", vault=new, pin=PIN)
    assert answer_types(engine, used, unused) == ["card.drawn_down", "card_not_usable"]
    # A key lives as long as the oldest pepper does; after that, the reference still counts once.
    assert answer_types(engine, first) == ["card.drawn_down"]
    assert answer_types(engine, pay("r1", vault=new, pin=PIN)) == ["idempotency_conflict"]
    assert shows(engine)["amount_balance"] == 498


# --- PIN attempts -----------------------------------------------------------------------------


def test_only_five_of_many_concurrent_wrong_pins_are_compared(engine: Engine) -> None:
    answer_types(engine, create("A1", card_token={}, pin={}))
    attempts_at_once = [pay(f"r{n}", pin=WRONG_PIN) for n in range(SENDERS)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: store_attempts(engine, one), attempts_at_once))
    # All of them are known now, and none of them has been looked at.
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda one: handle_commands(engine, one), attempts_at_once))
    assert {answers[0].reason for answers in told} == {"card_not_usable"}
    outcomes = Counter(row.outcome for row in rows(engine, pin_attempts))
    assert outcomes == {Outcome.WRONG: 5, Outcome.CLEARED: SENDERS - 5}
    assert answer_types(engine, pay("right", pin=PIN)) == ["card_not_usable"]
    assert len(locks(engine)) == 1
    # After the lock one of them is, however many were stored meanwhile.
    after = [pay(f"a{n}", pin=WRONG_PIN) for n in range(SENDERS)]
    store_attempts(engine, *after)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: handle_commands(engine, one, now=NOW + LOCK_FIRST), after))
    outcomes = Counter(row.outcome for row in rows(engine, pin_attempts))
    assert outcomes == {Outcome.WRONG: 6, Outcome.CLEARED: 2 * SENDERS - 5}
    first, second = locks(engine)
    assert (first, second) == (NOW + LOCK_FIRST, NOW + 3 * LOCK_FIRST)
    assert shows(engine)["status"] == "unused"


def test_after_a_lock_an_undecided_attempt_stands_in_the_way_for_an_hour(engine: Engine) -> None:
    answer_types(engine, create("A1", card_token={}, pin={}))
    answer_types(engine, *(pay(f"r{n}", pin=WRONG_PIN) for n in range(5)))
    crashed, right, late = (
        pay("crashed", pin=WRONG_PIN),
        pay("right", pin=PIN),
        pay("late", pin=PIN),
    )
    store_attempts(engine, crashed)  # a commit that failed may have compared it
    store_attempts(engine, right)
    (told,) = handle_commands(engine, right, now=NOW + LOCK_FIRST)
    assert told.reason == "card_not_usable"
    store_attempts(engine, late)
    (told,) = handle_commands(engine, late, now=NOW + CHECKED_WITHIN + timedelta(seconds=1))
    assert told.reason is None


def test_a_lock_ends_by_the_clock_of_the_database_alone(engine: Engine) -> None:
    """A card's time may be ahead of that, after a failover to a clock that was."""
    answer_types(engine, create("A1", card_token={}, pin={}), create("A2"), create("A3"))
    answer_types(engine, *(pay(f"r{n}", pin=WRONG_PIN) for n in range(5)))
    ahead = {"card_id": "A2", "to_card_id": "A1", "amount": 1, "ref_id": "t"}
    block = command("cards.block", "b", card_id="A3", reason="lost")
    handle_commands(engine, block, now=NOW + timedelta(days=1))
    handle_commands(engine, command("cards.unblock", "u", card_id="A3", reason="found"))
    handle_commands(engine, command("cards.transfer", "t", **{**ahead, "card_id": "A3"}))
    assert shows(engine)["amount_balance"] == 501
    assert read_time(last_event(engine)["time"]) == NOW + timedelta(days=1)
    refused = answer_types(engine, pay("none"), pay("right", pin=PIN))
    assert refused == ["card_not_usable"] * 2
    # The next lock begins at the time of the database, too.
    wrong = pay("wrong", pin=WRONG_PIN)
    store_attempts(engine, wrong)
    handle_commands(engine, wrong, now=NOW + LOCK_FIRST)
    assert locks(engine)[1] == NOW + 3 * LOCK_FIRST


def test_a_right_pin_among_concurrent_wrong_ones_does_not_raise_the_limit(engine: Engine) -> None:
    answer_types(engine, create("A1", card_token={}, pin={}))
    mixed = [pay(f"r{n}", pin=PIN if n % 16 == 3 else WRONG_PIN) for n in range(SENDERS)]
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda one: store_and_handle(engine, one)[0], mixed))
    opened = [answer for answer in told if answer.reason is None]
    wrong = sum(row.outcome == Outcome.WRONG for row in rows(engine, pin_attempts))
    assert wrong <= 5
    assert len(opened) <= SENDERS // 16
    compared = [row for row in rows(engine, pin_attempts) if row.outcome != Outcome.CLEARED]
    assert len(compared) == wrong  # none is left open


def test_a_redelivered_pin_attempt_counts_once(engine: Engine) -> None:
    answer_types(engine, create("A1", card_token={}, pin={}))
    attempt = pay("r1", pin=WRONG_PIN)
    for _ in range(3):
        store_attempts(engine, attempt)  # and then its worker died
    assert [row.outcome for row in rows(engine, pin_attempts)] == ["open"]
    for _ in range(9):
        assert answer_types(engine, attempt) == ["card_not_usable"]
    assert [row.outcome for row in rows(engine, pin_attempts)] == ["wrong"]
    # Under the same reference another PIN is not even looked at.
    assert answer_types(engine, pay("r1", pin=PIN)) == ["card_not_usable"]
    assert answer_types(engine, pay("r2", pin=PIN)) == ["card.drawn_down"]


def test_a_pin_attempt_twice_in_a_group_has_one_number(engine: Engine) -> None:
    answer_types(engine, create("A1", card_token={}, pin={}))
    first, second = pay("r1", pin=WRONG_PIN), pay("r2", pin=WRONG_PIN)
    answer_types(engine, first, first, second, first)
    assert sorted(row.number for row in rows(engine, pin_attempts)) == [1, 2]
    assert answer_types(engine, first, second) == ["card_not_usable"] * 2


def test_a_pin_attempt_stored_after_its_answer_does_not_count(engine: Engine) -> None:
    answer_types(engine, create("A1", card_token={}, pin={}))
    attempt = pay("r1", pin=PIN)
    assert isinstance(attempt, CreateTransaction)
    with begin(engine) as (connection, _):
        store_pin_attempts(connection, [attempt], NOW)
    handle_commands(engine, attempt)
    with begin(engine) as (connection, _):  # what a second worker did that looked too early
        connection.execute(pin_attempts.update().values(outcome=Outcome.OPEN))
    handle_commands(engine, attempt)
    assert [row.outcome for row in rows(engine, pin_attempts)] == ["cleared"]


def test_an_unblock_clears_wrong_attempts_but_not_unchecked_ones(
    engine: Engine,
) -> None:
    answer_types(engine, create("A1", card_token={}, pin={}))
    answer_types(engine, *(pay(f"r{n}", pin=WRONG_PIN) for n in range(5)))
    waiting = pay("waiting", pin=WRONG_PIN)
    store_attempts(engine, waiting)
    handle_commands(engine, command("cards.unblock", "u", card_id="A1", reason="found"))
    outcomes = Counter(row.outcome for row in rows(engine, pin_attempts))
    assert outcomes == {Outcome.CLEARED: 5, Outcome.OPEN: 1}
    # Of one that never came to an end, nothing is left to count after an hour.
    with begin(engine) as (connection, _):
        connection.execute(pin_attempts.update().values(created_at=NOW - timedelta(hours=2)))
    assert answer_types(engine, pay("right", pin=PIN)) == ["card.drawn_down"]
    assert {row.outcome for row in rows(engine, pin_attempts)} == {Outcome.CLEARED}
    handle_commands(engine, waiting)
    assert {row.outcome for row in rows(engine, pin_attempts)} == {Outcome.CLEARED}


def test_a_dry_run_of_an_unblock_clears_no_attempt(engine: Engine) -> None:
    answer_types(engine, create("A1", card_token={}, pin={}))
    answer_types(engine, *(pay(f"r{n}", pin=WRONG_PIN) for n in range(5)))
    unblock = {"card_id": "A1", "reason": "found"}
    dry, again = (command("cards.unblock", key, **unblock, dry_run=True) for key in ("d1", "d2"))
    assert answer_types(engine, dry) == ["card.unblocked"]
    assert {row.outcome for row in rows(engine, pin_attempts)} == {Outcome.WRONG}
    # Nor for a real one that follows it in a group.
    assert (
        answer_types(engine, again, command("cards.unblock", "u", **unblock))
        == ["card.unblocked"] * 2
    )
    assert answer_types(engine, pay("right", pin=PIN)) == ["card.drawn_down"]


def test_a_pin_attempt_on_an_unknown_card_is_stored(engine: Engine) -> None:
    assert answer_types(engine, pay("r1", "NOBODY-S", pin=WRONG_PIN)) == ["card_not_usable"]
    (noted,) = rows(engine, pin_attempts)
    assert (noted.card, noted.outcome) == (None, "cleared")


def test_all_unusable_cards_have_the_same_reason(engine: Engine) -> None:
    answer_types(engine, *(create(f"A{n}", card_token={}, pin={}) for n in range(4)))
    answer_types(engine, command("cards.block", "b", card_id="A1", reason="lost"))
    answer_types(engine, command("cards.close", "c", card_id="A2", reason="done"))
    tried = [("TOKEN-0", WRONG_PIN), ("TOKEN-1", PIN), ("TOKEN-2", PIN), ("NOBODY-S", PIN)]
    told = store_and_handle(engine, *(pay("same", token, pin=pin) for token, pin in tried))
    said = [json.loads(answer.event) for answer in told]
    for one in said:
        one.pop("id")
    assert said == [said[0]] * 4
    assert "A0" not in json.dumps(said)


def test_a_query_by_token_counts_pin_attempts_like_a_payment(engine: Engine) -> None:
    answer_types(engine, create("A1", card_token={}, pin={}))

    def run_query(number: int, **fields: Any) -> Any:
        asked = {"account_id": ACCOUNT, "token": "TOKEN-0", **fields}
        asked = {name: value for name, value in asked.items() if value is not None}
        query = read_query("cards.get", f"q{number}", asked, VAULT)
        assert isinstance(query, GetCard)
        if query.pin is not None:
            with begin(engine) as (connection, _):
                store_pin_attempts(connection, [query], NOW)
        with begin(engine) as (connection, _):
            if query.token is None and query.pin is None:
                return answer_query(connection, query)
            return answer_card_query(connection, query, NOW)

    assert run_query(0)["reason"] == "pin_required"
    assert run_query(1, pin=PIN)["card"]["card_id"] == "A1"
    assert run_query(2, token="NOBODY-S")["reason"] == "card_not_usable"
    for number in range(3, 8):
        # That it is sent again makes neither one more of it, nor one less.
        for _ in range(2):
            assert run_query(number, pin=WRONG_PIN)["reason"] == "card_not_usable"
    assert locks(engine) == [NOW + LOCK_FIRST]
    assert run_query(8, pin=PIN)["reason"] == "card_not_usable"
    assert run_query(9)["reason"] == "card_not_usable"
    shown = run_query(10, card_id="A1", token=None)["card"]
    assert read_time(shown["pin"]["locked_until"]) == NOW + LOCK_FIRST
    # A query about nothing leaves nothing.
    before = rows(engine, pin_attempts)
    assert run_query(11, token="NOBODY-S", pin=PIN)["reason"] == "card_not_usable"
    assert rows(engine, pin_attempts) == before
    with reading(engine) as connection:
        assert list(differences(connection)) == []


def test_a_query_about_nothing_may_come_twice_at_once(postgres_url: str) -> None:
    engine, asked = open_engine(postgres_url), {"account_id": ACCOUNT, "token": "NO", "pin": PIN}
    query = read_query("cards.get", "q", asked, VAULT)
    assert isinstance(query, GetCard)

    def run(start: Barrier) -> str:
        with begin(engine) as (connection, now):
            start.wait()
            return str(answer_card_query(connection, query, now)["reason"])

    with ThreadPoolExecutor(2) as pool:
        for _ in range(20):
            with begin(engine) as (connection, now):
                store_pin_attempts(connection, [query], now)
            assert set(pool.map(run, [Barrier(2)] * 2)) == {"card_not_usable"}
    assert rows(engine, pin_attempts) == []
    engine.dispose()


def test_has_codes_is_false_for_cards_without_codes(engine: Engine) -> None:
    answer_types(engine, create("A1"), create("A2", pin={}), create("A3", card_token={}))
    more = command("tokens.create", "t", card_id="A1", ref_id="t", expires_in=9, **SEAL_TO)
    answer_types(engine, more, issuer=SecretIssuer(VAULT))
    assert {row.card_id: row.has_codes for row in rows(engine, cards)} == {
        "A1": True,
        "A2": True,
        "A3": True,
    }
    answer_types(engine, create("A4"))
    assert [row.card_id for row in rows(engine, cards) if not row.has_codes] == ["A4"]
