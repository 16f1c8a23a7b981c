"""The messages that the demo sends, one after the other, and a check of each answer."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, TypeAlias
from uuid import UUID

from card_worker.client import Client
from card_worker.contracts.batches import BatchCard, CreateBatch
from card_worker.contracts.cards import (
    ActivateCard,
    BlockCard,
    CloseCard,
    CreateCard,
    ReplaceCard,
)
from card_worker.contracts.commands import (
    APPLY,
    SWEEP_CARDS,
    ProducerCommand,
    Queue,
)
from card_worker.contracts.secrets import BatchOptions, PinOptions, TokenOptions
from card_worker.contracts.tokens import CreateToken
from card_worker.contracts.transactions import (
    CaptureTransaction,
    CreateTransaction,
    RefundTransaction,
    VoidTransaction,
)
from card_worker.embedded.stack import Stack
from card_worker.money import Currency, in_words
from card_worker.secrets.formats import TokenFormat
from card_worker.secrets.sealing import Identity, new_identity, open_sealed
from card_worker.secrets.secret import Secret
from card_worker.storage import dead_letters
from card_worker.storage.dead_letters import DeadLetter
from card_worker.storage.engine import reading

ACCOUNT = "T00000001"
CARDS = 1_000
LISTED = range(101, 201)
PRINTED = 3
EXPIRES_IN_S = 3
ANSWER_MAX_S = 30.0
QUIET_S = 0.5
"""No further event may come for so long at the end."""

ACTIVATE = "cards.activate"

Event: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Sent:
    """One message: its purpose in words, and its events."""

    number: int
    task: str
    about: str
    purpose: str
    events: list[Event]


@dataclass
class Till:
    """Sends one message after the other, and waits for the events of each."""

    stack: Stack
    client: Client
    sent: list[Sent] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    bureau: Identity = field(default_factory=new_identity)
    """The card printer's age identity: files for it are sealed to this."""
    printed: list[dict[str, str]] = field(default_factory=list)
    """The lines of the bureau file, opened."""

    def send_with(
        self, send: Callable[[], object], task: str, about: str, purpose: str, *outcomes: str
    ) -> None:
        """Call `send`; return when as many events have come as there are `outcomes`."""
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

    def activate(self, purpose: str, sale: ActivateCard, *outcomes: str) -> None:
        """Sell one card."""
        purpose = f"{sale.command_id}: {purpose}"
        self.send_with(lambda: self.client.send(sale), ACTIVATE, sale.card_id, purpose, *outcomes)

    def send(self, command: ProducerCommand, purpose: str, *outcomes: str) -> list[Event]:
        """Send one command; return its events."""
        about = getattr(command, "card_id", None) or self.sent[-1].about
        self.send_with(
            lambda: self.client.send(command), command.command, about, purpose, *outcomes
        )
        return self.sent[-1].events

    def pay(self, ref_id: str, purpose: str, outcome: str, *, token: Secret, pin: Secret) -> None:
        """Pay with the token and the PIN of a card."""
        payment = CreateTransaction(
            **_known_as(ref_id), token=token, pin=pin, amount=3_000, currency=Currency.NOK
        )
        self.send_with(
            lambda: self.client.send(payment), payment.command, "by token", purpose, outcome
        )

    def activate_gbp(self, command_id: str, number: int, *outcomes: str) -> None:
        """Send a sale in a currency that the typed command doesn't accept."""
        sale = {
            "account_id": ACCOUNT,
            "command_id": command_id,
            "card_id": _card(number),
            "amount": 20_000,
            "currency": "GBP",
        }
        self.send_with(
            lambda: self.client.publish(ACTIVATE, sale),
            ACTIVATE,
            _card(number),
            f"{command_id}: 200.00 GBP",
            *outcomes,
        )


def play(till: Till) -> tuple[list[Event], DeadLetter]:
    """Send all messages; return the events of the stream in order, and the dead letter."""
    _order(till)
    expires_at = _sell(till)
    _refuse(till)
    _spend(till)
    _use_codes(till)
    letter = _send_unreadable(till)
    _expire(till, expires_at)
    # Read the stream a little longer than its end: nothing more may come.
    stream = list(till.client.events("0-0", timeout_s=QUIET_S))
    answers = [event["id"] for sent in till.sent for event in sent.events]
    if [event["id"] for event in stream] != answers:
        till.wrong.append("the stream does not hold exactly one answer to each command")
    return stream, letter


def outcome(event: Event) -> str:
    """Return the reason of a refusal, else the type of the event."""
    return str(event["data"].get("reason", event["type"]))


def _order(till: Till) -> None:
    cards = tuple(BatchCard(card_id=_card(number)) for number in range(1, CARDS + 1))
    order = CreateBatch(account_id=ACCOUNT, command_id="order-1", cards=cards)
    till.send_with(
        lambda: till.client.send(order),
        order.command,
        f"{_card(1)} .. {CARDS}",
        f"make {CARDS:,} empty cards",
        "batch.completed",
    )


def _sell(till: Till) -> datetime:
    """Send sales that are accepted; return when the first card expires."""
    expires_at = datetime.now(UTC) + timedelta(seconds=EXPIRES_IN_S)
    short = _sale("sale-1", 1, 5_000, Currency.EUR, expires_at=expires_at)
    till.activate(f"{_of(short)}, for {EXPIRES_IN_S} s", short, "card.activated")
    first = _sale("sale-2", 2, 50_000)
    till.activate(_of(first), first, "card.activated")
    listed = [_sale(f"web-{number}", number, 10_000) for number in LISTED]
    till.send_with(
        lambda: till.client.send_list(listed),
        APPLY,
        f"{_card(LISTED[0])} .. {LISTED[-1]:04}",
        f"{len(listed)} sales of {_of(listed[0])}",
        *["card.activated"] * len(listed),
    )
    made = CreateCard(
        account_id=ACCOUNT,
        command_id="gift-1",
        card_id="gift-card-1",
        amount=7_500,
        currency=Currency.SEK,
    )
    till.send(made, f"a new card with {in_words(made.amount, made.currency)}", "card.created")
    return expires_at


def _refuse(till: Till) -> None:
    """Send sales that are refused, and one that has its answer already."""
    till.activate("that card once more", _sale("sale-3", 2, 50_000), "card_already_active")
    till.activate("a card that does not exist", _sale("sale-4", 9_999, 20_000), "card_not_found")
    till.activate_gbp("sale-5", 3, "invalid")
    till.activate("now 600.00 NOK", _sale("sale-2", 2, 60_000), "idempotency_conflict")
    # No event to wait for: it is handled when the next message in the same queue is.
    till.activate("exactly as before", _sale("sale-2", 2, 50_000))


def _spend(till: Till) -> None:
    """Take one card through its life: spend, hold, refund, block, replace, close."""
    card, new = _card(2), "gift-card-2"
    bought = _id(till.send(_purchase("buy-1", 12_000), "buy for 120.00", "card.drawn_down"))
    booked = _id(till.send(_purchase("book-1", 20_000, pending=True), "hold 200.00", "hold.placed"))
    of_booking = {**_known_as("pay-1"), "transaction_id": booked}
    pay = CaptureTransaction(**of_booking, amount=15_000)
    till.send(pay, "capture 150.00 of it", "hold.captured")
    void = VoidTransaction(**of_booking | _known_as("off-1"))
    till.send(void, "release the rest", "hold.voided")
    refund = RefundTransaction(**_known_as("back-1"), transaction_id=bought, amount=2_000)
    till.send(refund, "refund 20.00 of 120.00", "card.refunded")
    block = BlockCard(account_id=ACCOUNT, command_id="lost-1", card_id=card, reason="lost")
    till.send(block, "it is lost: block it", "card.blocked")
    till.send(_purchase("buy-2", 100), "buy for 1.00", "card_blocked")
    replace = ReplaceCard(
        account_id=ACCOUNT, command_id="new-1", card_id=card, new_card_id=new, reason="lost"
    )
    till.send(replace, f"put {new} in its place", "card.replaced", "card.created")
    close = CloseCard(account_id=ACCOUNT, command_id="end-1", card_id=new, reason="paid out")
    till.send(close, "pay out what is left", "card.closed")


def _use_codes(till: Till) -> None:
    """Order cards with a token and a PIN each, open their file, and pay with them."""
    names = [f"plastic-{number}" for number in range(1, PRINTED + 1)]
    wanted = BatchOptions(
        card_token=TokenOptions(format=TokenFormat(numbers=True, length=16)), pin=PinOptions()
    )
    order = CreateBatch(
        account_id=ACCOUNT,
        command_id="order-2",
        cards=tuple(BatchCard(card_id=name) for name in names),
        options=wanted,
        seal_to=(till.bureau.recipient,),
    )
    till.send_with(
        lambda: till.client.send(order),
        order.command,
        f"{names[0]} .. {PRINTED}",
        f"{PRINTED} cards to be printed: token, PIN",
        "batch.completed",
    )
    till.printed = _open_file(till)
    first = till.printed[0]
    sale = ActivateCard(
        account_id=ACCOUNT,
        command_id="sale-6",
        card_id=names[0],
        amount=20_000,
        currency=Currency.NOK,
    )
    till.activate(_of(sale), sale, "card.activated")
    token, pin = Secret(first["token"]), Secret(first["pin"])
    till.pay("pay-1", "pay 30.00 by token and PIN", "card.drawn_down", token=token, pin=pin)
    wrong = Secret("0000" if first["pin"] != "0000" else "1111")
    till.pay("pay-2", "the same with a wrong PIN", "card_not_usable", token=token, pin=wrong)
    more = CreateToken(
        account_id=ACCOUNT,
        command_id="token-1",
        card_id=names[0],
        ref_id="token-1",
        expires_in=3600,
        seal_to=(till.bureau.recipient,),
    )
    (event,) = till.send(more, "a token for one payment", "token.created")
    opened = json.loads(open_sealed([till.bureau.secret], event["data"]["sealed"].encode()))
    token = Secret(opened["token"])
    till.pay("pay-3", "pay 30.00 by that", "card.drawn_down", token=token, pin=pin)
    till.pay("pay-4", "pay by it once more", "token_spent", token=token, pin=pin)


def _open_file(till: Till) -> list[dict[str, str]]:
    """Fetch the sealed file and open it with the bureau's identity, as the bureau does."""
    file = till.stack.files / ACCOUNT / "order-2.csv.age"
    till.stack.wait_until(file.exists, "the file of the order", ANSWER_MAX_S)
    plain = open_sealed([till.bureau.secret], file.read_bytes()).decode()
    return list(csv.DictReader(io.StringIO(plain, newline="")))


def _purchase(ref_id: str, amount: int, *, pending: bool = False) -> CreateTransaction:
    return CreateTransaction(
        **_known_as(ref_id),
        card_id=_card(2),
        amount=amount,
        currency=Currency.NOK,
        pending=pending,
    )


def _known_as(ref_id: str) -> dict[str, Any]:
    return {"account_id": ACCOUNT, "command_id": ref_id, "ref_id": ref_id}


def _id(events: list[Event]) -> UUID:
    """Return the id of the transaction in the first event."""
    return UUID(events[0]["data"]["transaction"]["id"])


def _send_unreadable(till: Till) -> DeadLetter:
    """Send a message that is not JSON; return the dead letter that it becomes."""

    def send() -> None:
        till.client.republish(
            b'<sale card="card-0004" amount="100,-"/>',
            queue=Queue.CARDS,
            headers={"task": ACTIVATE, "id": "old-till-1"},
            content_type="application/xml",
            content_encoding="utf-8",
        )

    found: list[DeadLetter] = []

    def is_kept() -> bool:
        with reading(till.stack.engine) as connection:
            found[:] = dead_letters.listed(connection, settled=False, letters_max=1)
        return bool(found)

    till.send_with(send, ACTIVATE, "?", "an old till that sends XML")
    till.stack.wait_until(is_kept, "the dead letter", ANSWER_MAX_S)
    return found[0]


def _expire(till: Till, expires_at: datetime) -> None:
    till.stack.wait_until(
        lambda: datetime.now(UTC) > expires_at, f"the expiry of {_card(1)}", ANSWER_MAX_S
    )
    till.send_with(
        lambda: till.client.publish(SWEEP_CARDS, {}),
        SWEEP_CARDS,
        "all",
        "expire cards past their time",
        "card.expired",
    )


def _sale(
    command_id: str,
    number: int,
    amount: int,
    currency: Currency = Currency.NOK,
    *,
    expires_at: datetime | None = None,
) -> ActivateCard:
    return ActivateCard(
        account_id=ACCOUNT,
        command_id=command_id,
        card_id=_card(number),
        amount=amount,
        currency=currency,
        expires_at=expires_at,
    )


def _of(sale: ActivateCard) -> str:
    return in_words(sale.amount, sale.currency)


def _card(number: int) -> str:
    return f"card-{number:04}"
