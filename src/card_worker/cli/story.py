"""What the demo sends: the messages of a day in a shop, one after the other."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, TypeAlias
from uuid import UUID

from card_worker.cli.stack import Stack
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
"""How long nothing more may come at the end."""

ACTIVATE = "cards.activate"

Event: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Sent:
    """One message: what it asks for in plain words, and the events that came for it."""

    number: int
    task: str
    about: str
    asks: str
    events: list[Event]


@dataclass
class Till:
    """Sends one message after the other, and waits for what comes of each."""

    stack: Stack
    client: Client
    sent: list[Sent] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    bureau: Identity = field(default_factory=new_identity)
    """Who prints cards: the only one who can open what is sealed."""
    printed: list[dict[str, str]] = field(default_factory=list)
    """What the bureau has opened."""

    def ask(
        self, task: str, about: str, asks: str, send: Callable[[], object], *outcomes: str
    ) -> None:
        """Do `send`; return when as many events have come as there are `outcomes`."""
        after, events = self.client.newest(), list[Event]()

        def have_come() -> bool:
            events[:] = islice(self.client.events(after, timeout_s=1), len(outcomes))
            return len(events) == len(outcomes)

        send()
        if outcomes:
            self.stack.wait_until(have_come, f"the answer to {task}", ANSWER_MAX_S)
        self.sent.append(Sent(len(self.sent) + 1, task, about, asks, events))
        if tuple(map(outcome, events)) != outcomes:
            self.wrong.append(f"message {len(self.sent)} was not answered as it should be")

    def activate(self, asks: str, sale: ActivateCard, *outcomes: str) -> None:
        """Send one sale."""
        asks = f"{sale.command_id}: {asks}"
        self.ask(ACTIVATE, sale.card_id, asks, lambda: self.client.send(sale), *outcomes)

    def do(self, command: ProducerCommand, asks: str, *outcomes: str) -> list[Event]:
        """Send one command; return what came of it."""
        about = getattr(command, "card_id", None) or self.sent[-1].about
        self.ask(command.command, about, asks, lambda: self.client.send(command), *outcomes)
        return self.sent[-1].events

    def pay(self, ref_id: str, asks: str, outcome: str, *, token: Secret, pin: Secret) -> None:
        """Let a holder pay."""
        payment = CreateTransaction(
            **_known_as(ref_id), token=token, pin=pin, amount=3_000, currency=Currency.NOK
        )
        self.ask(payment.command, "by token", asks, lambda: self.client.send(payment), outcome)

    def activate_gbp(self, command_id: str, number: int, *outcomes: str) -> None:
        """Send a sale in a currency that a typed command doesn't have."""
        sale = {
            "account_id": ACCOUNT,
            "command_id": command_id,
            "card_id": _card(number),
            "amount": 20_000,
            "currency": "GBP",
        }
        asks = f"{command_id}: 200.00 GBP"
        self.ask(
            ACTIVATE, _card(number), asks, lambda: self.client.publish(ACTIVATE, sale), *outcomes
        )


def tell(till: Till) -> tuple[list[Event], DeadLetter]:
    """Send all of it; return what is on the stream, in its order, and the dead letter."""
    _order(till)
    expires_at = _sell(till)
    _refuse(till)
    _spend(till)
    _use_codes(till)
    letter = _spoil(till)
    _expire(till, expires_at)
    # To its end and a little longer: nothing more may come.
    stream = list(till.client.events("0-0", timeout_s=QUIET_S))
    answers = [event["id"] for sent in till.sent for event in sent.events]
    if [event["id"] for event in stream] != answers:
        till.wrong.append("the stream holds something else than one answer to each command")
    return stream, letter


def outcome(event: Event) -> str:
    """Return what an answer says in one word: why not, or what happened."""
    return str(event["data"].get("reason", event["type"]))


def _order(till: Till) -> None:
    cards = tuple(BatchCard(card_id=_card(number)) for number in range(1, CARDS + 1))
    order = CreateBatch(account_id=ACCOUNT, command_id="order-1", cards=cards)
    till.ask(
        order.command,
        f"{_card(1)} .. {CARDS}",
        f"make {CARDS:,} empty cards",
        lambda: till.client.send(order),
        "batch.completed",
    )


def _sell(till: Till) -> datetime:
    """Send what is accepted; return when the card that expires does."""
    expires_at = datetime.now(UTC) + timedelta(seconds=EXPIRES_IN_S)
    short = _sale("sale-1", 1, 5_000, Currency.EUR, expires_at=expires_at)
    till.activate(f"{_of(short)}, for {EXPIRES_IN_S} s", short, "card.activated")
    first = _sale("sale-2", 2, 50_000)
    till.activate(_of(first), first, "card.activated")
    listed = [_sale(f"web-{number}", number, 10_000) for number in LISTED]
    till.ask(
        APPLY,
        f"{_card(LISTED[0])} .. {LISTED[-1]:04}",
        f"{len(listed)} sales of {_of(listed[0])}",
        lambda: till.client.send_list(listed),
        *["card.activated"] * len(listed),
    )
    made = CreateCard(
        account_id=ACCOUNT,
        command_id="gift-1",
        card_id="gift-card-1",
        amount=7_500,
        currency=Currency.SEK,
    )
    asks = f"a new card with {in_words(made.amount, made.currency)}"
    till.ask(made.command, made.card_id, asks, lambda: till.client.send(made), "card.created")
    return expires_at


def _refuse(till: Till) -> None:
    """Send what is refused, and what has its answer already."""
    till.activate("that card once more", _sale("sale-3", 2, 50_000), "card_already_active")
    till.activate("a card nobody made", _sale("sale-4", 9_999, 20_000), "card_not_found")
    till.activate_gbp("sale-5", 3, "invalid")
    till.activate("now 600.00 NOK", _sale("sale-2", 2, 60_000), "idempotency_conflict")
    # What comes next waits in the same queue behind it: when that is done, so is this.
    till.activate("exactly as before", _sale("sale-2", 2, 50_000))


def _spend(till: Till) -> None:
    """Let one card live: spend from it, lock, give back, freeze, move what is left, and close."""
    card, new = _card(2), "gift-card-2"
    bought = _id(till.do(_purchase("buy-1", 12_000), "buy for 120.00", "card.drawn_down"))
    booked = _id(till.do(_purchase("book-1", 20_000, pending=True), "lock 200.00", "hold.placed"))
    of_booking = {**_known_as("pay-1"), "transaction_id": booked}
    pay = CaptureTransaction(**of_booking, amount=15_000)
    till.do(pay, "take 150.00 of it", "hold.captured")
    void = VoidTransaction(**of_booking | _known_as("off-1"))
    till.do(void, "unlock the rest", "hold.voided")
    give_back = RefundTransaction(**_known_as("back-1"), transaction_id=bought, amount=2_000)
    till.do(give_back, "give back 20.00 of 120.00", "card.refunded")
    freeze = BlockCard(account_id=ACCOUNT, command_id="lost-1", card_id=card, reason="lost")
    till.do(freeze, "it is lost: freeze it", "card.blocked")
    till.do(_purchase("buy-2", 100), "buy for 1.00", "card_blocked")
    replace = ReplaceCard(
        account_id=ACCOUNT, command_id="new-1", card_id=card, new_card_id=new, reason="lost"
    )
    till.do(replace, f"put {new} in its place", "card.replaced", "card.created")
    close = CloseCard(account_id=ACCOUNT, command_id="end-1", card_id=new, reason="paid out")
    till.do(close, "pay out what is left", "card.closed")


def _use_codes(till: Till) -> None:
    """Have cards printed with a token and a PIN, and let their holders pay with these."""
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
    asks = f"{PRINTED} cards to be printed: token, PIN"
    about = f"{names[0]} .. {PRINTED}"
    till.ask(order.command, about, asks, lambda: till.client.send(order), "batch.completed")
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
    (told,) = till.do(more, "a token for one payment", "token.created")
    opened = json.loads(open_sealed([till.bureau.secret], told["data"]["sealed"].encode()))
    token = Secret(opened["token"])
    till.pay("pay-3", "pay 30.00 by that", "card.drawn_down", token=token, pin=pin)
    till.pay("pay-4", "pay by it once more", "token_spent", token=token, pin=pin)


def _open_file(till: Till) -> list[dict[str, str]]:
    """Do what the bureau does: fetch the sealed file, open it with the key that only it has."""
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
    """Return the id of the transaction that was told of."""
    return UUID(events[0]["data"]["transaction"]["id"])


def _spoil(till: Till) -> DeadLetter:
    """Send what nobody can read; return the dead letter that it becomes."""

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

    till.ask(ACTIVATE, "?", "an old till that speaks XML", send)
    till.stack.wait_until(is_kept, "the dead letter", ANSWER_MAX_S)
    return found[0]


def _expire(till: Till, expires_at: datetime) -> None:
    till.stack.wait_until(
        lambda: datetime.now(UTC) > expires_at, f"the end of {_card(1)}", ANSWER_MAX_S
    )
    till.ask(
        SWEEP_CARDS,
        "all",
        "expire what is past its time",
        lambda: till.client.publish(SWEEP_CARDS, {}),
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
