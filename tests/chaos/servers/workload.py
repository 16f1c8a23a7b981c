"""A seeded stream of mixed commands about a bounded set of cards; it learns from events."""

import json
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any

import pyrage
from pyrage import x25519

from tests.chaos.servers.garbage import GARBAGE
from tests.chaos.servers.journal import Asked, Event, Garbage, Message
from tests.transport.entries import message

ACCOUNTS = ("T00000001", "P00000002")
SLOTS = 60
"""Cards at a time. One that has ended is replaced by a new one."""
KNOWN_MAX = 6
"""Transactions and tokens of a card that are remembered: the newest."""
RECENT_MAX = 400
NOBODY = "00000000-0000-0000-0000-000000000000"
WRONG_PIN = "#wrong"
"""No PIN has this character."""
BULK = frozenset(["cards.batch_create", "commands.apply"])
SYSTEM = frozenset(["cards.expire"])
LIST_MAX = 15
ORDER_CARDS = 40

Fields = dict[str, Any]
Made = tuple[str, Fields]
"""A task and its fields."""


@dataclass(eq=False)
class Card:
    """What the sender knows of a card; it may be behind."""

    account_id: str
    card_id: str
    is_there: bool = False
    is_blocked: bool = False
    pin: str | None = None
    tokens: deque[str] = field(default_factory=lambda: deque(maxlen=KNOWN_MAX))
    token_ids: deque[str] = field(default_factory=lambda: deque(maxlen=KNOWN_MAX))
    holds: deque[str] = field(default_factory=lambda: deque(maxlen=KNOWN_MAX))
    drawdowns: deque[str] = field(default_factory=lambda: deque(maxlen=KNOWN_MAX))


class Workload:
    """Makes messages. Its methods may be called by any thread."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._identity = x25519.Identity.generate()
        self._seal_to = {"seal_to": [str(self._identity.to_public())]}
        self._lock = Lock()
        self._number = 0
        self._generation = 0
        self._slots = [self._new_card(slot) for slot in range(SLOTS)]
        self._places = {card.card_id: slot for slot, card in enumerate(self._slots)}
        self._recent: deque[Message] = deque(maxlen=RECENT_MAX)
        self._variable: deque[tuple[str, str, Fields]] = deque(maxlen=RECENT_MAX)
        """Commands that may be sent once more with other content: task, command_id, fields."""
        self._choices: tuple[tuple[float, Callable[[], Message]], ...] = (
            (74, self._one),
            (6, self._list),
            (6, self._repeat),
            (3, self._conflict),
            (3, self._dry_run),
            (4, self._invalid),
            (4, self._garbage),
            (0.2, self._order),
        )
        self._commands: tuple[tuple[float, Callable[[Card], Made]], ...] = (
            (20, self._drawdown),
            (14, self._fund),
            (10, self._hold),
            (8, self._capture),
            (4, self._void),
            (6, self._refund),
            (4, self._adjust),
            (6, self._transfer),
            (16, self._by_token),
            (1, self._block),
            (3, self._unblock),
            (3, self._update),
            (0.7, self._close),
            (0.7, self._replace),
            (0.5, self._reverse),
            (1, self._create_token),
            (0.7, self._revoke_token),
            (0.5, self._rotate_pin),
            (1, self._expire),
        )

    def next(self) -> Message:
        """Return the next message."""
        with self._lock:
            made: Message = self._pick(self._choices)()
            if made.asked:
                self._recent.append(made)
            return made

    # --- messages -------------------------------------------------------------------------------

    def _one(self) -> Message:
        task, fields = self._command()
        command_id = self._next_id("c")
        if task == "transactions.create" and "card_id" in fields:
            self._variable.append((task, command_id, fields))
        return self._message(task, command_id, fields)

    def _list(self) -> Message:
        message_id = self._next_id("list-")
        asked, parts, unreadable = list[Asked](), list[Any](), list[str]()
        for place in range(self._chance.randint(2, LIST_MAX)):
            if self._chance.random() < 0.05:
                unreadable.append(f"cards.explode-{place}")
                parts.append({"command": unreadable[-1]})
                continue
            task, fields = self._command()
            command_id = self._next_id("c")
            parts.append({"command": task, "command_id": command_id, **fields})
            asked.append(_asked(task, command_id, fields))
        raw_body = json.dumps([[], {"commands": parts}, {}]).encode()
        raw = self._raw(message_id, raw_body, "commands.apply")
        if not unreadable:
            return Message(raw, "cards.bulk", asked)
        # A list without a readable command is a dead letter itself.
        mark = f"{message_id}:bad" if asked else message_id
        return Message(raw, "cards.bulk", asked, [Garbage(mark, parts=tuple(unreadable))])

    def _repeat(self) -> Message:
        if not self._recent:
            return self._one()
        before = self._chance.choice(self._recent)
        return Message(before.raw, before.queue)

    def _conflict(self) -> Message:
        """Return other content under the key of an earlier command."""
        if not self._variable:
            return self._one()
        task, command_id, fields = self._variable.popleft()
        return self._message(task, command_id, {**fields, "amount": fields["amount"] + 1})

    def _dry_run(self) -> Message:
        task, fields = self._command()
        del_pin = {name: value for name, value in fields.items() if name != "pin"}
        return self._message(task, self._next_id("dry-"), {**del_pin, "dry_run": True})

    def _invalid(self) -> Message:
        card = self._chance.choice(self._slots)
        task, fields = self._drawdown(card)
        wrong: Fields = self._chance.choice(
            [{"amount": -5}, {"amount": "5"}, {"currency": "XXX"}, {"foreign": 1}, {"ref_id": ""}]
        )
        return self._message(task, self._next_id("bad-"), {**fields, **wrong})

    def _garbage(self) -> Message:
        kind = self._chance.choice(list(GARBAGE))
        # No mark may be the beginning of another one.
        mark = f"{self._next_id('garbage-')}."
        return Message(GARBAGE[kind](mark), "cards", garbage=[Garbage(mark)])

    def _order(self) -> Message:
        name = self._next_id("order-")
        asked = {"count": ORDER_CARDS, "card_id_pattern": f"{name}-{{n:04d}}"}
        return self._message("cards.batch_create", name, {"account_id": ACCOUNTS[0], **asked})

    def _message(self, task: str, command_id: str, fields: Fields) -> Message:
        kwargs = {"command_id": command_id, **fields}
        raw = self._raw(command_id, json.dumps([[], kwargs, {}]).encode(), task)
        return Message(raw, _queue(task), [_asked(task, command_id, fields)])

    def _raw(self, id: str, raw_body: bytes, task: str) -> bytes:
        headers = {"ignore_result": self._chance.random() < 0.8}
        info = {"routing_key": _queue(task)}
        return message(id, raw_body, task=task, headers=headers, delivery_info=info)

    def _next_id(self, prefix: str) -> str:
        self._number += 1
        return f"{prefix}{self._number}"

    # --- commands -------------------------------------------------------------------------------

    def _command(self) -> Made:
        card = self._chance.choice(self._slots)
        if not card.is_there and self._chance.random() < 0.8:
            return self._begin(card)
        make = self._unblock if card.is_blocked else self._pick(self._commands)
        if card.is_blocked and self._chance.random() < 0.6:
            make = self._pick(self._commands)
        task, fields = make(card)
        if self._chance.random() < 0.03:
            fields["not_after"] = _in(self._chance.randint(10, 40))
        return task, fields

    def _begin(self, card: Card) -> Made:
        asked = {**_names(card), "amount": self._chance.randrange(2_000, 50_000), **NOK}
        if self._chance.random() < 0.15:
            asked["expires_at"] = _in(self._chance.randint(10, 90))
        if self._chance.random() < 0.05:
            asked["active_from"] = _in(self._chance.randint(5, 9))
        match self._chance.randrange(10):
            case 0 | 1:
                listed = {"account_id": card.account_id, "cards": [{"card_id": card.card_id}]}
                return "cards.batch_create", listed
            case 2 | 3:
                return "cards.activate", asked
            case 4 | 5 | 6:
                return "cards.create", {**asked, "card_token": {}, "pin": {}, **self._seal_to}
        return "cards.create", asked

    def _drawdown(self, card: Card) -> Made:
        return "transactions.create", {**_names(card), **self._movement(5_000)}

    def _fund(self, card: Card) -> Made:
        return "transactions.create", {**_names(card), **self._movement(5_000), "type": "fund"}

    def _hold(self, card: Card) -> Made:
        asked = {**_names(card), **self._movement(3_000), "pending": True}
        if self._chance.random() < 0.5:
            asked["hold_expires_in"] = self._chance.randint(1, 40)
        return "transactions.create", asked

    def _by_token(self, card: Card) -> Made:
        if not card.tokens:
            return self._drawdown(card)
        asked = {"account_id": card.account_id, "token": self._chance.choice(card.tokens)}
        asked |= self._movement(2_000)
        if card.pin is not None and self._chance.random() < 0.95:
            # The PINs of some cards are guessed at, so that they are locked.
            is_guessed = self._places.get(card.card_id, 0) % 4 == 0
            is_right = self._chance.random() < (0.2 if is_guessed else 0.65)
            asked["pin"] = card.pin if is_right else WRONG_PIN
        return "transactions.create", asked

    def _capture(self, card: Card) -> Made:
        return "transactions.capture", self._by_transaction(card, card.holds)

    def _void(self, card: Card) -> Made:
        asked = self._by_transaction(card, card.holds)
        asked.pop("amount", None)
        return "transactions.void", asked

    def _refund(self, card: Card) -> Made:
        return "transactions.refund", self._by_transaction(card, card.drawdowns)

    def _by_transaction(self, card: Card, known: deque[str]) -> Fields:
        asked: Fields = {"account_id": card.account_id, "ref_id": self._next_id("r")}
        asked["transaction_id"] = self._chance.choice(known) if known else NOBODY
        if self._chance.random() < 0.6:
            asked["amount"] = self._chance.randrange(1, 3_000)
        return asked

    def _adjust(self, card: Card) -> Made:
        amount = self._chance.choice([-1, 1]) * self._chance.randrange(1, 1_000)
        moved = {**_names(card), "ref_id": self._next_id("r"), "amount": amount, **NOK}
        return "cards.adjust", {**moved, **WHY}

    def _transfer(self, card: Card) -> Made:
        others = [other for other in self._slots if other.account_id == card.account_id]
        to = self._chance.choice([other for other in others if other is not card])
        moved = {"ref_id": self._next_id("r"), "amount": self._chance.randrange(1, 3_000)}
        return "cards.transfer", {**_names(card), **moved, "to_card_id": to.card_id}

    def _block(self, card: Card) -> Made:
        return "cards.block", {**_names(card), **WHY}

    def _unblock(self, card: Card) -> Made:
        return "cards.unblock", {**_names(card), **WHY}

    def _update(self, card: Card) -> Made:
        return "cards.update", {**_names(card), "name": self._next_id("name-")}

    def _close(self, card: Card) -> Made:
        return "cards.close", {**_names(card), **WHY}

    def _replace(self, card: Card) -> Made:
        self._generation += 1
        return "cards.replace", {
            **_names(card),
            **WHY,
            "new_card_id": f"{card.card_id.partition('.')[0]}.{self._generation}",
        }

    def _reverse(self, card: Card) -> Made:
        return "cards.reverse_activation", _names(card)

    def _create_token(self, card: Card) -> Made:
        asked = {"ref_id": self._next_id("t"), "expires_in": self._chance.randint(5, 600)}
        return "tokens.create", {**_names(card), **asked, **self._seal_to}

    def _revoke_token(self, card: Card) -> Made:
        named = self._chance.choice(card.token_ids) if card.token_ids else NOBODY
        return "tokens.revoke", {**_names(card), "token_id": named}

    def _rotate_pin(self, card: Card) -> Made:
        return "cards.rotate_pin", {**_names(card), "pin": {}, **self._seal_to}

    def _expire(self, card: Card) -> Made:
        return "cards.expire", _names(card)

    def _movement(self, amount_max: int) -> Fields:
        amount = self._chance.randrange(1, amount_max)
        return {"ref_id": self._next_id("r"), "amount": amount, **NOK}

    def _pick(self, choices: tuple[tuple[float, Any], ...]) -> Any:
        weights = [weight for weight, _ in choices]
        return self._chance.choices([one for _, one in choices], weights)[0]

    # --- what events tell -----------------------------------------------------------------------

    def learn(self, event: Event) -> None:
        """Take in what an event tells of a card."""
        data = event["data"]
        with self._lock:
            place = self._places.get(data.get("card_id", ""))
            if place is None or data.get("dry_run") or "card" not in data:
                return
            card, moved = self._slots[place], data["transaction"]
            match event["type"]:
                case "card.created" | "card.activated":
                    card.is_there = True
                case "card.closed" | "card.expired" | "card.activation_reversed":
                    self._put(place, self._new_card(place))
                case "card.replaced":
                    after = Card(card.account_id, data["other_card_id"], is_there=True)
                    self._put(place, after)
                case "hold.placed":
                    card.holds.append(moved["id"])
                case "card.drawn_down" | "hold.captured":
                    card.drawdowns.append(moved["id"])
                case _:
                    pass
            card.is_blocked = data["card"]["status"] == "blocked"
            if "token" in data:
                card.token_ids.append(data["token"]["id"])
            if "sealed" in data:
                self._open(card, data["sealed"])

    def _open(self, card: Card, sealed: str) -> None:
        secrets = json.loads(pyrage.decrypt(sealed.encode(), [self._identity]))
        if secrets.get("token") is not None:
            card.tokens.append(secrets["token"])
        if secrets.get("pin") is not None:
            card.pin = secrets["pin"]

    def _new_card(self, slot: int) -> Card:
        self._generation += 1
        return Card(ACCOUNTS[slot % len(ACCOUNTS)], f"card-{slot}.{self._generation}")

    def _put(self, place: int, card: Card) -> None:
        self._places.pop(self._slots[place].card_id, None)
        self._slots[place] = card
        self._places[card.card_id] = place


NOK = {"currency": "NOK"}
WHY = {"reason": "because"}


def _names(card: Card) -> Fields:
    return {"account_id": card.account_id, "card_id": card.card_id}


def _asked(task: str, command_id: str, fields: Fields) -> Asked:
    pin = fields.get("pin") if task == "transactions.create" else None
    named = None if pin is None else "wrong" if pin == WRONG_PIN else "right"
    return Asked(command_id, task, card_id=fields.get("card_id"), pin=named)


def _queue(task: str) -> str:
    return "cards.bulk" if task in BULK else "cards.system" if task in SYSTEM else "cards"


def _in(seconds: int) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")
