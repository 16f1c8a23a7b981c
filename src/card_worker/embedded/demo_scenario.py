"""The scenario of the demo: sends messages one by one, and checks the events of each."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, TypeAlias
from uuid import UUID

from card_worker.bureau_file import Line, read_csv
from card_worker.client import Client
from card_worker.contracts.batches import BatchCard, CreateBatch
from card_worker.contracts.cards import ActivateCard, BlockCard, CloseCard, CreateCard, ReplaceCard
from card_worker.contracts.commands import APPLY, SWEEP_CARDS, ProducerCommand, Queue
from card_worker.contracts.secrets import BatchOptions, PinOptions, TokenOptions
from card_worker.contracts.tokens import CreateToken
from card_worker.contracts.transactions import (
    CaptureTransaction,
    CreateTransaction,
    RefundTransaction,
    VoidTransaction,
)
from card_worker.embedded.stack import SIGNED_AMOUNT_MAX, Stack
from card_worker.money import Currency, in_words
from card_worker.secrets.formats import TokenFormat
from card_worker.secrets.sealing import KeyPair, new_key_pair, open_sealed
from card_worker.secrets.secret import Secret
from card_worker.storage import dead_letters
from card_worker.storage.dead_letters import DeadLetter
from card_worker.storage.engine import reading

ACCOUNT = "T00000001"
CARDS = 1_000
IN_LIST = range(101, 201)
PRINTED = 3
EXPIRES_IN_S = 3
ANSWER_MAX_S = 30.0
QUIET_S = 0.5
"""How long the stream is read after the last answer: no further event may come."""

ACTIVATE = "cards.activate"

Event: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Sent:
    """A message, its purpose in words, and its events."""

    number: int
    task: str
    about: str
    purpose: str
    events: list[Event]


@dataclass
class Till:
    """The producer of the demo: sends a message, and waits for its events before the next one."""

    stack: Stack
    client: Client
    sent: list[Sent] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Descriptions of unexpected events."""
    bureau: KeyPair = field(default_factory=new_key_pair)
    """The key pair of the bureau, which prints the cards: files are sealed to it."""
    printed: list[Line] = field(default_factory=list)
    """The lines of the bureau file."""

    def send_with(
        self, send: Callable[[], object], task: str, about: str, purpose: str, *outcomes: str
    ) -> list[Event]:
        """Call `send`, wait for as many events as there are `outcomes`, and compare them."""
        after, events = self.client.newest(), list[Event]()

        def have_come() -> bool:
            events[:] = islice(self.client.events(after, timeout_s=1), len(outcomes))
            return len(events) == len(outcomes)

        send()
        if outcomes:
            self.stack.wait_until(have_come, f"the answer to {task}", ANSWER_MAX_S)
        self.sent.append(Sent(len(self.sent) + 1, task, about, purpose, events))
        if tuple(map(outcome, events)) != outcomes:
            self.wrong.append(f"message {len(self.sent)} got an unexpected answer")
        return events

    def send(
        self, purpose: str, command: ProducerCommand, *outcomes: str, about: str | None = None
    ) -> list[Event]:
        """Send a command; `about` is by default the card of the command or of the one before."""
        about = about or getattr(command, "card_id", None) or self.sent[-1].about
        return self.send_with(
            lambda: self.client.send(command), command.command, about, purpose, *outcomes
        )


def play(till: Till) -> tuple[list[Event], DeadLetter]:
    """Send all messages; return the events of the stream in order, and the dead letter."""
    expires_at = _sell(till)
    _refuse(till)
    _spend(till)
    _use_codes(till)
    _sign(till)
    letter = _send_unreadable(till)
    _expire(till, expires_at)
    stream = list(till.client.events("0-0", timeout_s=QUIET_S))
    answers = [event["id"] for sent in till.sent for event in sent.events]
    if [event["id"] for event in stream] != answers:
        till.wrong.append("the stream does not hold exactly one answer to each command")
    return stream, letter


def outcome(event: Event) -> str:
    """Return the reason of a refusal, the type of any other event."""
    return str(event["data"].get("reason", event["type"]))


def _sell(till: Till) -> datetime:
    """Create cards and sell some of them; return when the first one expires."""
    cards = _batch_cards(map(_card, range(1, CARDS + 1)))
    order, about = CreateBatch(**_ids("order-1"), cards=cards), f"{_card(1)} .. {CARDS}"
    till.send(f"create {CARDS:,} inactive cards", order, "batch.completed", about=about)
    expires_at = datetime.now(UTC) + timedelta(seconds=EXPIRES_IN_S)
    short = _sale("sale-1", _card(1), 5_000, currency=Currency.EUR, expires_at=expires_at)
    till.send(f"{_described(short)} for {EXPIRES_IN_S} s", short, "card.activated")
    sale = _sale("sale-2", _card(2), 50_000)
    till.send(_described(sale), sale, "card.activated")
    sales = [_sale(f"web-{number}", _card(number), 10_000) for number in IN_LIST]
    till.send_with(
        lambda: till.client.send_list(sales),
        APPLY,
        f"{_card(IN_LIST[0])} .. {IN_LIST[-1]:04}",
        f"{len(sales)} sales of {in_words(10_000, Currency.NOK)}",
        *["card.activated"] * len(sales),
    )
    card = CreateCard(**_ids("gift-1"), card_id="gift-card-1", amount=7_500, currency=Currency.SEK)
    till.send(f"a new card with {in_words(card.amount, card.currency)}", card, "card.created")
    return expires_at


def _refuse(till: Till) -> None:
    """Send sales that are refused, and one that has been answered before."""
    till.send("sale-3: activate it again", _sale("sale-3", _card(2), 50_000), "card_already_active")
    till.send("sale-4: no such card", _sale("sale-4", _card(9_999), 20_000), "card_not_found")
    # The typed command does not accept this currency.
    fields = {**_ids("sale-5"), "card_id": _card(3), "amount": 20_000, "currency": "GBP"}
    till.send_with(
        lambda: till.client.publish(ACTIVATE, fields),
        ACTIVATE,
        _card(3),
        "sale-5: 200.00 GBP",
        "invalid",
    )
    till.send("sale-2: now 600.00 NOK", _sale("sale-2", _card(2), 60_000), "idempotency_conflict")
    till.send("sale-2: exactly as before", _sale("sale-2", _card(2), 50_000), "card.activated")


def _spend(till: Till) -> None:
    """Use one card: pay, hold, capture, void, refund, block, replace, close."""
    card, new = _card(2), "gift-card-2"
    paid = _transaction_id(till.send("pay 120.00", _payment("buy-1", 12_000), "card.drawn_down"))
    hold = _payment("book-1", 20_000, pending=True)
    held = _transaction_id(till.send("hold 200.00", hold, "hold.placed"))
    capture = CaptureTransaction(**_ref_ids("pay-1"), transaction_id=held, amount=15_000)
    till.send("capture 150.00 of the hold", capture, "hold.captured")
    void = VoidTransaction(**_ref_ids("off-1"), transaction_id=held)
    till.send("release the rest", void, "hold.voided")
    refund = RefundTransaction(**_ref_ids("back-1"), transaction_id=paid, amount=2_000)
    till.send("refund 20.00 of 120.00", refund, "card.refunded")
    block = BlockCard(**_ids("lost-1"), card_id=card, reason="lost")
    till.send("the card is lost: block it", block, "card.blocked")
    till.send("pay 1.00", _payment("buy-2", 100), "card_blocked")
    replace = ReplaceCard(**_ids("new-1"), card_id=card, new_card_id=new, reason="lost")
    till.send(f"replace it by {new}", replace, "card.replaced", "card.created")
    close = CloseCard(**_ids("end-1"), card_id=new, reason="paid out")
    till.send("close it, pay out the rest", close, "card.closed")


def _use_codes(till: Till) -> None:
    """Order cards with tokens and PINs, open their file, and pay with them."""
    names = [f"plastic-{number}" for number in range(1, PRINTED + 1)]
    order = CreateBatch(
        **_ids("order-2"),
        cards=_batch_cards(names),
        options=BatchOptions(
            card_token=TokenOptions(format=TokenFormat(numbers=True, length=16)), pin=PinOptions()
        ),
        seal_to=(till.bureau.recipient,),
    )
    purpose = f"{PRINTED} cards with token and PIN"
    till.send(purpose, order, "batch.completed", about=f"{names[0]} .. {PRINTED}")
    file = till.stack.files / ACCOUNT / "order-2.csv.age"
    till.stack.wait_until(file.exists, "the file of the order", ANSWER_MAX_S)
    till.printed = read_csv(open_sealed([till.bureau.identity], file.read_bytes()))
    card = till.printed[0]
    sale = _sale("sale-6", names[0], 20_000)
    till.send(_described(sale), sale, "card.activated")

    def pay(purpose: str, ref_id: str, token: str, pin: str, outcome: str) -> None:
        payment = _payment(ref_id, 3_000, card_id=None, token=Secret(token), pin=Secret(pin))
        till.send(purpose, payment, outcome, about="by token")

    token, pin = card["token"], card["pin"]
    wrong_pin = "0000" if pin != "0000" else "1111"
    pay("pay 30.00 by token and PIN", "pay-1", token, pin, "card.drawn_down")
    pay("the same with a wrong PIN", "pay-2", token, wrong_pin, "card_not_usable")
    one_time = CreateToken(
        **_ref_ids("token-1"), card_id=names[0], expires_in=3600, seal_to=(till.bureau.recipient,)
    )
    (event,) = till.send("create a one-time token", one_time, "token.created")
    opened = open_sealed([till.bureau.identity], event["data"]["sealed"].encode())
    token = json.loads(opened)["token"]
    pay("pay 30.00 by that token", "pay-3", token, pin, "card.drawn_down")
    pay("use that token again", "pay-4", token, pin, "token_spent")


def _sign(till: Till) -> None:
    """Send a sale that the producer's key allows, and one that it doesn't, both signed."""
    with Client(till.stack.broker_url, key=till.stack.key_file) as client:
        shop = replace(till, client=client)
        sale = _sale("sale-7", _card(4), 10_000)
        shop.send(f"signed {_described(sale)}", sale, "card.activated")
        sale = _sale("sale-8", _card(5), SIGNED_AMOUNT_MAX + 1)
        shop.send(f"signed {_described(sale)}", sale, "limit_exceeded")


def _send_unreadable(till: Till) -> DeadLetter:
    """Send a message that is not JSON; return the dead letter that stores it."""

    def send() -> None:
        till.client.republish(
            b'<sale card="card-0004" amount="100,-"/>',
            queue=Queue.CARDS,
            headers={"task": ACTIVATE, "id": "old-till-1"},
            content_type="application/xml",
            content_encoding="utf-8",
        )

    found: list[DeadLetter] = []

    def is_stored() -> bool:
        with reading(till.stack.engine) as connection:
            found[:] = dead_letters.list_letters(connection, resolved=False, letters_max=1)
        return bool(found)

    till.send_with(send, ACTIVATE, "?", "an old till that sends XML")
    till.stack.wait_until(is_stored, "the dead letter", ANSWER_MAX_S)
    return found[0]


def _expire(till: Till, expires_at: datetime) -> None:
    till.stack.wait_until(
        lambda: datetime.now(UTC) > expires_at, f"the expiry of {_card(1)}", ANSWER_MAX_S
    )
    till.send_with(
        lambda: till.client.publish(SWEEP_CARDS, {}),
        SWEEP_CARDS,
        "all",
        "expire cards that are due",
        "card.expired",
    )


def _sale(command_id: str, card_id: str, amount: int, **fields: Any) -> ActivateCard:
    fields = {"currency": Currency.NOK, **fields}
    return ActivateCard(**_ids(command_id), card_id=card_id, amount=amount, **fields)


def _described(sale: ActivateCard) -> str:
    return f"{sale.command_id}: {in_words(sale.amount, sale.currency)}"


def _payment(ref_id: str, amount: int, **fields: Any) -> CreateTransaction:
    """Return a payment, or with `pending=True` a hold, by default on the second card."""
    fields = {"card_id": _card(2), "currency": Currency.NOK, **fields}
    return CreateTransaction(**_ref_ids(ref_id), amount=amount, **fields)


def _transaction_id(events: list[Event]) -> UUID:
    return UUID(events[0]["data"]["transaction"]["id"])


def _batch_cards(card_ids: Iterable[str]) -> tuple[BatchCard, ...]:
    return tuple(BatchCard(card_id=card_id) for card_id in card_ids)


def _ids(command_id: str) -> dict[str, Any]:
    return {"account_id": ACCOUNT, "command_id": command_id}


def _ref_ids(ref_id: str) -> dict[str, Any]:
    return {**_ids(ref_id), "ref_id": ref_id}


def _card(number: int) -> str:
    return f"card-{number:04}"
