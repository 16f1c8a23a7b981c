"""Signed messages and their senders: what a delivery does with them, on both databases."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, Table, func, select

from card_worker.contracts.commands import COMMANDS
from card_worker.contracts.dead_letters import UNAUTHENTICATED, DeadLetterReason, Unreadable
from card_worker.contracts.envelope import read_envelope
from card_worker.contracts.message import SignedBy, UnreadableItem, read_commands
from card_worker.handler import handle
from card_worker.secrets.sealing import new_key_pair
from card_worker.secrets.signing import Signatures, SigningKey
from card_worker.storage import dead_letters
from card_worker.storage.accounts import change_account
from card_worker.storage.engine import begin, open_engine, reading
from card_worker.storage.producers import change_key
from card_worker.storage.tables import dead_letters as letters
from card_worker.storage.tables import (
    idempotency_keys,
    issued,
    outbox,
    pin_attempts,
    unauthenticated,
)
from card_worker.worker.delivery import Delivery
from card_worker.worker.messages import (
    Answered,
    Failed,
    Message,
    Outcome,
    QueryAnswered,
    Returned,
    is_sent_by_owner,
)
from tests.codes import OWNER, VAULT
from tests.flow.processes import until
from tests.producers import PEPPERS, ed25519_key, hmac_key, message, register, signed
from tests.storage.statements import counting

ACCOUNT, OTHER = "T00000001", "T00000002"
STRANGER = [new_key_pair().recipient]
LOAD = {"amount": 500, "currency": "NOK"}
DAY_S = 24 * 3600


class Shop:
    """A producer with two keys, and the worker that it sends to."""

    def __init__(self, engine: Engine, **options: Any) -> None:
        self.engine = engine
        self.ed25519, self.hmac = ed25519_key(), hmac_key()
        self.worker = Delivery(engine, lambda: False, vault=VAULT, peppers=PEPPERS, **options)

    def register(self, **rights: Any) -> None:
        register(self.engine, self.ed25519, **rights)
        register(self.engine, self.hmac, **rights)

    def require(self, account_id: str = ACCOUNT) -> None:
        change_account(
            self.engine, account_id, lambda rules: rules._replace(signatures=Signatures.REQUIRED)
        )

    def send(self, task: str, key: SigningKey | None = None, /, **fields: Any) -> str:
        """Deliver a signed command; return the type of its answer, or the reason against it."""
        return told(self.deliver(self.message(task, key, **fields)))

    def message(
        self, task: str, key: SigningKey | None = None, /, *, age_s: float = 0, **fields: Any
    ) -> Message:
        fields = {"account_id": ACCOUNT, "command_id": str(uuid4()), **fields}
        return message(task, signed(key or self.ed25519, task, fields, age_s=age_s))

    def unsigned(self, task: str, **fields: Any) -> Message:
        fields = {"account_id": ACCOUNT, "command_id": str(uuid4()), **fields}
        return message(task, fields, id=str(uuid4()))

    def deliver(self, *messages: Message) -> Outcome:
        return self.worker.deliver(messages)[-1]

    def change(self, key: SigningKey, **values: Any) -> None:
        with begin(self.engine) as (connection, _):
            change_key(connection, key.key_id, **values)

    def rows(self) -> tuple[int, int]:
        """Return how many idempotency keys and events there are."""
        with reading(self.engine) as connection:
            counts = (
                select(func.count()).select_from(table) for table in (idempotency_keys, outbox)
            )
            keys, events = (connection.execute(count).scalar_one() for count in counts)
            return keys, events

    def count(self, table: Table) -> int:
        with reading(self.engine) as connection:
            return int(connection.execute(select(func.count()).select_from(table)).scalar_one())

    def letters(self) -> list[dead_letters.DeadLetter]:
        with reading(self.engine) as connection:
            return dead_letters.list_letters(connection, resolved=False, letters_max=100)


def told(outcome: Outcome) -> str:
    match outcome:
        case Answered(answers=(answer, *_)):
            event = json.loads(answer.event)
            return str(event["data"].get("reason", event["type"]))
        case QueryAnswered(result=result):
            return str(result.get("reason", "shown"))
        case Failed(reason=reason):
            return reason
    raise AssertionError(outcome)


@pytest.fixture
def shop(engine: Engine) -> Shop:
    return Shop(engine)


def card(card_id: str = "card-1", **fields: Any) -> dict[str, Any]:
    return {"card_id": card_id, **LOAD, **fields}


# --- who has sent it ------------------------------------------------------------------------------


def test_signed_commands_are_answered_with_the_producer_as_creator(shop: Shop) -> None:
    shop.register()
    shop.require()
    for key in (shop.ed25519, shop.hmac):
        outcome = shop.deliver(
            shop.message("cards.create", key, **card(key.key_id), created_by="somebody")
        )
        assert told(outcome) == "card.created"
        assert isinstance(outcome, Answered)
        assert json.loads(outcome.answers[0].event)["data"]["card"]["created_by"] == "shop"


def test_without_a_valid_signature_nothing_is_done_where_one_is_required(shop: Shop) -> None:
    shop.register()
    shop.require()
    key = shop.ed25519
    good = signed(key, "cards.create", {"account_id": ACCOUNT, "command_id": "c", **card()})
    forged = signed(ed25519_key(key.key_id), "cards.create", json.loads(good["signed"]))
    stranger = signed(ed25519_key("nobody"), "cards.create", json.loads(good["signed"]))
    refused = {
        "unsigned": json.loads(good["signed"]),
        "signature_wrong": forged,
        "key_unknown": stranger,
    }
    for reason, kwargs in refused.items():
        assert told(shop.deliver(message("cards.create", kwargs, id=reason))) == reason
    # The signature is that of another task.
    assert told(shop.deliver(message("cards.activate", good))) == "signature_wrong"
    assert shop.rows() == (0, 0)
    assert {letter.reason for letter in shop.letters()} == {*refused}


def test_an_account_that_accepts_unsigned_commands_does_not_accept_wrong_signatures(
    shop: Shop,
) -> None:
    shop.register()
    assert told(shop.deliver(shop.unsigned("cards.create", **card()))) == "card.created"
    assert shop.send("cards.create", ed25519_key(), **card("2")) == "signature_wrong"
    assert shop.send("cards.create", **card("2")) == "card.created"


def test_the_setting_requires_signatures_of_all_accounts(engine: Engine) -> None:
    shop = Shop(engine, signatures=Signatures.REQUIRED)
    shop.register()
    assert told(shop.deliver(shop.unsigned("cards.create", **card()))) == "unsigned"
    assert shop.send("cards.create", **card()) == "card.created"


@pytest.mark.parametrize(
    "kwargs",
    [
        {"signed": "{}"},
        {"signature": "v1,k,1,"},
        {"signed": "{}", "signature": "v1,k,1,", "account_id": ACCOUNT},
        {"signed": 1, "signature": "v1,k,1,"},
        {"signed": '{"command_id": "c"}', "signature": 1},
    ],
)
def test_the_form_of_a_signed_message_is_fixed(kwargs: dict[str, Any]) -> None:
    with pytest.raises(Unreadable) as refused:
        message("cards.create", kwargs)
    assert refused.value.reason is DeadLetterReason.SIGNATURE_MALFORMED


def test_the_command_id_must_be_signed(shop: Shop) -> None:
    fields = {"account_id": ACCOUNT, **card()}
    with pytest.raises(Unreadable, match="command_id"):
        message("cards.create", signed(shop.ed25519, "cards.create", fields))
    shop.register()
    items = [
        {"command": "cards.create", **fields},
        {"command": "cards.create", **fields, "command_id": "c"},
    ]
    read = message("commands.apply", signed(shop.ed25519, "commands.apply", {"commands": items}))
    assert told(shop.deliver(read)) == "card.created"
    (letter,) = shop.letters()
    assert letter.reason == "items_unreadable"
    assert letter.body == read.body, "the signature covers all items"


ATTACKS: dict[str, tuple[str, dict[str, Any]]] = {
    "read a card": ("cards.get", {"card_id": "card-1"}),
    "have a new PIN": ("cards.rotate_pin", {"card_id": "card-1", "pin": {}, "seal_to": STRANGER}),
    "have a token": (
        "tokens.create",
        {"card_id": "card-1", "ref_id": "t", "seal_to": STRANGER},
    ),
    "spend without the PIN": (
        "transactions.create",
        {"card_id": "card-1", "ref_id": "r", "amount": 1, "currency": "NOK"},
    ),
    "issue money": ("cards.create", {"card_id": "x", "amount": 9_000_000_000, "currency": "NOK"}),
    "order as one": (
        "cards.batch_create",
        {"count": 9, "card_id_pattern": "x-{n}", "created_by": "alice", "needs_approval": True},
    ),
    "approve as another": ("batches.approve", {"batch_id": "order", "created_by": "bob"}),
    "use up a key": ("cards.block", {"card_id": "x", "reason": "r", "command_id": "sale-2"}),
    "order ten million cards": (
        "cards.batch_create",
        {"count": 10_000_000, "card_id_pattern": "y-{n}"},
    ),
}
"""What a stranger who may write to the queues could do before."""


def test_a_stranger_can_do_nothing_where_signatures_are_required(shop: Shop) -> None:
    shop.register()
    shop.require()
    assert shop.send("cards.create", **card(pin={}, seal_to=[OWNER.recipient])) == "card.created"
    order = {"batch_id": "order", "count": 3, "card_id_pattern": "z-{n}", "needs_approval": True}
    assert shop.send("cards.batch_create", **order) == "batch.awaiting_approval"
    before, forged = shop.rows(), ed25519_key(shop.ed25519.key_id)
    for task, fields in ATTACKS.values():
        unsigned = shop.unsigned(task, **fields)
        in_a_list = {"commands": [{"command": task, **unsigned.kwargs}]}
        sent = [unsigned, shop.message(task, forged, **fields)]
        if task in COMMANDS:
            sent.append(message("commands.apply", in_a_list, id=str(uuid4())))
        assert {told(outcome) for outcome in shop.worker.deliver(sent)} <= UNAUTHENTICATED
    assert shop.rows() == before
    # Nobody has used up what the owner's commands need.
    assert (
        shop.send("cards.block", command_id="sale-2", card_id="card-1", reason="r")
        == "card.blocked"
    )


def test_a_message_that_is_sent_again_has_no_second_effect(shop: Shop) -> None:
    shop.register()
    assert shop.send("cards.create", **card()) == "card.created"
    pay: dict[str, Any] = {"card_id": "card-1", "ref_id": "r", "amount": 100, "currency": "NOK"}
    sent = shop.message("transactions.create", **pay)
    first, before = shop.deliver(sent), shop.rows()
    again = shop.worker.deliver([replace(sent, id=f"copy-{n}") for n in range(3)])
    assert [told(outcome) for outcome in (first, *again)] == ["card.drawn_down"] * 4
    assert shop.rows() == before


# --- the registry changes -------------------------------------------------------------------------


def test_a_revocation_holds_from_the_next_commit(shop: Shop) -> None:
    shop.register()
    assert shop.send("cards.create", **card("1")) == "card.created"
    shop.change(shop.ed25519, revoked_at=datetime.now(UTC))
    assert shop.send("cards.create", **card("2")) == "key_unknown"
    assert shop.send("cards.create", shop.hmac, **card("2")) == "card.created"


def test_a_new_key_and_a_new_rule_hold_at_once(shop: Shop) -> None:
    assert told(shop.deliver(shop.unsigned("cards.create", **card("1")))) == "card.created"
    assert shop.send("cards.create", **card("2")) == "key_unknown"
    shop.register()
    assert shop.send("cards.create", **card("2")) == "card.created"
    shop.require()
    assert told(shop.deliver(shop.unsigned("cards.get", card_id="1"))) == "unsigned"
    assert told(shop.deliver(shop.unsigned("cards.create", **card("3")))) == "unsigned"


def test_what_was_read_before_a_change_is_read_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.register()
    read = shop.worker._read_verified

    def revoke_then(one: Message) -> Any:
        found = read(one)
        monkeypatch.undo()
        shop.change(shop.ed25519, revoked_at=datetime.now(UTC))
        return found

    monkeypatch.setattr(shop.worker, "_read_verified", revoke_then)
    others = [shop.message("cards.create", shop.hmac, **card(str(n))) for n in range(3)]
    outcomes = shop.worker.deliver([shop.message("cards.create", **card("a")), *others])
    assert list(map(told, outcomes)) == ["key_unknown", *["card.created"] * 3]


def test_a_worker_stops_while_the_registry_is_locked(postgres_url: str) -> None:
    engine, asked = open_engine(postgres_url), list[bool]()

    def stopping() -> bool:
        asked.append(True)
        return True

    worker = Delivery(engine, stopping, vault=VAULT)
    with engine.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE producers IN ACCESS EXCLUSIVE MODE")
        fields = {"account_id": ACCOUNT, "command_id": "c", **card()}
        (outcome,) = worker.deliver([message("cards.create", fields)])
    assert isinstance(outcome, Returned)
    assert asked
    engine.dispose()


def test_a_key_is_valid_from_and_until(shop: Shop) -> None:
    now = datetime.now(UTC)
    register(shop.engine, shop.ed25519, valid_from=now + timedelta(hours=1))
    register(shop.engine, shop.hmac, valid_until=now - timedelta(seconds=1))
    assert shop.send("cards.create", **card()) == "key_unknown"
    assert shop.send("cards.create", shop.hmac, **card()) == "key_unknown"


# --- rights and limits ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rights", "task", "fields", "reason"),
    [
        ({"accounts": [OTHER]}, "cards.create", card(), "not_permitted"),
        ({"tasks": ["cards.get"]}, "cards.create", card(), "not_permitted"),
        ({"tasks": ["cards.create"]}, "cards.get", {"card_id": "x"}, "not_permitted"),
        ({"accounts": [OTHER]}, "cards.get", {"card_id": "x"}, "not_permitted"),
        ({"amount_max": 499}, "cards.create", card(), "limit_exceeded"),
        ({"issued_max": {"NOK": 499}}, "cards.create", card(), "limit_exceeded"),
        ({"issued_max": {"EUR": 9999}}, "cards.create", card(), "limit_exceeded"),
        (
            {"cards_max": 9},
            "cards.batch_create",
            {"count": 10, "card_id_pattern": "x-{n:02d}"},
            "limit_exceeded",
        ),
        ({"accounts": [OTHER]}, "cards.create", card(amount=-1), "not_permitted"),
    ],
)
def test_a_key_allows_what_its_rights_say(
    shop: Shop, rights: dict[str, Any], task: str, fields: dict[str, Any], reason: str
) -> None:
    shop.register(**rights)
    assert shop.send(task, command_id="m-1", **fields) == reason


def test_a_refusal_for_the_sender_uses_no_key_of_the_account(shop: Shop) -> None:
    register(shop.engine, shop.ed25519, "stranger", accounts=[OTHER])
    register(shop.engine, shop.hmac)
    burnt = shop.message("cards.create", command_id="sale-1", **card())
    assert told(shop.deliver(burnt)) == "not_permitted"
    assert shop.send("cards.create", shop.hmac, command_id="sale-1", **card()) == "card.created"
    # The same signature gets the same refusal for ever, a new one is judged anew.
    shop.change(shop.ed25519, accounts=[ACCOUNT])
    assert told(shop.deliver(replace(burnt, id="again"))) == "not_permitted"
    later = shop.message("cards.create", command_id="sale-2", **card("2"), age_s=5)
    assert told(shop.deliver(later)) == "card.created"


def test_two_producers_with_one_command_id_are_told_apart(shop: Shop) -> None:
    register(shop.engine, shop.ed25519, "one")
    register(shop.engine, shop.hmac, "two")
    assert shop.send("cards.block", command_id="c", card_id="x", reason="r") == "card_not_found"
    again = shop.send("cards.block", shop.hmac, command_id="c", card_id="x", reason="r")
    assert again == "idempotency_conflict"


def test_the_daily_limit_counts_what_was_accepted(shop: Shop) -> None:
    shop.register(issued_max={"NOK": 1_000})
    assert shop.send("cards.create", **card("1"), dry_run=True) == "card.created"
    assert shop.send("cards.create", **card("1")) == "card.created"
    assert shop.send("cards.create", **card("1")) == "card_exists"
    assert shop.send("cards.create", **card("2", amount=501)) == "limit_exceeded"
    # Of the whole producer, not of the key; within a group as well.
    two = [shop.message("cards.create", shop.hmac, **card(name, amount=300)) for name in "ab"]
    assert list(map(told, shop.worker.deliver(two))) == ["card.created", "limit_exceeded"]
    fund = {"card_id": "1", "type": "fund", "ref_id": "r", "currency": "NOK"}
    assert shop.send("transactions.create", **fund, amount=201) == "limit_exceeded"
    assert shop.send("transactions.create", **fund, amount=200) == "card.funded"


def test_an_amount_that_is_not_named_is_above_every_limit(shop: Shop) -> None:
    shop.register(amount_max=10_000)
    named = {"transaction_id": str(uuid4()), "ref_id": "r"}
    assert shop.send("transactions.refund", **named) == "limit_exceeded"
    assert shop.send("transactions.refund", **named, amount=1) == "transaction_not_found"


def test_each_command_of_a_list_is_judged_by_itself(shop: Shop) -> None:
    shop.register(tasks=["cards.create"])
    items = [
        {"command": task, "account_id": ACCOUNT, "command_id": f"c{n}", **card(f"card-{n}")}
        for n, task in enumerate(["cards.create", "cards.activate", "cards.create"])
    ]
    read = message("commands.apply", signed(shop.ed25519, "commands.apply", {"commands": items}))
    outcome = shop.deliver(read)
    assert isinstance(outcome, Answered)
    reasons = [answer.reason or answer.type for answer in outcome.answers]
    assert reasons == ["card.created", "not_permitted", "card.created"]
    again = shop.deliver(read)
    assert isinstance(again, Answered)
    assert [answer.id for answer in again.answers] == [answer.id for answer in outcome.answers]


def test_an_unsigned_list_is_read_only_for_accounts_that_accept_it(shop: Shop) -> None:
    shop.require(OTHER)
    items = [
        {"command": "cards.create", "account_id": account, "command_id": "c", **card()}
        for account in (ACCOUNT, OTHER)
    ]
    assert told(shop.deliver(message("commands.apply", {"commands": items}))) == "card.created"
    (letter,) = shop.letters()
    assert letter.reason == "unsigned"
    assert json.loads(letter.body)[1]["commands"] == items[1:]


# --- time -----------------------------------------------------------------------------------------


def test_a_signature_is_valid_for_the_window_of_its_account(shop: Shop) -> None:
    shop.register()
    old = shop.message("cards.create", **card("1"), age_s=8 * DAY_S)
    assert told(shop.deliver(old)) == "signature_stale"
    change_account(shop.engine, ACCOUNT, lambda rules: rules._replace(signature_window_s=9 * DAY_S))
    assert told(shop.deliver(old)) == "signature_stale", "the same signature, the same refusal"
    older = shop.message("cards.create", **card("1"), age_s=8 * DAY_S + 5)
    assert told(shop.deliver(older)) == "card.created"
    future = shop.message("cards.create", **card("2"), age_s=-601 - 60)
    assert told(shop.deliver(future)) == "signature_from_the_future"
    assert shop.send("cards.create", **card("2"), age_s=-500) == "card.created"


def test_a_known_command_gets_its_answer_at_any_age_of_the_signature(shop: Shop) -> None:
    shop.register()
    fields = {"command_id": "c", **card()}
    first = shop.deliver(shop.message("cards.create", **fields))
    again = shop.deliver(shop.message("cards.create", **fields, age_s=300 * DAY_S))
    assert isinstance(first, Answered)
    assert isinstance(again, Answered)
    assert first.answers[0].event == again.answers[0].event


def test_a_requeued_message_is_judged_as_of_when_it_arrived(shop: Shop) -> None:
    old = shop.message("cards.create", **card(), age_s=6 * DAY_S)
    assert told(shop.deliver(old)) == "key_unknown"
    (letter,) = shop.letters()
    shop.register()
    with begin(shop.engine) as (connection, now):
        assert dead_letters.resolve(connection, letter.id, now, "requeued")
        # As if all of it had happened five days ago.
        earlier = now - timedelta(days=5)
        connection.execute(letters.update().values(received_at=earlier, resolved_at=earlier))
    change_account(shop.engine, ACCOUNT, lambda rules: rules._replace(signature_window_s=5 * DAY_S))
    assert told(shop.deliver(old)) == "card.created"


def test_a_requeued_message_may_be_handled_before_it_is_marked_as_such(shop: Shop) -> None:
    shop.require()
    old = shop.message("cards.create", **card(), age_s=8 * DAY_S)
    assert told(shop.deliver(old)) == "key_unknown"
    (letter,) = shop.letters()
    shop.register()
    with begin(shop.engine) as (connection, now):
        dead_letters.begin_requeue(connection, letter.id)
        earlier = now - timedelta(days=5)
        connection.execute(letters.update().values(received_at=earlier))
    assert told(shop.deliver(old)) == "card.created"


# --- queries --------------------------------------------------------------------------------------


def test_a_query_is_signed_for_a_minute_and_for_its_own_result(shop: Shop) -> None:
    shop.register()
    shop.require()
    assert shop.send("cards.create", **card()) == "card.created"

    def ask(**fields: Any) -> str:
        return shop.send("cards.get", command_id="m-1", card_id="card-1", **fields)

    assert ask() == "shown"
    assert ask(age_s=70) == "signature_stale"
    assert shop.send("cards.get", command_id="other", card_id="card-1") == "signature_wrong"
    assert told(shop.deliver(shop.unsigned("cards.get", card_id="card-1"))) == "unsigned"
    shop.change(shop.ed25519, revoked_at=datetime.now(UTC))
    assert ask() == "key_unknown"


def test_a_query_that_is_refused_for_its_sender_is_no_pin_attempt(shop: Shop) -> None:
    shop.register()
    assert shop.send("cards.create", **card(pin={}, seal_to=STRANGER)) == "card.created"
    asked = {"command_id": "m-1", "card_id": "card-1", "pin": "1234"}
    assert shop.send("cards.get", **asked, age_s=100) == "signature_stale"
    assert shop.send("cards.get", **asked, age_s=-200) == "signature_from_the_future"
    shop.change(shop.ed25519, tasks=["cards.create"])
    assert shop.send("cards.get", **asked) == "not_permitted"
    shop.change(shop.ed25519, tasks=None, revoked_at=datetime.now(UTC))
    assert shop.send("cards.get", **asked) == "key_unknown"
    pay = {"card_id": "card-1", "pin": "1234", "ref_id": "r", **LOAD}
    assert shop.send("transactions.create", **pay) == "key_unknown"
    assert shop.count(pin_attempts) == 0


def test_the_result_of_a_copy_is_stored_for_nobody(shop: Shop) -> None:
    mine = shop.message("cards.create", command_id="m-1", **card())
    assert is_sent_by_owner(mine)
    assert not is_sent_by_owner(replace(mine, id="copy"))
    assert is_sent_by_owner(shop.unsigned("cards.create", **card()))


# --- orders ---------------------------------------------------------------------------------------


def test_a_signed_order_is_approved_by_another_producer_that_signs(shop: Shop) -> None:
    register(shop.engine, shop.ed25519, "alice")
    register(shop.engine, shop.hmac, "bob")
    order = {"batch_id": "b", "count": 3, "card_id_pattern": "x-{n:04d}", "needs_approval": True}
    assert shop.send("cards.batch_create", **order) == "batch.awaiting_approval"
    approve = {"batch_id": "b", "created_by": "bob"}
    assert told(shop.deliver(shop.unsigned("batches.approve", **approve))) == "invalid"
    assert shop.send("batches.approve", **approve) == "invalid"
    assert shop.send("batches.approve", shop.hmac, **approve) == "batch.approved"


def test_an_account_may_seal_to_its_own_recipients_only(shop: Shop) -> None:
    shop.register()
    own, foreign = OWNER.recipient, new_key_pair().recipient
    change_account(
        shop.engine,
        ACCOUNT,
        lambda rules: rules._replace(recipients=(own,), only_own_recipients=True),
    )
    assert shop.send("cards.create", **card("1", pin={})) == "card.created"
    assert shop.send("cards.create", **card("2", pin={}, seal_to=[foreign])) == "invalid"
    batch = {"cards": [{"card_id": "3"}], "options": {"pin": {}}, "seal_pins_to": [foreign]}
    assert shop.send("cards.batch_create", **batch) == "invalid"


def test_recipients_are_checked_again_when_an_order_is_approved(shop: Shop) -> None:
    register(shop.engine, shop.ed25519, "alice")
    register(shop.engine, shop.hmac, "bob")
    order = {"batch_id": "b", "count": 3, "card_id_pattern": "x-{n}", "needs_approval": True}
    codes = {"options": {"pin": {}}, "seal_to": STRANGER}
    assert shop.send("cards.batch_create", **order, **codes) == "batch.awaiting_approval"
    change_account(
        shop.engine,
        ACCOUNT,
        lambda rules: rules._replace(recipients=(OWNER.recipient,), only_own_recipients=True),
    )
    assert shop.send("batches.approve", shop.hmac, batch_id="b") == "invalid"


# --- several in a group -----------------------------------------------------------------------


def test_no_message_is_verified_with_older_rules_than_its_neighbours(shop: Shop) -> None:
    shop.register()
    assert shop.send("cards.create", **card("1")) == "card.created"
    changes: list[Callable[[], None]] = [
        lambda: shop.change(shop.ed25519, accounts=[OTHER]),
        lambda: shop.change(shop.ed25519, revoked_at=datetime.now(UTC)),
        shop.require,
    ]
    for change, reason in zip(changes, ["not_permitted", "key_unknown", "unsigned"], strict=True):
        change()
        first = shop.message("cards.create", **card("2"))
        if reason == "unsigned":
            first = shop.unsigned("cards.create", **card("2"))
        stranger = shop.message("cards.create", ed25519_key("nobody"), **card("3"))
        outcomes = shop.worker.deliver([first, replace(stranger, id="stranger")])
        assert list(map(told, outcomes)) == [reason, "key_unknown"]


def test_copies_in_a_group_are_the_same_command(shop: Shop) -> None:
    shop.register(issued_max={"NOK": 600})
    mine = shop.message("cards.create", **card("1"))
    outcomes = shop.worker.deliver([mine, replace(mine, id="copy")])
    assert list(map(told, outcomes)) == ["card.created"] * 2
    assert told(shop.deliver(mine)) == "card.created"
    assert shop.send("cards.create", **card("2", amount=100)) == "card.created"
    assert shop.send("cards.create", **card("3", amount=1)) == "limit_exceeded"


def test_signed_commands_take_one_statement_more_than_unsigned_ones(shop: Shop) -> None:
    shop.register()

    def statements(make: Callable[..., Message], *names: str) -> int:
        with counting(shop.engine) as said:
            outcomes = shop.worker.deliver([make("cards.create", **card(name)) for name in names])
        assert list(map(told, outcomes)) == ["card.created"] * len(names)
        return len(said)

    statements(shop.unsigned, "0")  # reads the registry
    assert statements(shop.message, *"123") == statements(shop.unsigned, *"456") + 1


def test_each_copy_of_a_command_needs_the_rights_of_its_key(shop: Shop) -> None:
    register(shop.engine, shop.ed25519)
    register(shop.engine, shop.hmac, tasks=["cards.get"])
    assert shop.send("cards.create", command_id="c", **card("1")) == "card.created"
    for name, told_first in (("2", "idempotency_conflict"), ("1", "card.created")):
        copies = [
            shop.message("cards.create", key, command_id="c", **card(name))
            for key in (shop.ed25519, shop.hmac)
        ]
        outcomes = list(map(told, shop.worker.deliver(copies)))
        # A command that was handled gets its answer, whoever of the producer's keys has signed it.
        assert outcomes == [told_first, "not_permitted" if name == "2" else told_first]


def test_what_every_key_of_a_producer_issues_counts(shop: Shop) -> None:
    register(shop.engine, shop.ed25519)
    register(shop.engine, shop.hmac, issued_max={"NOK": 600})
    assert shop.send("cards.create", **card("1")) == "card.created"
    assert shop.send("cards.create", shop.hmac, **card("2")) == "limit_exceeded"
    assert shop.send("cards.block", shop.hmac, card_id="1", reason="r") == "card.blocked"
    assert shop.count(issued) == 1


def test_a_refusal_for_the_sender_shows_nothing_of_the_account(shop: Shop) -> None:
    register(shop.engine, shop.ed25519, "stranger", accounts=[OTHER])
    register(shop.engine, shop.hmac, "owner")
    assert shop.send("cards.create", shop.hmac, **card()) == "card.created"
    block: dict[str, Any] = {"card_id": "card-1", "reason": "r", "command_id": "sale-1"}
    mine, foreign = (shop.message("cards.block", key, **block) for key in (shop.hmac, shop.ed25519))
    outcomes = shop.worker.deliver([foreign, mine])
    assert list(map(told, outcomes)) == ["not_permitted", "card.blocked"]
    assert isinstance(outcomes[0], Answered)
    data = json.loads(outcomes[0].answers[0].event)["data"]
    assert "status" not in data
    # So that the owner can tell the refusal from the answer to his own command.
    assert data["key_id"] == shop.ed25519.key_id


def test_a_command_that_another_worker_is_handling_is_not_refused(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    shop = Shop(engine)
    shop.register()
    sent = shop.message("cards.create", **card())
    shop.change(shop.ed25519, tasks=["cards.get"])
    commands = [
        command
        for command in read_commands(sent.task, sent.id, sent.kwargs, signed_by=SignedBy("shop"))
        if not isinstance(command, UnreadableItem)
    ]
    with ThreadPoolExecutor() as pool:
        with begin(engine) as (connection, now):
            handle(connection, commands, now)
            second = pool.submit(shop.deliver, sent)
            until(lambda: _waits_for_a_lock(engine), "the other worker")
        assert told(second.result()) == "card.created"
    assert told(shop.deliver(sent)) == "card.created"
    engine.dispose()


def _waits_for_a_lock(engine: Engine) -> bool:
    with engine.connect() as connection:
        waiting = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(connection.exec_driver_sql(waiting).scalar_one())


def test_an_item_beyond_the_limit_of_a_list_has_to_be_signed_as_well(shop: Shop) -> None:
    shop.require()
    large = {"account_id": OTHER, "command_id": "x", "bad": 1}
    large["cards"] = [{"card_id": str(number)} for number in range(1_000)]
    burn = {"account_id": ACCOUNT, "command_id": "sale-1", "batch_id": "b"}
    listed = [{"command": "cards.batch_create", **large}, {"command": "batches.approve", **burn}]
    shop.deliver(message("commands.apply", {"commands": listed}))
    shop.register()
    assert shop.send("cards.create", command_id="sale-1", **card()) == "card.created"


@pytest.mark.parametrize("account_id", [[], {}, 5, None])
def test_an_account_id_of_another_type_is_no_defect(shop: Shop, account_id: Any) -> None:
    shop.require(OTHER)
    wrong = shop.unsigned("cards.create", **card(), account_id=account_id)
    assert told(shop.deliver(wrong)) == "account_id_invalid"


@pytest.mark.parametrize("headers", [{"expires": "2020-01-01T00:00:00Z"}, {"eta": "2030-01-01"}])
def test_nothing_beside_what_is_signed_changes_a_command(
    shop: Shop, headers: dict[str, Any]
) -> None:
    kwargs = signed(
        shop.ed25519, "cards.create", {"account_id": ACCOUNT, "command_id": "c", **card()}
    )
    for args, more in (([1], {}), ([], headers)):
        with pytest.raises(Unreadable, match="signature_malformed"):
            read_envelope(
                {"task": "cards.create", "id": "m", **more},
                json.dumps([args, kwargs, {}]),
                content_type="application/json",
                content_encoding="utf-8",
                tasks=frozenset(COMMANDS),
            )


# --- dead letters ---------------------------------------------------------------------------------


def test_messages_of_unknown_senders_are_stored_up_to_a_number_a_day(engine: Engine) -> None:
    shop = Shop(engine, unauthenticated_max=2)
    shop.require()
    for _ in range(4):
        assert told(shop.deliver(shop.unsigned("cards.create", **card()))) == "unsigned"
    stored = shop.letters()
    assert len(stored) == 2
    # One that is stored already is neither counted nor lost.
    with begin(engine) as (connection, now):
        assert dead_letters.resolve(connection, stored[0].id, now, "requeued")
    again = message("cards.create", json.loads(stored[0].body)[1], id=stored[0].message_id or "")
    assert told(shop.deliver(again)) == "unsigned"
    assert len(shop.letters()) == 2
    with reading(engine) as connection:
        (row,) = connection.execute(select(unauthenticated)).all()
    assert (row.reason, row.stored, row.counted) == ("unsigned", 2, 2)


def test_a_secret_in_a_signed_message_is_masked_in_its_dead_letter(shop: Shop) -> None:
    spend = {"token": "DINCARD:secret", "pin": "4711", "ref_id": "r", **LOAD}
    assert shop.send("transactions.create", **spend) == "key_unknown"
    (letter,) = shop.letters()
    assert letter.is_masked
    assert b"4711" not in letter.body
    assert b"DINCARD:secret" not in letter.body
