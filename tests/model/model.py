"""The same bookkeeping once more, the plain way: one dictionary a card, one function a command.

It knows nothing of the code it is compared with, and none of what makes that fast.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

Fields = dict[str, Any]
WINDOW = timedelta(hours=24)
FIRST_LOCK, LONGEST_LOCK = timedelta(minutes=15), timedelta(hours=24)


@dataclass
class Card:
    state: str
    currency: str | None = None
    load: int = 0
    funds: int = 0
    spent: int = 0
    balance: int = 0
    pending: int = 0
    blocked: bool = False
    starts: datetime | None = None
    ends: datetime | None = None
    since: datetime | None = None
    version: int = 1
    has_pin: bool = False
    wrong: int = 0
    """Wrong PINs since a right one."""
    locked: datetime | None = None
    """The end of the PIN's last lock."""
    moves: int = 0
    """Transactions since the activation, with its load."""
    successor: str | None = None

    def shows(self, now: datetime) -> str:
        if self.state in ("inactive", "closed"):
            return self.state
        if self.state == "expired" or (self.ends is not None and self.ends <= now):
            return "expired"
        if self.blocked:
            return "blocked"
        if self.spent == 0:
            return "unused"
        return "partially_used" if self.balance else "used"


@dataclass
class Hold:
    card: str
    left: int
    ends: datetime | None


@dataclass
class Token:
    card: str
    once: bool = False
    ends: datetime | None = None
    spent: bool = False
    revoked: bool = False
    issued: tuple[bool, datetime | None] | None = None
    """`once` and `ends` before the activation."""

    def serves(self, now: datetime) -> bool:
        return not (self.spent or self.revoked or (self.ends is not None and self.ends <= now))


class No(Exception):
    """The model refuses, too."""


ORDER = (
    *("card_not_found", "card_inactive", "card_already_active", "card_closed", "card_expired"),
    *("card_blocked", "card_not_started"),
)
"""Of several reasons against two cards, the first is given."""


def first_no(*checks: Callable[[], object]) -> None:
    """Refuse for the first of the reasons that the checks give."""
    nos = []
    for check in checks:
        try:
            check()
        except No as no:
            nos.append(no)
    if nos:
        raise min(nos, key=lambda no: ORDER.index(str(no)))


@dataclass
class Model:
    """What an account's cards have, and what came of each command."""

    cards: dict[str, Card] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)
    drawn: dict[str, list[Any]] = field(default_factory=dict)
    """[card, what is left to refund], by the drawdown's id."""
    refs: set[tuple[str, str]] = field(default_factory=set)
    tokens: dict[str, Token] = field(default_factory=dict)
    """By their values, which are TOKEN-0, TOKEN-1 …, in the order in which they are made."""
    right_pin: str = ""

    def do(self, task: str, asked: Fields, id: str, now: datetime) -> str:
        """Do a command whose event has this id; return what its answer is."""
        try:
            told: str = getattr(self, "_" + task.replace(".", "_"))(asked, id, now)
        except No as no:
            return str(no)
        return told

    def locked(self, card_id: str, now: datetime) -> int:
        return sum(
            hold.left
            for hold in self.holds.values()
            if hold.card == card_id and not (hold.ends is not None and hold.ends <= now)
        )

    def locked_by_rows(self, card_id: str) -> int:
        return sum(hold.left for hold in self.holds.values() if hold.card == card_id)

    # --- what all have in common ----------------------------------------------------------------

    def _card(self, name: str, now: datetime, *, refuses: str, once: Fields | None = None) -> Card:
        card = self.cards.get(name)
        if card is None:
            raise No("card_not_found")
        if once is not None:
            self._once(name, once)
        shows = card.shows(now)
        if shows in refuses.split():
            raise No(f"card_{shows}")
        return card

    def _once(self, name: str, asked: Fields) -> None:
        if (name, asked["ref_id"]) in self.refs:
            raise No("idempotency_conflict")

    def _tidy(self, name: str, now: datetime) -> Card:
        """Release what is due, an event each."""
        card = self.cards[name]
        for hold in self.holds.values():
            if hold.card == name and hold.left and hold.ends is not None and hold.ends <= now:
                hold.left = 0
                card.version += 1
                card.moves += 1
        return card

    def _accept(self, name: str, asked: Fields, now: datetime) -> Card:
        card = self._tidy(name, now)
        card.version += 1
        if "ref_id" in asked:
            self.refs.add((name, asked["ref_id"]))
            card.moves += 1
        return card

    def _started(self, card: Card, now: datetime) -> bool:
        return card.starts is None or card.starts <= now

    def _free(self, name: str, now: datetime) -> int:
        return self.cards[name].balance - self.locked(name, now)

    # --- beginnings -----------------------------------------------------------------------------

    def _begin(self, card: Card, asked: Fields, now: datetime) -> None:
        card.state, card.currency, card.since = "active", asked["currency"], now
        card.load = card.funds = card.balance = asked["amount"]
        card.starts, card.ends = asked.get("active_from"), asked.get("expires_at")
        card.moves = 1 if card.load else 0

    def _ends_well(self, asked: Fields, now: datetime) -> None:
        starts, ends = asked.get("active_from"), asked.get("expires_at")
        if ends is not None and (ends <= now or (starts is not None and ends <= starts)):
            raise No("invalid")

    def _cards_create(self, asked: Fields, _id: str, now: datetime) -> str:
        self._ends_well(asked, now)
        if asked["card_id"] in self.cards:
            raise No("card_exists")
        card = self.cards[asked["card_id"]] = Card("active")
        self._begin(card, asked, now)
        self._make_codes(asked["card_id"], asked, now)
        return "card.created"

    def _make_codes(self, name: str, asked: Fields, now: datetime) -> None:
        if "card_token" in asked:
            token = self.tokens[f"TOKEN-{len(self.tokens)}"] = Token(name)
            self._behave(token, asked["card_token"], now)
        self.cards[name].has_pin = "pin" in asked

    def _behave(self, token: Token, said: Fields, now: datetime) -> None:
        if "expires_in" in said:
            token.ends = now + timedelta(seconds=said["expires_in"])
        token.once = said.get("expires_after_transaction", token.once)

    def _cards_batch_create(self, asked: Fields, _id: str, now: datetime) -> str:
        names = [card["card_id"] for card in asked["cards"]]
        if len(set(names)) < len(names):
            raise No("duplicate_in_batch")
        if any(name in self.cards for name in names):
            raise No("card_exists")
        for name in names:
            self.cards[name] = Card("inactive")
            self._make_codes(name, asked.get("options", {}), now)
        return "batch.completed"

    def _cards_activate(self, asked: Fields, _id: str, now: datetime) -> str:
        self._ends_well(asked, now)
        card = self._card(asked["card_id"], now, refuses="closed expired")
        if card.state != "inactive":
            raise No("card_already_active")
        if card.blocked:
            raise No("card_blocked")
        usable = [
            token
            for token in self.tokens.values()
            if token.card == asked["card_id"] and token.serves(now)
        ]
        if "card_token" in asked and not usable:
            raise No("token_not_found")
        self._begin(card, asked, now)
        for token in self.tokens.values():
            if token.card == asked["card_id"] and token.serves(now):
                token.issued = token.once, token.ends
                self._behave(token, asked.get("card_token", {}), now)
        card.version += 1
        return "card.activated"

    def _cards_reverse_activation(self, asked: Fields, _id: str, now: datetime) -> str:
        card = self._card(asked["card_id"], now, refuses="inactive closed expired blocked")
        if card.moves != (1 if card.load else 0) or card.load != card.funds:
            raise No("not_reversible")
        if any(other.successor == asked["card_id"] for other in self.cards.values()):
            raise No("not_reversible")
        if card.since is not None and now - card.since > WINDOW:
            raise No("not_reversible")
        self.cards[asked["card_id"]] = Card(
            "inactive",
            version=card.version + 1,
            has_pin=card.has_pin,
            wrong=card.wrong,
            locked=card.locked,
        )
        for token in self.tokens.values():
            if token.card == asked["card_id"] and token.issued is not None:
                token.once, token.ends = token.issued
        return "card.activation_reversed"

    # --- days and ends --------------------------------------------------------------------------

    def _cards_update(self, asked: Fields, _id: str, now: datetime) -> str:
        ends = asked.get("expires_at")
        if ends is not None and ends <= now:
            raise No("invalid")
        card = self._card(asked["card_id"], now, refuses="closed")
        if ends is not None and (card.ends is None or ends <= card.ends):
            raise No("expiry_not_later")
        self._accept(asked["card_id"], asked, now)
        if ends is not None:
            card.ends = ends
            card.state = "active" if card.state == "expired" else card.state
        return "card.updated"

    def _cards_block(self, asked: Fields, _id: str, now: datetime) -> str:
        card = self._card(asked["card_id"], now, refuses="closed")
        if card.blocked:
            raise No("card_blocked")
        self._accept(asked["card_id"], asked, now).blocked = True
        return "card.blocked"

    def _cards_unblock(self, asked: Fields, _id: str, now: datetime) -> str:
        card = self._card(asked["card_id"], now, refuses="closed")
        if not card.blocked and card.locked is None:
            raise No("card_not_blocked")
        card = self._accept(asked["card_id"], asked, now)
        card.blocked, card.wrong, card.locked = False, 0, None
        return "card.unblocked"

    def _cards_close(self, asked: Fields, _id: str, now: datetime) -> str:
        self._card(asked["card_id"], now, refuses="inactive closed expired")
        if self.locked(asked["card_id"], now):
            raise No("exceeds_available")
        card = self._accept(asked["card_id"], asked, now)
        card.state, card.balance = "closed", 0
        return "card.closed"

    def _cards_replace(self, asked: Fields, _id: str, now: datetime) -> str:
        def new_one() -> None:
            if asked["new_card_id"] in self.cards:
                new = self._card(asked["new_card_id"], now, refuses="closed expired")
                if new.state != "inactive":
                    raise No("card_already_active")
                if new.blocked:
                    raise No("card_blocked")

        first_no(
            lambda: self._card(asked["card_id"], now, refuses="inactive closed expired"), new_one
        )
        if self.locked(asked["card_id"], now):
            raise No("exceeds_available")
        old = self._accept(asked["card_id"], asked, now)
        new = self.cards.get(asked["new_card_id"], Card("active", version=0))
        self.cards[asked["new_card_id"]] = Card(
            "active",
            old.currency,
            load=old.balance,
            balance=old.balance,
            starts=old.starts,
            ends=old.ends,
            since=now,
            version=new.version + 1,
            has_pin=new.has_pin,
            wrong=new.wrong,
            locked=new.locked,
            moves=1 if old.balance else 0,
        )
        old.successor = asked["new_card_id"]
        old.state, old.balance = "closed", 0
        return "card.replaced"

    def _cards_expire(self, asked: Fields, _id: str, now: datetime) -> str:
        card = self._card(asked["card_id"], now, refuses="inactive closed")
        if card.state == "expired":
            raise No("card_expired")
        if card.shows(now) != "expired":
            raise No("not_due")
        self._accept(asked["card_id"], asked, now).state = "expired"
        return "card.expired"

    # --- money ----------------------------------------------------------------------------------

    def _transactions_create(self, asked: Fields, id: str, now: datetime) -> str:
        funds, amount = asked.get("type") == "fund", asked["amount"]
        token = self._token(asked, now) if "token" in asked else None
        if token is None:
            name = asked["card_id"]
            refuses = "inactive closed expired" + ("" if funds else " blocked")
            card = self._card(name, now, refuses=refuses, once=asked)
            if not funds and not self._started(card, now):
                raise No("card_not_started")
        else:
            name = token.card
            card = self.cards[name]
        if "pin" in asked:
            self._guess(card, asked["pin"], now)
        self._once(name, asked)
        if asked["currency"] != card.currency:
            raise No("currency_mismatch")
        if not funds and amount > self._free(name, now):
            raise No("exceeds_available")
        self._accept(name, asked, now)
        if "pin" in asked:
            card.locked = None
        if token is not None:
            token.spent = token.once
        if funds:
            card.funds += amount
            card.balance += amount
            return "card.funded"
        if asked.get("pending"):
            lasts = asked.get("hold_expires_in")
            ends = None if lasts is None else now + timedelta(seconds=lasts)
            self.holds[id] = Hold(name, amount, ends)
            card.pending += amount
            return "hold.placed"
        self._spend(card, name, amount, id)
        return "card.drawn_down"

    def _token(self, asked: Fields, now: datetime) -> Token:
        token = self.tokens.get(asked["token"])
        if token is None or token.revoked:
            raise No("card_not_usable")
        if token.spent:
            raise No("token_spent")
        card = self.cards[token.card]
        lives = card.shows(now) in ("unused", "partially_used", "used")
        starts = asked.get("type") == "fund" or self._started(card, now)
        if not lives or not starts or not token.serves(now):
            raise No("card_not_usable")
        if card.locked is not None and now < card.locked:
            raise No("card_not_usable")
        if card.has_pin and "pin" not in asked:
            raise No("pin_required")
        return token

    def _guess(self, card: Card, pin: str, now: datetime) -> None:
        if not card.has_pin or (card.locked is not None and now < card.locked):
            raise No("card_not_usable")
        if pin != self.right_pin:
            card.wrong += 1
            if card.wrong >= 5:
                card.locked = now + min(FIRST_LOCK * 2 ** (card.wrong - 5), LONGEST_LOCK)
                card.version += 1
            raise No("card_not_usable")
        card.wrong = 0

    def _tokens_create(self, asked: Fields, _id: str, now: datetime) -> str:
        name = asked["card_id"]
        self._card(name, now, refuses="closed")
        self._accept(name, {}, now)
        ends = now + timedelta(seconds=asked["expires_in"])
        once = asked.get("expires_after_transaction", True)
        self.tokens[f"TOKEN-{len(self.tokens)}"] = Token(name, once, ends)
        return "token.created"

    def _tokens_revoke(self, asked: Fields, _id: str, now: datetime) -> str:
        name, token = asked["card_id"], self.tokens[asked["named"]]
        self._card(name, now, refuses="closed")
        if token.card != name or token.revoked:
            raise No("token_not_found")
        if token.spent:
            raise No("token_spent")
        self._accept(name, {}, now)
        token.revoked = True
        return "token.revoked"

    def _cards_rotate_pin(self, asked: Fields, _id: str, now: datetime) -> str:
        self._card(asked["card_id"], now, refuses="closed")
        card = self._accept(asked["card_id"], asked, now)
        card.has_pin, card.wrong, card.locked = True, 0, None
        return "card.pin_rotated"

    def _spend(self, card: Card, name: str, amount: int, id: str) -> None:
        card.spent += amount
        card.balance -= amount
        self.drawn[id] = [name, amount]

    def _hold(self, asked: Fields) -> Hold:
        hold = self.holds.get(asked["transaction_id"])
        if hold is None:
            raise No("hold_not_found")
        return hold

    def _transactions_capture(self, asked: Fields, id: str, now: datetime) -> str:
        hold = self._hold(asked)
        self._card(hold.card, now, refuses="inactive closed", once=asked)
        if not hold.left or (hold.ends is not None and hold.ends <= now):
            raise No("hold_closed")
        amount = asked.get("amount") or hold.left
        if amount > hold.left:
            raise No("exceeds_hold")
        card = self._accept(hold.card, asked, now)
        hold.left -= amount
        if asked.get("final") and hold.left:
            hold.left = 0
            card.version += 1
            card.moves += 1
        self._spend(card, hold.card, amount, id)
        return "hold.captured"

    def _transactions_void(self, asked: Fields, _id: str, now: datetime) -> str:
        hold = self._hold(asked)
        self._once(hold.card, asked)
        if not hold.left or (hold.ends is not None and hold.ends <= now):
            raise No("hold_closed")
        self._accept(hold.card, asked, now)
        hold.left = 0
        return "hold.voided"

    def _holds_expire(self, asked: Fields, _id: str, now: datetime) -> str:
        hold = self._hold(asked)
        if not hold.left:
            raise No("hold_closed")
        if hold.ends is None or hold.ends > now:
            raise No("not_due")
        # Its own release is the answer; those of others come besides.
        self._tidy(hold.card, now)
        return "hold.expired"

    def _transactions_refund(self, asked: Fields, _id: str, now: datetime) -> str:
        if asked["transaction_id"] not in self.drawn:
            raise No("transaction_not_found")
        drawn = self.drawn[asked["transaction_id"]]
        name, left = drawn
        while (successor := self.cards[name].successor) is not None:
            name = successor
        card = self._card(name, now, refuses="inactive closed expired", once=asked)
        if card.currency != self.cards[drawn[0]].currency:
            raise No("currency_mismatch")
        amount = asked.get("amount") or left
        if amount > left or left == 0:
            raise No("exceeds_drawdown")
        card = self._accept(name, asked, now)
        drawn[1] -= amount
        card.funds += amount
        card.balance += amount
        return "card.refunded"

    def _cards_adjust(self, asked: Fields, _id: str, now: datetime) -> str:
        name, amount = asked["card_id"], asked["amount"]
        card = self._card(name, now, refuses="inactive closed expired", once=asked)
        if asked["currency"] != card.currency:
            raise No("currency_mismatch")
        if -amount > self._free(name, now):
            raise No("exceeds_available")
        self._accept(name, asked, now).balance += amount
        return "card.adjusted"

    def _cards_transfer(self, asked: Fields, _id: str, now: datetime) -> str:
        name, to = asked["card_id"], asked["to_card_id"]

        def started() -> None:
            if name in self.cards and not self._started(self.cards[name], now):
                raise No("card_not_started")

        if name in self.cards:
            self._once(name, asked)
        refuses = "inactive closed expired blocked"
        first_no(
            lambda: self._card(name, now, refuses=refuses),
            started,
            lambda: self._card(to, now, refuses=refuses),
        )
        card, other = self.cards[name], self.cards[to]
        if other.currency != card.currency:
            raise No("currency_mismatch")
        amount = asked.get("amount") or self._free(name, now)
        if amount == 0 or amount > self._free(name, now):
            raise No("exceeds_available")
        self._accept(name, asked, now).balance -= amount
        # The reference is the first card's.
        other = self._accept(to, {}, now)
        other.balance += amount
        other.moves += 1
        return "card.transferred_out"
