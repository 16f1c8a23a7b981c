"""Orders are made chunk by chunk: all of their cards, once, despite failures."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event, inspect, select, text, update
from sqlalchemy.exc import DBAPIError, OperationalError

from card_worker.batches.chunks import AHEAD, Chunk, do, first_chunks, stalled_chunks
from card_worker.batches.work import PROGRESS_INTERVAL
from card_worker.contracts.commands import CHUNK as TASK
from card_worker.contracts.dead_letters import DeadLetterReason
from card_worker.contracts.enums import Action, BatchState
from card_worker.contracts.message import UnreadableItem, read_commands
from card_worker.contracts.queries import CardQuery, GetCard, ListTransactions
from card_worker.domain.ids import card_uuid
from card_worker.domain.needs import Needs
from card_worker.domain.rows import CARDS_PER_CHUNK, Batch, FileKind, State
from card_worker.file_store import FileStore
from card_worker.files import NotConfirmed, confirm, write_files
from card_worker.handler import handle
from card_worker.query_handler import answer_query
from card_worker.secret_issuer import SecretIssuer, SecretTools
from card_worker.secrets.peppers import Pepper, Peppers
from card_worker.secrets.sealing import NotOpened, new_key_pair
from card_worker.secrets.vault import Vault
from card_worker.storage.batches import find_batch
from card_worker.storage.bulk_insert import insert_similar
from card_worker.storage.dead_letters import list_letters
from card_worker.storage.engine import IDLE_MAX_S, begin, open_engine, reading
from card_worker.storage.errors import is_race, is_retryable
from card_worker.storage.loading import load
from card_worker.storage.reconcile import differences
from card_worker.storage.tables import (
    batches,
    cards,
    chunks,
    file_parts,
    files,
    jobs,
    pins,
    reserved_card_ids,
    tokens,
    transactions,
)
from card_worker.sweeps import lapse_orders
from card_worker.worker.delivery import Delivery
from card_worker.worker.messages import Answered, Failed, Message, Waiting, start_key
from tests.codes import OWNER, PIN_PEPPERS, VAULT
from tests.flow import defects
from tests.flow.processes import until
from tests.orders import ACCOUNT, CODES, Orders

CHUNK = CARDS_PER_CHUNK[Action.MAKE]
SMALL, SOME = 3, 2 * AHEAD + 5
"""Cards of a small chunk, and chunks of an order that is cut so."""
LOAD = {"amount": 500, "currency": "NOK"}
LISTED = [{"card_id": "X2", "type": "credit_note"}, {"card_id": "X1"}]


@pytest.fixture
def orders(engine: Engine) -> Orders:
    return Orders(engine)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut orders small, so that there are more chunks than are on their way at a time."""
    monkeypatch.setitem(CARDS_PER_CHUNK, Action.MAKE, SMALL)


def names(count: int, first: int = 1) -> list[str]:
    return [f"B1-{number:04d}" for number in range(first, first + count)]


def assert_complete(orders: Orders, count: int) -> None:
    """Look that an order is made: rows, file and event agree one to one."""
    batch = orders.batch()
    assert (batch.state, batch.created, batch.busy) == (BatchState.COMPLETED, count, False)
    assert orders.names() == sorted(names(count))
    assert (orders.count(tokens), orders.count(pins), orders.count(chunks)) == (count, count, 0)
    file = orders.file()
    (told,) = orders.events("batch.completed")
    assert told["data"]["file"]["sha256"] == file.sha256
    assert (told["data"]["created"], told["data"]["file"]["cards"]) == (count, count)
    rows = orders.opened(file)
    assert [row["card_id"] for row in rows] == names(count)
    for row in rows[:: max(1, count // 5)]:
        orders.ask("cards.activate", f"on-{row['card_id']}", card_id=row["card_id"], **LOAD)
        paid = {"token": row["token"], "pin": row["pin"], "ref_id": "pay", **LOAD}
        assert orders.pay(**paid)["type"] == "card.drawn_down"
    with reading(orders.engine) as connection:
        assert list(differences(connection)) == []


# --- made -------------------------------------------------------------------------------------


def test_an_order_creates_its_cards(orders: Orders) -> None:
    told = orders.order(2_500, **CODES)
    assert told["type"] == "batch.accepted"
    assert "cards" not in told["data"]
    orders.work()
    assert_complete(orders, 2_500)


@pytest.mark.usefixtures("small_chunks")
def test_chunks_are_done_once_in_any_order(orders: Orders) -> None:
    orders.order(20 * SMALL, **CODES)
    chance = random.Random(5)
    while orders.waiting:
        # Each chunk comes two or three times, in no order.
        asked = list(orders.waiting) * chance.randint(2, 3)
        chance.shuffle(asked)
        orders.waiting.clear()
        for chunk in asked:
            orders.waiting += do(orders.engine, orders.issuer, chunk)
        orders.waiting = type(orders.waiting)(dict.fromkeys(orders.waiting))
    batch = orders.batch()
    assert (batch.state, batch.created, len(orders.names())) == (
        "completed",
        20 * SMALL,
        20 * SMALL,
    )
    assert len(orders.events("batch.completed")) == 1


def test_many_workers_create_an_order_together(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    orders = Orders(engine)
    orders.order(6 * CHUNK, **CODES)
    first = list(orders.waiting)

    def work(seed: int) -> None:
        own = open_engine(postgres_url)
        waiting = random.Random(seed).sample(first, len(first))
        while waiting:
            chunk = waiting.pop()
            try:
                waiting += do(own, orders.issuer, chunk)
            except DBAPIError as error:
                if not is_retryable(error):
                    raise
                waiting.append(chunk)
        own.dispose()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    with suppress(AssertionError):
        assert orders.batch().busy
        orders.waiting.extend([first[0]._replace(number=6 + 1)])
        orders.work()
    batch = orders.batch()
    assert (batch.state, batch.created, len(orders.names())) == ("completed", 6 * CHUNK, 6 * CHUNK)
    engine.dispose()


@pytest.mark.usefixtures("small_chunks")
def test_a_worker_that_dies_before_it_requests_the_next_chunk_does_not_stop_the_order(
    orders: Orders,
) -> None:
    orders.order(SOME * SMALL)
    (first, *_) = orders.waiting
    following = first._replace(number=1 + AHEAD)
    assert do(orders.engine, orders.issuer, first) == [following]
    # Its message comes again.
    assert do(orders.engine, orders.issuer, first, again=True) == [following]


@pytest.mark.usefixtures("small_chunks")
def test_an_order_continues_after_the_database_was_unavailable_after_a_chunk(
    orders: Orders,
) -> None:
    orders.order(SOME * SMALL)
    first, *_ = orders.waiting
    asked: list[Chunk] = []
    delivery = Delivery(orders.engine, lambda: False, vault=VAULT, request=asked.extend)
    away = [OperationalError("look", None, psycopg.OperationalError("away"))]

    def fail_once(_: object, __: object, statement: str, *___: object) -> None:
        if away and "max(outbox.position)" in statement:
            raise away.pop()

    event.listen(orders.engine, "before_cursor_execute", fail_once)
    (outcome,) = delivery.deliver([message_for(first)])
    event.remove(orders.engine, "before_cursor_execute", fail_once)
    assert (away, outcome) == ([], Answered(()))
    assert asked == [first._replace(number=1 + AHEAD)]


def message_for(chunk: Chunk) -> Message:
    fields = {**chunk._asdict(), "job": str(chunk.job)}
    return Message(task=TASK, id="1", queue=None, kwargs=fields, body=b"")


@pytest.mark.usefixtures("small_chunks")
def test_a_chunk_requested_many_times_requests_the_next_once(orders: Orders) -> None:
    orders.order(SOME * SMALL)
    orders.work(3)
    orders.waiting.clear()
    for _ in range(5):  # nobody took anything for minutes, and each sweep asks once more
        age_last_activity(orders)
        orders.waiting += stalled_chunks(orders.engine)
    assert len(orders.waiting) == 5 * AHEAD
    # Those, what is left of the rows, the end.
    assert orders.work() == 5 * AHEAD + (SOME - 3 - AHEAD) + 1
    assert orders.batch().state is BatchState.COMPLETED


@pytest.mark.usefixtures("small_chunks")
def test_lost_chunks_are_requested_again(orders: Orders) -> None:
    orders.order(SOME * SMALL)
    orders.work(5)
    orders.waiting.clear()
    assert stalled_chunks(orders.engine) == []  # something was done just now
    age_last_activity(orders)
    again = stalled_chunks(orders.engine)
    assert len(again) == AHEAD
    assert min(chunk.number for chunk in again) == 6
    assert stalled_chunks(orders.engine) == []  # asked for just now
    orders.waiting += again
    orders.work()
    assert orders.batch().state is BatchState.COMPLETED


def test_a_lost_end_is_requested_again(orders: Orders) -> None:
    orders.order(2 * CHUNK)
    orders.work(2)
    orders.waiting.clear()
    age_last_activity(orders)
    (end,) = stalled_chunks(orders.engine)
    orders.waiting.append(end)
    orders.work()
    assert orders.batch().state is BatchState.COMPLETED


def age_last_activity(orders: Orders) -> None:
    """Set the last activity of all jobs back by a minute."""
    with begin(orders.engine) as (connection, now):
        connection.execute(update(jobs).values(last_activity_at=now - timedelta(minutes=1)))


def test_cards_are_usable_only_when_the_order_is_complete(orders: Orders) -> None:
    orders.order(2 * CHUNK, **CODES)
    asks: tuple[tuple[type[CardQuery], dict[str, Any]], ...] = (
        (GetCard, {"card_id": "B1-0001"}),  # made
        (ListTransactions, {"card_id": "B1-0001"}),
        (GetCard, {"card_id": f"B1-{2 * CHUNK:04d}"}),  # to be made
    )
    orders.work(1)
    assert [seen(orders, query, **named) for query, named in asks] == ["batch_state"] * 3
    orders.work()
    assert [seen(orders, query, **named) for query, named in asks] == [None] * 3
    assert seen(orders, GetCard, card_id=f"B1-{2 * CHUNK + 1:04d}") == "card_not_found"


def seen(orders: Orders, query: type[CardQuery], **named: Any) -> str | None:
    """Return the reason why nothing is shown; None when something is."""
    with reading(orders.engine) as connection:
        shown = answer_query(connection, query(account_id=ACCOUNT, command_id="look", **named))
    return shown.get("reason")


def test_progress_is_published_once_a_second_at_most(orders: Orders) -> None:
    orders.order(5 * CHUNK)
    set_last_progress(orders, ago=-timedelta(hours=1))  # a moment ago, however slow this machine is
    orders.work(2)
    assert orders.events("batch.progressed") == []
    asked_at = set_last_progress(orders, ago=PROGRESS_INTERVAL)
    orders.work(1)
    (told,) = orders.events("batch.progressed")
    assert (told["data"]["created"], told["data"]["requested"]) == (3 * CHUNK, 5 * CHUNK)
    assert told["correlationid"] == "order-B1"
    with reading(orders.engine) as connection:
        assert connection.execute(select(jobs.c.last_progress_at)).scalar_one() >= asked_at
    set_last_progress(orders, ago=-timedelta(hours=1))
    orders.work(1)
    set_last_progress(orders, ago=PROGRESS_INTERVAL)
    orders.work()  # what is about to end is told when it has
    assert len(orders.events("batch.progressed")) == 1


def set_last_progress(orders: Orders, *, ago: timedelta) -> datetime:
    """Set the time of the last progress event; return the time of the database."""
    with begin(orders.engine) as (connection, now):
        connection.execute(update(jobs).values(last_progress_at=now - ago))
    return now


def test_cards_without_secrets_have_no_file(orders: Orders) -> None:
    orders.order(3, type="credit_note", created_by="kari", name="Autumn")
    orders.work()
    (told,) = orders.events("batch.completed")
    assert told["data"]["file"] is None
    assert orders.count(files) == orders.count(tokens) == orders.count(pins) == 0
    with reading(orders.engine) as connection:
        rows = connection.execute(select(cards)).all()
    assert {(row.type, row.created_by, row.state, row.version) for row in rows} == {
        ("credit_note", "kari", State.INACTIVE, 1)
    }
    assert {row.id for row in rows} == {card_uuid(ACCOUNT, name) for name in names(3)}


def test_a_throttled_chunk_is_made_in_pieces_with_the_same_result(orders: Orders) -> None:
    orders.order(CHUNK + 350, **CODES)
    worked: list[float] = []
    while orders.waiting:
        chunk = orders.waiting.popleft()
        orders.waiting += do(orders.engine, orders.issuer, chunk, worked.append)
    assert len(worked) == CHUNK // 200 + 2
    assert_complete(orders, CHUNK + 350)


def test_chunks_are_throttled_for_commands_and_not_for_chunks(orders: Orders) -> None:
    delivery = Delivery(orders.engine, lambda: False, vault=VAULT, request=orders.waiting.extend)

    def rest_after(chunk: Chunk) -> float:
        (outcome,) = delivery.deliver([message_for(chunk)])
        assert isinstance(outcome, Answered)
        return outcome.throttle_s

    def rests() -> set[float]:
        found = set()
        while orders.waiting:
            found.add(rest_after(orders.waiting.popleft()))
        return found

    orders.order(2 * CHUNK)
    assert rests() == {0.0}
    # Hundreds of events, and nobody waits for one of them.
    orders.ask("batches.block", "recall", batch_id="B1", last=600, reason="recall")
    assert rests() == {0.0}
    orders.ask("batches.unblock", "again", batch_id="B1", last=1, reason="found")
    orders.ask("cards.create", "till", card_id="C1", **LOAD)
    assert rest_after(orders.waiting.popleft()) > 0


def assert_answered(delivery: Delivery, card_id: str) -> None:
    """Let a worker create a card, and check that the command is answered."""
    fields = {"account_id": ACCOUNT, "card_id": card_id, **LOAD}
    message = Message(task="cards.create", id=card_id, queue="cards", kwargs=fields, body=b"{}")
    (outcome,) = delivery.deliver([message])
    assert isinstance(outcome, Answered)


@pytest.mark.parametrize("itself", [False, True])
def test_a_worker_that_also_handles_commands_does_not_pause_within_a_chunk(
    orders: Orders, itself: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []
    monkeypatch.setattr("card_worker.worker.fair_share.sleep", naps.append)
    one, two = (
        Delivery(orders.engine, lambda: False, vault=VAULT, request=orders.waiting.extend)
        for _ in range(2)
    )
    orders.order(6 * CHUNK)
    rests = []
    for number in range(6):
        if number in (2, 4):
            assert_answered(one if itself else two, f"till-{number}")
        (outcome,) = one.deliver([message_for(orders.waiting.popleft())])
        assert isinstance(outcome, Answered)
        rests.append(outcome.throttle_s > 0)
    assert rests == [False, False, True, False, True, False]
    # On SQLite nobody else could commit meanwhile.
    assert bool(naps) is (not itself and orders.engine.dialect.name == "postgresql")


def test_a_pause_within_a_chunk_is_shorter_than_the_idle_limit(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps = set[float]()
    monkeypatch.setattr("card_worker.worker.fair_share.sleep", naps.add)
    monkeypatch.setattr(
        "card_worker.worker.fair_share.THROTTLE_FACTOR", 1e9
    )  # as a very slow machine would
    engine = open_engine(postgres_url)
    orders = Orders(engine)
    delivery, other = (Delivery(engine, lambda: False, vault=VAULT) for _ in range(2))
    orders.order(3 * CHUNK)
    for number in range(3):
        assert_answered(other, f"till-{number}")
        delivery.deliver([message_for(orders.waiting.popleft())])
    assert naps
    assert max(naps) < IDLE_MAX_S / 2
    engine.dispose()


def test_an_approved_list_creates_cards_of_its_types(orders: Orders) -> None:
    asked = {"cards": LISTED, "batch_id": "B2", "needs_approval": True, "created_by": "kari"}
    told = orders.ask("cards.batch_create", "o", **asked, **CODES)
    assert told["type"] == "batch.awaiting_approval"
    assert orders.work() == 0
    orders.ask("batches.approve", "a", batch_id="B2", created_by="ola")
    orders.work()
    rows = orders.opened(orders.file("B2"))
    assert [(row["card_id"], row["type"]) for row in rows] == [
        ("X2", "credit_note"),
        ("X1", "gift_card"),
    ]
    with reading(orders.engine) as connection:
        made = dict(connection.execute(select(cards.c.card_id, cards.c.type)).all())
    assert made == {"X2": "credit_note", "X1": "gift_card"}
    (event,) = orders.events("batch.completed")
    shown = [(card["card_id"], card["type"], card["status"]) for card in event["data"]["cards"]]
    assert shown == [("X2", "credit_note", "inactive"), ("X1", "gift_card", "inactive")]
    tails = [row["token"][-4:] for row in rows]
    assert [card["masked_code"][-4:] for card in event["data"]["cards"]] == tails
    batch = orders.batch("B2")
    assert (batch.created_by, batch.approved_by) == ("kari", "ola")


def test_tokens_have_the_options_of_the_order(orders: Orders) -> None:
    behaviour = {"expires_in": 3600, "expires_after_transaction": True}
    format = {"numbers": True, "length": 16, "prefix": "GC-"}
    makes: dict[str, Any] = {"card_token": {**behaviour, "format": format}}
    orders.order(2, options=makes, seal_to=[OWNER.recipient])
    orders.work()
    with reading(orders.engine) as connection:
        rows = connection.execute(select(tokens)).all()
    assert {row.expires_after_transaction for row in rows} == {True}
    assert {row.expires_at - row.created_at for row in rows} == {timedelta(hours=1)}
    opened = orders.opened(orders.file())
    assert all(row["token"].startswith("GC-") and row["pin"] == "" for row in opened)
    assert {row.masked_code for row in rows} == {f"GC-{'*' * 12}{r['token'][-4:]}" for r in opened}


def test_pins_may_have_other_recipients(orders: Orders) -> None:
    printer = new_key_pair()
    orders.order(3, **CODES, seal_pins_to=[printer.recipient])
    orders.work()
    (told,) = orders.events("batch.completed")
    codes, secret = orders.file(), orders.file(kind=FileKind.PINS)
    assert told["data"]["file"]["name"] == codes.name == f"{ACCOUNT}/B1.csv.age"
    assert told["data"]["pin_file"]["name"] == secret.name == f"{ACCOUNT}/B1.pins.csv.age"
    for file, other in ((codes, printer), (secret, OWNER)):
        with pytest.raises(NotOpened):
            orders.opened(file, other.identity)
    first, second = orders.opened(codes), orders.opened(secret, printer.identity)
    assert [row["card_id"] for row in first] == [row["card_id"] for row in second] == names(3)
    assert {row["pin"] for row in first} == {row["token"] for row in second} == {""}
    for one, two in zip(first, second, strict=True):
        orders.ask("cards.activate", f"on-{one['card_id']}", card_id=one["card_id"], **LOAD)
        paid = {"token": one["token"], "pin": two["pin"], "ref_id": "pay", **LOAD}
        assert orders.pay(**paid)["type"] == "card.drawn_down"


def test_a_batch_named_like_the_pin_file_of_another_has_its_own_file(
    orders: Orders,
) -> None:
    for batch_id in ("B1", "B1.pins", "B1%2Epins"):
        orders.order(1, batch_id, **CODES, seal_pins_to=[OWNER.recipient])
    orders.work()
    found = [
        orders.file(batch_id, kind).name.removeprefix(f"{ACCOUNT}/")
        for batch_id in ("B1", "B1.pins", "B1%2Epins")
        for kind in (FileKind.CODES, FileKind.PINS)
    ]
    assert found == [
        *("B1.csv.age", "B1.pins.csv.age"),
        *("B1%2Epins.csv.age", "B1%2Epins.pins.csv.age"),
        *("B1%252Epins.csv.age", "B1%252Epins.pins.csv.age"),
    ]


def test_the_service_cannot_open_the_file(orders: Orders) -> None:
    orders.order(2_000, **CODES)
    orders.work(1)
    with reading(orders.engine) as connection:
        (kept,) = connection.execute(
            select(chunks.c.encrypted_secrets).where(chunks.c.encrypted_secrets.is_not(None))
        )
        assert "B1-0001" not in str(kept)
    orders.work()
    # What could be read here is gone in the commit that has sealed it.
    assert orders.count(chunks) == 0
    assert len(orders.opened(orders.file())) == 2_000


def test_files_that_have_arrived_are_confirmed_once(orders: Orders) -> None:
    orders.order(3, **CODES, seal_pins_to=[new_key_pair().recipient])
    orders.work()
    with pytest.raises(NotConfirmed, match="hasn't been written yet"):
        confirm(orders.engine, ACCOUNT, "B1")
    assert write_files(orders.engine, FileStore("memory://confirmed")) == 2

    def confirmed(by: str) -> str | None:
        try:
            confirm(orders.engine, ACCOUNT, "B1", by)
        except NotConfirmed:
            return None
        return by

    with ThreadPoolExecutor(4) as pool:
        (by,) = filter(None, pool.map(confirmed, ["eva", "kari", "ola", "per"]))
    (told,) = orders.events("batch.confirmed")
    assert (told["correlationid"], told["data"]["confirmed_by"]) == ("order-B1", by)
    (made,) = orders.events("batch.completed")
    for named in ("file", "pin_file"):
        assert told["data"][named] == made["data"][named]
    assert orders.count(file_parts) == 0


def test_one_of_two_concurrent_confirmations_succeeds(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    orders = Orders(engine)
    orders.order(1, **CODES)
    orders.work()
    write_files(engine, FileStore("memory://at-once"))
    with begin(engine) as (connection, _):
        find_batch(connection, ACCOUNT, "B1", lock=True)
        with pytest.raises(OperationalError) as raised:
            confirm(engine, ACCOUNT, "B1")
    assert is_retryable(raised.value)
    confirm(engine, ACCOUNT, "B1")
    engine.dispose()


def test_files_without_secrets_are_not_confirmed(orders: Orders) -> None:
    orders.order(3)
    orders.work()
    orders.ask("batches.unblock", "recall", batch_id="B1", first=2, reason="found")
    orders.ask("cards.activate", "on", card_id="B1-0001", **LOAD)
    orders.ask("batches.extend", "later", batch_id="B1", expires_at="2041-01-01T00:00:00Z")
    orders.work()
    assert orders.count(files) == 1  # that of the cards refused
    for batch_id in ("B1", "B2"):
        with pytest.raises(NotConfirmed, match="there is no file"):
            confirm(orders.engine, ACCOUNT, batch_id)


# --- what can't go on, and what is let go -----------------------------------------------------


@pytest.mark.usefixtures("small_chunks")
def test_an_order_waits_for_a_missing_pepper(engine: Engine) -> None:
    orders = Orders(engine)
    orders.order(2 * SMALL, **CODES)
    orders.work(2)
    others = Vault(Peppers([Pepper("t2", bytes(range(32)))]), PIN_PEPPERS)
    orders.issuer, known = SecretIssuer(others), orders.issuer
    orders.work()
    batch = orders.batch()
    assert (batch.state, batch.created) == (BatchState.RUNNING, 2 * SMALL)
    assert batch.last_error == "TOKEN_PEPPERS has no key t1 any more"
    assert orders.count(files) == 0
    orders.issuer = known
    age_last_activity(orders)
    orders.waiting += stalled_chunks(engine)
    orders.work()
    assert orders.batch().last_error is None
    assert_complete(orders, 2 * SMALL)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("vault", "missing"),
    [(Vault(), "TOKEN_PEPPERS"), (Vault(VAULT.tokens), "PIN_PEPPERS")],
)
def test_a_worker_without_peppers_leaves_an_order_to_others(
    engine: Engine, vault: Vault, missing: str
) -> None:
    orders = Orders(engine)
    orders.order(2 * SMALL, **CODES)
    first, second = orders.waiting
    assert do(engine, SecretIssuer(vault), first) == []
    assert orders.batch().last_error == f"a worker has no {missing}"
    assert orders.names() == []
    orders.waiting.extend([first, second])
    orders.work()
    assert orders.batch().last_error is None
    assert_complete(orders, 2 * SMALL)


def test_a_chunk_that_always_fails_is_a_dead_letter_and_the_batch_shows_the_error(
    postgres_url: str,
) -> None:
    engine = open_engine(postgres_url)
    defects.plant(engine)
    orders = Orders(engine)
    orders.order(3, card_id_pattern="defect-{n}")
    delivery = Delivery(engine, lambda: False, vault=VAULT)
    (outcome,) = delivery.deliver([message_for(orders.waiting.popleft())])
    assert isinstance(outcome, Failed)
    batch = orders.batch()
    assert (batch.state, batch.last_error) == (BatchState.RUNNING, outcome.explanation)
    defects.remove(engine)
    age_last_activity(orders)
    orders.waiting += stalled_chunks(engine)
    orders.work()
    batch = orders.batch()
    assert (batch.state, batch.last_error) == (BatchState.COMPLETED, None)
    engine.dispose()


@pytest.mark.parametrize(
    "forged",
    [
        *({"number": number} for number in (0, -1, 10**30, 1.5, None)),
        *({"account_id": text} for text in ("", "a\x00", "T1", 5)),
        *({"batch_id": text} for text in ("", "a\x00", "\ud800", "x" * 256)),
        *({"job": "x"}, {"action": "x"}),
    ],
    ids=repr,
)
def test_an_invalid_chunk_message_is_a_dead_letter_and_affects_no_order(
    forged: dict[str, Any], engine: Engine
) -> None:
    orders = Orders(engine)
    orders.order(3)
    genuine = message_for(orders.waiting[0])
    delivery = Delivery(engine, lambda: False, vault=VAULT)
    (outcome,) = delivery.deliver([replace(genuine, kwargs={**genuine.kwargs, **forged})])
    assert outcome == Failed(DeadLetterReason.CHUNK_INVALID)
    assert orders.batch().last_error is None


def test_a_chunk_is_dead_lettered_after_its_batch_shows_the_error(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    orders = Orders(engine)
    orders.order(1)
    asked = replace(message_for(orders.waiting[0]), returns=2, deaths=2)
    with engine.begin() as connection:
        started = {"key": start_key(asked.id, asked.body)}
        connection.execute(text("INSERT INTO starts VALUES (:key, 4, now())"), started)
    delivery = Delivery(engine, lambda: False, vault=VAULT)
    with engine.begin() as connection:
        connection.execute(text("SELECT FROM batches FOR UPDATE"))
        assert isinstance(delivery.deliver([asked])[0], Waiting)
        assert count_dead_letters(engine) == 0
    (outcome,) = delivery.deliver([asked])
    assert isinstance(outcome, Failed)
    assert (orders.batch().last_error, count_dead_letters(engine)) == (outcome.explanation, 1)
    engine.dispose()


def count_dead_letters(engine: Engine) -> int:
    with reading(engine) as connection:
        return len(list_letters(connection, resolved=False, letters_max=9))


def assert_nothing_left(orders: Orders) -> Batch:
    """Return the order, of which nothing must be left."""
    assert orders.names() == []
    left = (tokens, pins, chunks, files)
    assert [orders.count(table) for table in left] == [0] * 4
    with reading(orders.engine) as connection:
        assert None not in connection.execute(select(jobs.c.ended_at)).scalars().all()
    batch = orders.batch()
    assert (batch.state, batch.created, batch.busy) == (BatchState.CANCELLED, 0, False)
    return batch


@pytest.mark.usefixtures("small_chunks")
def test_a_cancelled_order_leaves_no_rows(orders: Orders) -> None:
    orders.order(8 * SMALL, **CODES)
    orders.work(3)
    making = list(orders.waiting)
    told = orders.ask("batches.cancel", "stop", batch_id="B1", reason="a mistake")
    assert told["type"] == "batch.cancelled"
    assert (told["data"]["created"], told["data"]["reason_text"]) == (3 * SMALL, "a mistake")
    refused = orders.ask("cards.create", "early", card_id="B1-0001", **LOAD)
    assert refused["data"]["reason"] == "card_exists"
    orders.work()
    assert_nothing_left(orders)
    # A chunk whose worker was slow finds that it isn't wanted any more.
    orders.waiting.extend(making)
    assert orders.work() == len(making)
    assert orders.names() == []
    made = orders.ask("cards.create", "late", card_id="B1-0001", **LOAD)
    assert made["type"] == "card.created"


@pytest.mark.parametrize("lost", [False, True])
def test_an_order_cancelled_before_its_first_card_ends_at_once(orders: Orders, lost: bool) -> None:
    orders.order(3 * CHUNK)
    orders.ask("batches.cancel", "stop", batch_id="B1")
    if lost:
        orders.waiting.clear()
        age_last_activity(orders)
        orders.waiting += stalled_chunks(orders.engine)
    assert orders.work() > 0
    assert_nothing_left(orders)
    age_last_activity(orders)
    assert stalled_chunks(orders.engine) == []


def test_a_chunk_of_another_batch_is_ignored(orders: Orders) -> None:
    orders.order(CHUNK + 1)
    orders.order(CHUNK + 1, "B2")
    asked = list(orders.waiting)
    for number in (1, 2, 3):
        mixed = asked[0]._replace(batch_id="B2", number=number)
        assert do(orders.engine, orders.issuer, mixed) == []
    assert orders.count(cards) == 0
    orders.work()
    for batch_id in ("B1", "B2"):
        assert orders.batch(batch_id).state is BatchState.COMPLETED


def test_a_chunk_is_rolled_back_if_its_order_is_cancelled_meanwhile(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On SQLite one commit waits for the other, so this can't happen there.
    engine = open_engine(postgres_url)
    orders = Orders(engine)
    orders.order(3 * CHUNK)
    orders.work(1)
    (second, *_) = orders.waiting
    with cancelling_at_work(orders, monkeypatch):
        assert do(engine, orders.issuer, second) == []
    assert orders.names() == names(CHUNK)
    orders.work()
    assert_nothing_left(orders)
    engine.dispose()


@contextmanager
def cancelling_at_work(orders: Orders, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let an order be cancelled between a chunk's first look at it and its last."""

    def cancel_first(*args: Any) -> None:
        orders.ask("batches.cancel", "stop", batch_id="B1")
        insert_similar(*args)

    with monkeypatch.context() as patched:
        patched.setattr("card_worker.batches.making.insert_similar", cancel_first)
        yield


def test_a_cancelled_order_is_not_cancelled_again(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(postgres_url)
    orders = Orders(engine)
    orders.order(CHUNK)
    create_card_concurrently(orders, "B1-0007")
    with cancelling_at_work(orders, monkeypatch):
        assert do(engine, orders.issuer, orders.waiting.popleft()) == []
    (told,) = orders.events("batch.cancelled")
    assert told["correlationid"] == "stop"
    engine.dispose()


def test_a_chunk_locked_by_another_worker_is_skipped(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    orders = Orders(engine)
    orders.order(2 * CHUNK)
    first, second = orders.waiting
    with engine.begin() as connection:
        connection.execute(select(chunks).where(chunks.c.number == 1).with_for_update())
        assert do(engine, orders.issuer, first) == []
        do(engine, orders.issuer, second)
    assert orders.names() == sorted(names(CHUNK, CHUNK + 1))
    do(engine, orders.issuer, first)
    assert orders.names() == sorted(names(2 * CHUNK))
    engine.dispose()


SEE_WHETHER_COMMITS_WAIT = """
CREATE TABLE seen (setting text);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO seen VALUES (current_setting('synchronous_commit'));
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER see AFTER UPDATE ON jobs DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION see();
"""


def test_a_chunk_waits_for_the_disk_if_it_publishes_or_commands_wait(
    postgres_url: str,
) -> None:
    engine = open_engine(postgres_url)
    orders = Orders(engine)
    orders.order(4 * CHUNK)
    set_last_progress(orders, ago=-timedelta(hours=1))
    with engine.begin() as connection:
        connection.exec_driver_sql(SEE_WHETHER_COMMITS_WAIT)

    def seen() -> set[str]:
        with engine.begin() as connection:
            return set(connection.exec_driver_sql("DELETE FROM seen RETURNING setting").scalars())

    orders.work(1)
    assert seen() == {"off"}
    do(engine, orders.issuer, orders.waiting.popleft(), lambda _: None)
    assert seen() == {"on"}
    set_last_progress(orders, ago=PROGRESS_INTERVAL)
    seen()
    orders.work(1)
    assert len(orders.events("batch.progressed")) == 1
    assert seen() == {"on"}
    orders.work(1)
    assert seen() == {"off"}
    orders.work()
    assert orders.batch().state is BatchState.COMPLETED
    assert seen() == {"on"}
    engine.dispose()


def test_encrypted_secrets_of_a_chunk_cannot_replace_those_of_another(orders: Orders) -> None:
    orders.order(2 * CHUNK, **CODES)
    orders.work(2)
    with begin(orders.engine) as (connection, _):
        kept = connection.execute(
            select(chunks.c.number, chunks.c.encrypted_secrets).where(
                chunks.c.encrypted_secrets.is_not(None)
            )
        ).all()
        (one, first), (two, second) = kept
        for number, text in ((one, second), (two, first)):
            connection.execute(
                update(chunks).where(chunks.c.number == number).values(encrypted_secrets=text)
            )
    orders.work()
    batch = orders.batch()
    assert (batch.state, batch.last_error is None) == (BatchState.RUNNING, False)
    assert orders.count(files) == 0


@pytest.mark.usefixtures("small_chunks")
def test_cards_with_taken_ids_cancel_an_order_and_are_not_removed(orders: Orders) -> None:
    orders.order(4 * SMALL, **CODES)
    orders.work(2)
    name = f"B1-{3 * SMALL:04d}"
    create_card_concurrently(orders, name)
    orders.work()
    batch = assert_nothing_left(orders)
    assert batch.last_error == "A card with this card_id exists."
    (told,) = orders.events("batch.cancelled")
    assert told["data"]["reason"] == "card_exists"
    (problem,) = told["data"]["problems"]
    assert problem["message"].startswith(f"{name}: ")
    assert orders.count(cards) == 2


def create_card_concurrently(orders: Orders, name: str) -> None:
    """Make a card that an order would make, as a commit does that had begun before the order's."""
    orders.ask("cards.create", f"take-{name}", card_id=f"before {name}", **LOAD)
    with begin(orders.engine) as (connection, _):
        own = {"id": card_uuid(ACCOUNT, name), "card_id": name}
        made = cards.c.card_id == f"before {name}"
        row = dict(connection.execute(select(cards).where(made)).mappings().one())
        connection.execute(cards.insert().values(row | own))


def test_an_order_without_free_token_values_is_cancelled(engine: Engine) -> None:
    tools = SecretTools(draw_tokens=lambda _, count: ["123456789012"] * count)
    orders = Orders(engine, SecretIssuer(VAULT, tools))
    format = {"numbers": True, "length": 16}
    makes: dict[str, Any] = {"card_token": {"format": format}}
    orders.order(2_000, options=makes, seal_to=[OWNER.recipient])
    orders.work()
    assert_nothing_left(orders)
    (told,) = orders.events("batch.cancelled")
    assert told["data"]["reason"] == "format_invalid"
    assert told["data"]["problems"][0]["field"] == "options.card_token.format"


def test_taken_card_ids_are_found_among_many(orders: Orders) -> None:
    listed = [{"card_id": f"P{number}"} for number in (9, 10, 99, 1000, "09", "1x", 182, "0009")]
    orders.ask("cards.batch_create", "listed", cards=listed)
    told = orders.order(999, "B2", card_id_pattern="P{n}")
    named = [one["message"].partition(":")[0] for one in told["data"]["problems"]]
    assert named == ["P9", "P10", "P99", "P182"]
    # P18 with its check digit 2, and P0009.
    for batch_id, pattern in (("B3", "P{n}{luhn}"), ("B4", "P{n:04d}")):
        told = orders.order(999, batch_id, card_id_pattern=pattern)
        assert told["data"]["reason"] == "card_exists", pattern
        assert len(told["data"]["problems"]) == 1
    assert orders.order(999, "B5", card_id_pattern="P{n:05d}")["type"] == "batch.accepted"


def test_taken_card_ids_are_read_in_pages(orders: Orders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("card_worker.storage.batches.CARD_IDS_PER_PAGE", 2)
    listed = [{"card_id": name} for name in ("P1a", "P1b", "P1c", "P1d", "P1e", "P99")]
    orders.ask("cards.batch_create", "listed", cards=listed)
    told = orders.order(99, "B2", card_id_pattern="P{n:02d}")
    assert [one["message"][:4] for one in told["data"]["problems"]] == ["P99:"]
    # Nobody is kept waiting by millions of names that are only alike.
    monkeypatch.setattr("card_worker.storage.batches.PAGES_MAX", 2)
    assert orders.order(99, "B3", card_id_pattern="P{n:02d}")["type"] == "batch.accepted"
    orders.work()
    (told,) = orders.events("batch.cancelled")
    assert (told["subject"], told["data"]["reason"]) == ("B3", "card_exists")
    assert told["data"]["problems"][0]["message"].startswith("P99:")
    assert orders.names("B3") == []


def test_card_ids_sort_by_code_points_with_any_collation(orders: Orders) -> None:
    sorts_as = {"postgresql": "C", "sqlite": None}[orders.engine.dialect.name]
    kinds: dict[str, Any] = {
        one["name"]: one["type"] for one in inspect(orders.engine).get_columns("cards")
    }
    assert kinds["card_id"].collation == sorts_as


# --- called back ------------------------------------------------------------------------------


def statuses(orders: Orders) -> dict[str, tuple[str, bool]]:
    with reading(orders.engine) as connection:
        rows = connection.execute(select(cards.c.card_id, cards.c.state, cards.c.blocked)).all()
    return {card_id: (state.value, bool(blocked)) for card_id, state, blocked in rows}


def test_cancelling_a_batch_closes_its_inactive_cards(orders: Orders) -> None:
    orders.order(500)
    orders.work()
    orders.ask("cards.activate", "on", card_id="B1-0007", **LOAD)
    told = orders.ask("batches.cancel", "stop", batch_id="B1", reason="a mistake")
    assert (told["type"], told["data"]["created"]) == ("batch.cancelled", 500)
    late = orders.ask("cards.activate", "late", card_id="B1-0400", **LOAD)
    assert late["data"]["reason"] == "batch_state"
    orders.work()
    shown = statuses(orders)
    assert shown.pop("B1-0007") == ("active", False)
    assert set(shown.values()) == {("closed", False)}
    closed = orders.events("card.closed")
    assert len(closed) == 499
    assert closed[0]["data"]["version"] == 2
    assert closed[0]["data"]["reason_text"] == "a mistake"
    (told,) = orders.events("batch.recalled")
    recall = {"action": "cancel", "first": 1, "last": 500, "done": 499, "already": 0, "refused": 1}
    assert told["data"]["recall"] == recall
    batch = orders.batch()
    assert (batch.state, batch.created, batch.busy) == (BatchState.CANCELLED, 500, False)


@pytest.mark.parametrize("is_listed", [True, False])
def test_cards_are_recalled(orders: Orders, *, is_listed: bool) -> None:
    if is_listed:
        listed = [{"card_id": name} for name in names(500)]
        orders.ask("cards.batch_create", "listed", cards=listed, batch_id="B1")
    else:
        orders.order(500)
        orders.work()
    orders.ask("cards.block", "b", card_id="B1-0300", reason="lost")
    orders.ask("cards.activate", "on", card_id="B1-0301", **LOAD)
    orders.ask("cards.activate", "on2", card_id="B1-0302", **LOAD)
    orders.ask("cards.close", "c", card_id="B1-0302", reason="paid out")
    asked = {"batch_id": "B1", "first": 201, "last": 450, "reason": "recall"}
    told = orders.ask("batches.block", "recall", **asked, created_by="kari")
    assert told["type"] == "batch.recalling"
    orders.work()
    (end,) = orders.events("batch.recalled")
    assert end["correlationid"] == "recall"
    assert end["data"]["recall"] == {
        **{"action": "block", "first": 201, "last": 450},
        **{"done": 248, "already": 1, "refused": 1},
    }
    shown = statuses(orders)
    blocked = [name for name, (state, blocked) in shown.items() if blocked and state != "closed"]
    assert sorted(blocked) == sorted(set(names(250, 201)) - {"B1-0302"})
    file = orders.file(kind=FileKind.REFUSED)
    assert end["data"]["file"]["name"] == file.name
    assert orders.content(file) == b"card_id,reason\r\nB1-0302,card_closed\r\n"
    blocks = [one for one in orders.events("card.blocked") if one["data"]["version"]]
    assert len(blocks) == 249
    assert {one["data"]["reason_text"] for one in blocks} == {"lost", "recall"}


def test_events_of_recalled_cards_name_the_sender(orders: Orders) -> None:
    orders.order(2)
    orders.work()
    orders.ask("cards.activate", "on", card_id="B1-0002", created_by="till", **LOAD)
    by = {"created_by": "kari", "originated_by": "desk"}
    orders.ask("batches.close", "close", batch_id="B1", reason="recall", **by)
    orders.work()
    with reading(orders.engine) as connection:
        asked = select(transactions.c.created_by, transactions.c.originated_by)
        (_, paid_out) = connection.execute(asked.order_by(transactions.c.version)).all()
        assert list(differences(connection)) == []
    assert paid_out == ("kari", "desk")


def test_a_recall_can_be_repeated_and_reversed(orders: Orders) -> None:
    orders.order(5)
    orders.work()
    asked = {"batch_id": "B1", "reason": "recall"}
    for number, (task, done, already) in enumerate(
        [
            ("batches.block", 5, 0),
            ("batches.block", 0, 5),
            ("batches.unblock", 5, 0),
            ("batches.unblock", 0, 5),
        ]
    ):
        orders.ask(task, f"recall-{number}", **asked)
        orders.work()
        recall = orders.events("batch.recalled")[-1]["data"]["recall"]
        assert (recall["done"], recall["already"], recall["refused"]) == (done, already, 0), task
    assert orders.events("batch.recalled")[-1]["data"]["file"] is None


RECALLS: list[tuple[str, dict[str, Any]]] = [
    ("batches.block", {"reason": "recall"}),
    ("batches.close", {"reason": "recall"}),
    ("batches.extend", {"expires_at": "2041-01-01T00:00:00Z"}),
    ("batches.cancel", {}),
]


@pytest.mark.parametrize(("task", "fields"), RECALLS)
def test_senders_cannot_use_the_keys_of_a_recall(
    orders: Orders, task: str, fields: dict[str, Any]
) -> None:
    orders.order(3)
    orders.work()
    if task != "batches.cancel":
        load = {"expires_at": "2040-01-01T00:00:00Z", **LOAD}
        for name in names(3):
            orders.ask("cards.activate", f"on-{name}", card_id=name, **load)
    orders.ask(task, "recall", batch_id="B1", **fields)
    job = orders.waiting[0].job
    for number in (1, 2, 3):
        orders.ask("cards.expire", f"{job.hex}-{number}", card_id=f"other-{number}")
    orders.work()
    recall = orders.events("batch.recalled")[-1]["data"]["recall"]
    assert (recall["done"], recall["refused"]) == (3, 0)


def test_the_expiry_of_cards_is_extended(orders: Orders) -> None:
    orders.order(4)
    orders.work()
    ends = ["2040-01-01T00:00:00Z", "2041-01-01T00:00:00Z", "2042-01-01T00:00:00Z"]
    for number, end in enumerate(ends, start=1):
        named = {"card_id": f"B1-{number:04d}", "expires_at": end}
        orders.ask("cards.activate", f"on-{number}", **named, **LOAD)
    orders.ask("batches.extend", "later", batch_id="B1", expires_at=ends[1])
    orders.work()
    recall = orders.events("batch.recalled")[-1]["data"]["recall"]
    assert (recall["done"], recall["already"], recall["refused"]) == (1, 1, 2)
    file = orders.file(kind=FileKind.REFUSED)
    assert orders.content(file) == (
        b"card_id,reason\r\nB1-0003,expiry_not_later\r\nB1-0004,expiry_not_later\r\n"
    )


END = {"expires_at": "2041-01-01T00:00:00Z"}
ON, EXTENDED = {"cards.activate": LOAD}, {"cards.activate": LOAD | END}
EARLIER = {"cards.activate": LOAD | {"expires_at": "2040-01-01T00:00:00Z"}}
OFF = {"cards.close": {"reason": "paid out"}}
BLOCKED = {"cards.block": {"reason": "lost"}}
# What is done before with three cards: one that the recall changes, one that is already as it wants
# it, and one that it refuses.
BEFORE: dict[str, tuple[dict[str, dict[str, Any]], ...]] = {
    "block": ({}, BLOCKED, ON | OFF),
    "unblock": (BLOCKED, {}, ON | OFF),
    "close": (ON, ON | OFF, {}),
    "extend": (EARLIER, EXTENDED, EXTENDED | OFF),
    "cancel": ({}, ON | OFF, ON),
}


@pytest.mark.parametrize("action", BEFORE)
def test_only_a_card_that_is_as_the_recall_wants_it_counts_as_already_done(
    orders: Orders, action: str
) -> None:
    orders.order(3)
    orders.work()
    for name, done in zip(names(3), BEFORE[action], strict=True):
        for task, fields in done.items():
            orders.ask(task, f"{task} {name}", card_id=name, **fields)
    fields = END if action == "extend" else {"reason": "recall"}
    orders.ask(f"batches.{action}", "recall", batch_id="B1", **fields)
    orders.work()
    recall = orders.events("batch.recalled")[-1]["data"]["recall"]
    assert (recall["done"], recall["already"], recall["refused"]) == (1, 1, 1)
    if action != "cancel":
        reason = "card_inactive" if action == "close" else "card_closed"
        content = f"card_id,reason\r\nB1-0003,{reason}\r\n"
        assert orders.content(orders.file(kind=FileKind.REFUSED)) == content.encode()


def test_recalls_of_a_batch_are_done_in_order(orders: Orders) -> None:
    orders.order(1_000)
    orders.work()
    asked = {"batch_id": "B1", "reason": "recall"}
    orders.ask("batches.block", "block", **asked)
    lost = orders.waiting.popleft()
    orders.work()
    orders.ask("batches.unblock", "unblock", **asked)
    assert not orders.waiting  # the block has not ended
    age_last_activity(orders)
    orders.waiting += stalled_chunks(orders.engine)
    assert list(orders.waiting) == [lost]
    orders.work()
    assert {blocked for _, blocked in statuses(orders).values()} == {False}
    ends = [event["data"]["recall"] for event in orders.events("batch.recalled")]
    assert [(recall["action"], recall["done"]) for recall in ends] == [
        ("block", 1_000),
        ("unblock", 1_000),
    ]


def test_a_chunk_of_a_later_recall_does_nothing(orders: Orders) -> None:
    orders.order(3)
    orders.work()
    asked = {"batch_id": "B1", "reason": "recall"}
    with begin(orders.engine) as (connection, now):
        begun = [
            orders.handle(connection, now, f"batches.{action}", f"recall-{number}", **asked)
            for number, action in enumerate(("block", "unblock", "block"))
        ]
    unblocks = Chunk(begun[1].id, ACCOUNT, "B1", Action.UNBLOCK, 1)
    assert do(orders.engine, orders.issuer, unblocks) == []
    orders.waiting += first_chunks(orders.engine, [one.id for one in begun])
    orders.work()
    ends = [event["data"]["recall"] for event in orders.events("batch.recalled")]
    assert [(recall["action"], recall["done"]) for recall in ends] == [
        ("block", 3),
        ("unblock", 3),
        ("block", 3),
    ]


def test_a_batch_is_cancelled_after_its_recalls(orders: Orders) -> None:
    orders.order(3)
    orders.work()
    orders.ask("batches.block", "block", batch_id="B1", reason="recall")
    orders.ask("batches.cancel", "cancel", batch_id="B1")
    orders.work()
    ends = [event["data"]["recall"] for event in orders.events("batch.recalled")]
    assert [recall["action"] for recall in ends] == ["block", "cancel"]


def test_a_listed_batch_keeps_the_order_of_its_list(orders: Orders) -> None:
    listed = names(300)
    random.Random(3).shuffle(listed)
    cards = [{"card_id": name} for name in listed]
    orders.ask("cards.batch_create", "at-once", cards=cards, batch_id="B1")
    waits = [{"card_id": f"w{name}"} for name in listed]
    ordered = {"cards": waits, "batch_id": "B2", "needs_approval": True, "created_by": "kari"}
    orders.ask("cards.batch_create", "approved", **ordered)
    orders.ask("batches.approve", "yes", batch_id="B2", created_by="ola")
    orders.work()
    for batch_id in ("B1", "B2"):
        asked = {"batch_id": batch_id, "first": 50, "last": 260, "reason": "recall"}
        orders.ask("batches.block", f"block-{batch_id}", **asked)
        orders.work()
    blocked = {name for name, (_, blocked) in statuses(orders).items() if blocked}
    ranged = listed[49:260]
    assert blocked == {*ranged, *(f"w{name}" for name in ranged)}


# --- lists that wait for approval -----------------------------------------------------------------


def wait_for_approval(orders: Orders, batch_id: str, *card_ids: str) -> dict[str, Any]:
    listed = [{"card_id": card_id} for card_id in card_ids]
    asked = {"cards": listed, "needs_approval": True, "created_by": "kari"}
    return orders.ask("cards.batch_create", f"order-{card_ids[0]}", batch_id=batch_id, **asked)


def test_card_ids_of_lists_are_found_by_key(orders: Orders) -> None:
    for number in range(3):
        wait_for_approval(orders, f"B{number}", f"X{number}", f"Y{number}")
    with begin(orders.engine) as (connection, now):
        needed = Needs(cards=((ACCOUNT, "X1"), (ACCOUNT, "free")))
        books = load(connection, [needed], now)()
    assert books.reserved == {(ACCOUNT, "X1"): "B1"}
    assert [order.card_list for order in books.orders[ACCOUNT].values()] == [None] * 3


def test_card_ids_of_lists_are_released_when_the_list_is_done_or_cancelled(orders: Orders) -> None:
    wait_for_approval(orders, "made", "A1", "A2")
    wait_for_approval(orders, "cancelled", "C1")
    wait_for_approval(orders, "stopped", "S1")
    assert orders.count(reserved_card_ids) == 4
    taken = orders.ask("cards.create", "a1", card_id="A1", **LOAD)
    assert taken["data"]["reason"] == "card_exists"
    shown = GetCard(account_id=ACCOUNT, command_id="q", card_id="A1")
    with reading(orders.engine) as connection:
        assert answer_query(connection, shown)["reason"] == "batch_state"
    orders.ask("batches.cancel", "cancel", batch_id="cancelled")
    assert orders.ask("cards.create", "c1", card_id="C1", **LOAD)["type"] == "card.created"
    orders.ask("batches.approve", "stopped", batch_id="stopped", created_by="ola")
    orders.ask("batches.cancel", "stop", batch_id="stopped")
    orders.ask("batches.approve", "made", batch_id="made", created_by="ola")
    assert orders.count(reserved_card_ids) == 2
    orders.work()
    assert orders.count(reserved_card_ids) == 0
    assert orders.ask("cards.activate", "on", card_id="A2", **LOAD)["type"] == "card.activated"
    again = orders.ask("batches.cancel", "rest", batch_id="made")
    assert again["type"] == "batch.cancelled"


def test_a_pattern_conflicts_with_card_ids_of_waiting_lists(orders: Orders) -> None:
    wait_for_approval(orders, "B1", "P-0007", "P-0008", "P-9999")
    told = orders.order(20, "P")
    assert told["data"]["reason"] == "card_exists"
    assert [problem["message"][:6] for problem in told["data"]["problems"]] == ["P-0007", "P-0008"]


def waits_for_another(engine: Engine) -> bool:
    """Say whether a session waits for what another one has locked."""
    asked = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with engine.connect() as connection:
        return bool(connection.exec_driver_sql(asked).scalar())


@pytest.mark.parametrize("dry_run", [True, False])
def test_orders_of_a_group_with_the_same_batch_id_are_checked_separately(
    orders: Orders, dry_run: bool
) -> None:
    orders.ask("cards.create", "a1", card_id="A-1", **LOAD)
    asked: dict[str, Any] = {"account_id": ACCOUNT, "batch_id": "B1", "count": 3}
    patterns = {"A-{n}": False, "Z-{n}": dry_run}
    group = [
        command
        for pattern, is_dry in patterns.items()
        for command in read_commands(
            "cards.batch_create",
            f"order {pattern}",
            {**asked, "card_id_pattern": pattern, "dry_run": is_dry},
        )
        if not isinstance(command, UnreadableItem)
    ]
    with begin(orders.engine) as (connection, now):
        answers = handle(connection, group, now, orders.issuer)
    assert [answer.reason for answer in answers] == ["card_exists", None]


def test_one_of_two_commits_reserves_a_card_id(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    orders, others = Orders(engine), Orders(open_engine(postgres_url))
    listed: dict[str, Any] = {"cards": [{"card_id": "X1"}], "needs_approval": True}
    listed["created_by"] = "kari"
    with ThreadPoolExecutor(1) as pool:
        with begin(engine) as (connection, now):
            orders.handle(connection, now, "cards.batch_create", "first", batch_id="B1", **listed)
            ask = partial(others.ask, "cards.batch_create", "second", batch_id="B2", **listed)
            second = pool.submit(ask)
            until(lambda: waits_for_another(engine), "the other commit")
        with pytest.raises(DBAPIError) as race:
            second.result()
    assert is_race(race.value)
    told = ask()
    assert told["data"]["reason"] == "card_exists"
    for used in (engine, others.engine):
        used.dispose()


def test_unapproved_orders_lapse(orders: Orders) -> None:
    wait_for_approval(orders, "old", "A1")
    wait_for_approval(orders, "approved", "A2")
    orders.ask("batches.approve", "yes", batch_id="approved", created_by="ola")
    wait_for_approval(orders, "new", "A3")
    with begin(orders.engine) as (connection, now):
        for batch_id, days in (("old", 30), ("approved", 31), ("new", 29)):
            change = update(batches).where(batches.c.batch_id == batch_id)
            connection.execute(change.values(created_at=now - timedelta(days=days)))
    late = orders.ask("batches.approve", "late", batch_id="old", created_by="ola")
    assert late["data"]["reason"] == "batch_state"
    assert lapse_orders(orders.engine) == 1
    assert lapse_orders(orders.engine) == 0
    (told,) = orders.events("batch.cancelled")
    assert told["subject"] == "old"
    assert told["data"]["reason_text"] == "not approved within 30 days"
    assert orders.ask("cards.create", "a1", card_id="A1", **LOAD)["type"] == "card.created"
    assert orders.batch("new").state is BatchState.AWAITING_APPROVAL
    assert orders.batch("approved").state is BatchState.RUNNING


@pytest.mark.parametrize("length", [58, 59, 255])
def test_an_order_with_a_long_batch_id_lapses(orders: Orders, length: int) -> None:
    long = ["b" * length, "b" * (length - 1) + "c"]
    wait_for_approval(orders, long[0], "A1")
    wait_for_approval(orders, long[1], "A2")
    with begin(orders.engine) as (connection, now):
        connection.execute(update(batches).values(created_at=now - timedelta(days=31)))
    assert lapse_orders(orders.engine) == 2
    assert [told["subject"] for told in orders.events("batch.cancelled")] == long


def test_a_locked_order_does_not_stop_others_from_lapsing(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    orders = Orders(engine)
    wait_for_approval(orders, "held", "A1")
    wait_for_approval(orders, "free", "A2")
    with begin(engine) as (connection, now):
        for batch_id, days in (("held", 32), ("free", 31)):
            change = update(batches).where(batches.c.batch_id == batch_id)
            connection.execute(change.values(created_at=now - timedelta(days=days)))
    with begin(engine) as (connection, _):
        find_batch(connection, ACCOUNT, "held", lock=True)
        assert lapse_orders(engine) == 1
    assert lapse_orders(engine) == 1
    assert [told["subject"] for told in orders.events("batch.cancelled")] == ["free", "held"]
    engine.dispose()


def test_a_chunk_of_an_unknown_job_is_ignored(orders: Orders) -> None:
    nothing = Chunk(card_uuid(ACCOUNT, "x"), ACCOUNT, "B1", Action.MAKE, 1)
    assert do(orders.engine, orders.issuer, nothing) == []


def test_reconcile_finds_codes_without_cards_and_batches_without_cards(orders: Orders) -> None:
    orders.order(3, **CODES)
    orders.work()
    with begin(orders.engine) as (connection, _):
        connection.execute(cards.delete().where(cards.c.card_id == "B1-0002"))
    with reading(orders.engine) as connection:
        found = {(one.what, one.actual, one.expected) for one in differences(connection)}
    assert found == {
        ("token's card", "none", "one card"),
        ("PIN's card", "none", "one card"),
        ("card of the batch", "none", "one"),
        ("created, compared with the cards of its names", "3", "2"),
        ("created", "3", "2 cards name it"),
    }
