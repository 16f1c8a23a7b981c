"""Draws commands that lead cards into many states, wrong ones among them."""

import re
from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

from tests.differential.model import Card, Json, Later, Model

ACCOUNTS = ("T00000001", "T00000001", "T00000002", "P00000003")
"""The first one is drawn more often; T00000002 has rules; P00000003 has no recipients."""
CURRENCIES = ("NOK", "NOK", "NOK", "NOK", "SEK", "EUR")
FUNDINGS = ("sold", "promotional", "compensation")
CARDS_AT_ONCE = 14
COMMANDS_PER_CARD = 18
PAST = "2020-02-29T12:00:00+02:00"
FUTURE = ("2091-01-01T00:00:00Z", "2091-06-01T23:59:59.9999+01:00", "2095-01-01t00:00:00z")
METADATA: tuple[Any, ...] = ({}, {"a": [1, 2.5, None, "ø"]}, {"dintero_transaction_id": "T1"})
FORMATS = (
    {"numbers": True, "length": 16},
    {"characters": True, "numbers": True, "length": 24, "prefix": "GC:"},
    {"numbers": True, "characters": False, "symbols": True, "unambiguous": True, "length": 30},
)
IS_SYSTEM = ("cards.expire", "holds.expire")
DEEP: Any = 1
for _ in range(9):
    DEEP = {"a": DEEP}

WRONG: dict[str, tuple[Any, ...]] = {
    "amount": (5.0, "5", True, -(2**53), 2**53, [1]),
    "currency": ("nok", "XXX", "", 1),
    "card_id": ("", " a", "a ", "a\u200b", "a\n", "\u00a0", "x" * 256, 7, "a\u00ad"),
    "to_card_id": ("", "a\tb"),
    "new_card_id": ("", "\ufeff"),
    "ref_id": ("", "r ", "x" * 256, 1, ["r"]),
    "reason": ("", "x" * 256, "two\nlines", "\u202e"),
    "name": ("x" * 256, "a\tb", 5, "\u2028"),
    "customer_id": ("", "a\u200db", 5),
    "created_by": ("x" * 256, "\u0007", 1.5),
    "originated_by": ("", " ", "x" * 256),
    "not_after": ("2026-02-30T00:00:00Z", "2026-01-01", "2026-01-01T00:00:00", 1, "now"),
    "expires_at": ("2026-13-01T00:00:00Z", 17),
    "active_from": ("2091-01-01T24:00:00Z", "tomorrow"),
    "metadata": (DEEP, [], "x", {"dintero_x": 1}, {"a": "\0"}, {"a": "x" * 17_000}),
    "dry_run": ("true", 1, 0),
    "funding": ("gift", ""),
    "type": ("coupon", ""),
    "pending": ("yes", 1),
    "final": (0, "no"),
    "transaction_id": ("1", "x" * 36, 5),
    "token_id": ("1", ""),
    "expires_in": (0, -1, 316_224_001, 1.5, "60"),
    "hold_expires_in": (0, 316_224_001),
    "seal_to": ([], "age1x", ["age1x"], ["ssh-rsa"]),
    "pin": (5, ""),
    "token": (5, ""),
    "batch_id": ("", " b", "x" * 256),
    "cards": ([], "x", {}),
    "count": (0, 10_000_001, 1.5),
    "unknown": (1, "x"),
}


REQUIRED = {
    "currency",
    "ref_id",
    "reason",
    "transaction_id",
    "to_card_id",
    "new_card_id",
    "token_id",
}
DEPENDENT = {"funding", "pending", "hold_expires_in"}
REASONED = {"cards.block", "cards.unblock", "cards.close", "cards.replace", "cards.adjust"}
"""Those that need a reason."""


class Command(NamedTuple):
    name: str
    fields: Json
    problems: Sequence[str] = ()
    """The fields with wrong content."""


class Commands:
    """Commands drawn by a seed; what the model knows so far chooses what they name."""

    def __init__(self, seed: int, model: Model, recipient: str) -> None:
        self.random = Random(seed)
        self.model = model
        self.recipient = recipient
        self.drawn = 0
        self.recent: list[Command] = []
        self.kinds = {
            self.create: 8, self.activate: 5, self.reverse: 3, self.update: 4, self.block: 3,
            self.unblock: 4, self.close: 1, self.replace: 2, self.transfer: 6, self.adjust: 5,
            self.expire: 1, self.hold_expire: 1, self.batch: 2, self.rotate: 2,
            self.token: 3, self.revoke: 1, self.pay: 20, self.pay_by_token: 8, self.capture: 8,
            self.void: 4, self.refund: 8, self.again: 8,
        }  # fmt: skip
        self.lasting = {self.order: 3, self.approve: 2, self.cancel: 1, self.recall: 4}
        """Kinds that go on after their answer."""

    def draw(self, *, listed: bool, lasting: bool = False) -> Command:
        """Return the next command; only a listed one may be of another queue than `cards`."""
        kinds = self.lasting if lasting else self.kinds
        self.listed = listed
        self.drawn += 1
        self.account = self.random.choice(ACCOUNTS)
        kind = self.random.choices([*kinds], weights=[*kinds.values()])[0]
        name, fields, *problems = kind()
        if kind == self.again:
            command = Command(name, fields, problems[0])
        else:
            fields = self._common() | {k: v for k, v in fields.items() if v is not ...}
            command = self._spoilt(Command(name, fields, problems[0] if problems else []))
        if not listed and (command.name in IS_SYSTEM or command.name == "cards.batch_create"):
            return self.draw(listed=listed, lasting=lasting)
        if not lasting:
            self.recent = [*self.recent[-80:], command]
        return command

    def _common(self) -> Json:
        draw = self.random.random
        fields: Json = {"account_id": self.account, "command_id": f"command-{self.drawn}"}
        if draw() < 0.2:
            fields["created_by"] = self.random.choice(["kari", "", None])
        if draw() < 0.2:
            fields["originated_by"] = self.random.choice(["till 7", None])
        if draw() < 0.04:
            fields["not_after"] = self.random.choice([PAST, *FUTURE, None])
        if draw() < 0.05:
            fields["dry_run"] = self.random.random() < 0.9
        return fields

    def _spoilt(self, command: Command) -> Command:
        """Return the command, sometimes with wrong content."""
        name, fields, problems = command
        if fields.get("dry_run") and "pin" in fields and name == "transactions.create":
            return Command(name, fields, ["pin"])
        if problems or self.random.random() > 0.06:
            return command
        fields = dict(fields)
        field = self.random.choice([*fields, "unknown", "not_after", "created_by", "dry_run"])
        if field in WRONG and (self.random.random() < 0.8 or field not in fields):
            wrong = self.random.choice(WRONG[field])
            # In a list this is nested too deep for a message: all of it becomes a dead letter.
            fields[field] = [] if wrong is DEEP and self.listed else wrong
            if name == "transactions.create" and field in ("type", "pending"):
                # Whether these are allowed depends on the field that is wrong.
                fields = {k: v for k, v in fields.items() if k not in DEPENDENT or k == field}
            if field == "pin" and name != "transactions.create":
                fields[field] = 5
            return Command(name, fields, [field])
        if field in REQUIRED and (field != "reason" or name in REASONED):
            del fields[field]
            return Command(name, fields, [field])
        return command

    def _some(self, *values: Any, rarely: float = 0.25) -> Any:
        """Return one of the values, or ... for none."""
        return self.random.choice(values) if self.random.random() < rarely else ...

    # --- what commands name --------------------------------------------------------------------

    def _card_id(self) -> str:
        first = self.drawn // COMMANDS_PER_CARD // len(ACCOUNTS) * 2
        if self.random.random() < 0.01:
            return "nothing"
        return f"card-{first + self.random.randrange(CARDS_AT_ONCE)}"

    def _card(self, *statuses: str) -> str:
        """Return a card, most often in one of these states."""
        ids = [self._card_id() for _ in range(6)]
        cards = {id: self.model.cards.get((self.account, id)) for id in ids}
        fit = [id for id, card in cards.items() if card and card.status in statuses]
        return self.random.choice(fit) if fit and self.random.random() < 0.9 else ids[0]

    def _active(self) -> str:
        return self._card("unused", "used", "partially_used")

    def _amount(self, card_id: str) -> int:
        card = self.model.cards.get((self.account, card_id))
        available = card.available if card else 0
        choice = self.random.choice
        return choice([1, 100, choice([1, 2500, 90_000]), max(available, 1), available + 1,
                       max(available // 2, 1), max(available // 3, 1)])  # fmt: skip

    def _currency(self, card_id: str) -> str:
        card = self.model.cards.get((self.account, card_id))
        if card and card.currency and self.random.random() < 0.95:
            return card.currency
        return self.random.choice(CURRENCIES)

    def _ref(self) -> str:
        """Return a new reference, or rarely a recent one."""
        return f"ref-{self.drawn - (self.random.random() < 0.04) * self.random.randint(1, 60)}"

    def _money(self, *types: str) -> str:
        """Return the id of a transaction, most often of one of these types."""
        known: list[tuple[str, Any]] = [
            (id.value, money)
            for id, money in [*self.model.money.items()][-400:]
            if id.value and money.view["account_id"] == self.account
        ]
        fit = [id for id, money in known if money.view["type"] in types and not done(money)]
        if fit and self.random.random() < 0.85:
            return self.random.choice(fit[-25:])
        some = [id for id, _ in known]
        if some and self.random.random() < 0.9:
            return self.random.choice(some)
        return f"00000000-0000-4000-8000-{self.drawn:012d}"

    def _sealing(self) -> Any:
        return self._some([self.recipient], rarely=0.9)

    # --- commands ------------------------------------------------------------------------------

    def create(self) -> Any:
        once = {"expires_in": 316_224_000, "expires_after_transaction": True}
        token = self._some({}, {"format": self.random.choice(FORMATS)}, once)
        pin = self._some({}, {"format": {"numbers": True, "length": 6}})
        return "cards.create", {
            "card_id": self._card_id(), **self._load(), "type": self._some("credit_note"),
            "card_token": token, "pin": pin, "seal_to": self._sealing(),
        }  # fmt: skip

    def _load(self) -> Json:
        return {
            "amount": self.random.choice([0, 1, 5000, 50_000, 50_000, 120_000]),
            "currency": self.random.choice(CURRENCIES),
            "funding": self._some(*FUNDINGS),
            "customer_id": self._some("kunde 1", None),
            "name": self._some("Gave", "", None),
            "active_from": self._some("2090-01-01T00:00:00Z", PAST, rarely=0.08),
            "expires_at": self._some(*FUTURE, *FUTURE, PAST, rarely=0.4),
            "metadata": self._some(*METADATA, None),
        }

    def activate(self) -> Any:
        fields = {"card_id": self._card("inactive"), **self._load()}
        fields["card_token"] = self._some({}, {"expires_after_transaction": True}, rarely=0.1)
        return "cards.activate", fields

    def reverse(self) -> Any:
        return "cards.reverse_activation", {
            "card_id": self._card("unused"), "reason": self._some("wrong card", None)
        }  # fmt: skip

    def update(self) -> Any:
        fields = {
            "name": self._some("Ny", "", None, rarely=0.4),
            "customer_id": self._some("kunde 2", None, rarely=0.4),
            "metadata": self._some(*METADATA, None, rarely=0.4),
            "expires_at": self._some(*FUTURE, PAST),
        }
        nothing = all(value is ... for value in fields.values())
        return "cards.update", {"card_id": self._active(), **fields}, [""] if nothing else []

    def block(self) -> Any:
        return "cards.block", {"card_id": self._card_id(), "reason": "lost"}

    def unblock(self) -> Any:
        return "cards.unblock", {"card_id": self._card("blocked"), "reason": "found"}

    def close(self) -> Any:
        return "cards.close", {"card_id": self._active(), "reason": "asked"}

    def replace(self) -> Any:
        card_id, new = self._active(), self._card("inactive")
        if self.random.random() < 0.4:
            new = f"new-{self.drawn}"
        return "cards.replace", {
            "card_id": card_id, "new_card_id": new, "reason": "worn"
        }, ["new_card_id"] if card_id == new else []  # fmt: skip

    def transfer(self) -> Any:
        card_id, other = self._active(), self._active()
        return "cards.transfer", {
            "card_id": card_id, "ref_id": self._ref(), "to_card_id": other,
            "amount": self._some(self._amount(card_id), rarely=0.8),
        }, ["to_card_id"] if card_id == other else []  # fmt: skip

    def adjust(self) -> Any:
        card_id = self._active()
        amount = self._amount(card_id) * self.random.choice([1, -1])
        return "cards.adjust", {
            "card_id": card_id, "ref_id": self._ref(), "amount": amount,
            "currency": self._currency(card_id), "reason": "count",
            "funding": self._some(*FUNDINGS) if amount > 0 else ...,
        }  # fmt: skip

    def expire(self) -> Any:
        return "cards.expire", {"card_id": self._card_id()}

    def hold_expire(self) -> Any:
        return "holds.expire", {"transaction_id": self._money("pending_capture")}

    def batch(self) -> Any:
        count = self.random.randint(1, 4)
        ids = [self._card_id() for _ in range(count)]
        if self.random.random() < 0.9:
            taken = self.model.cards
            ids = [*{id for id in ids if (self.account, id) not in taken}] or ids
        return self._batch(cards=[{"card_id": id} for id in sorted(ids)])

    def order(self) -> Any:
        first = self.random.choice([self.drawn, self.drawn // 1000])
        pattern = f"order-{first}-{{n}}"
        return self._batch(card_id_pattern=pattern, count=self.random.randint(1, 6))

    def _batch(self, **which: Any) -> Any:
        needs = self._some(True, rarely=0.2)
        return "cards.batch_create", {
            **which, "needs_approval": needs,
            "created_by": "kari" if needs is True and self.random.random() < 0.9 else ...,
            "batch_id": self._some(f"batch-{self.drawn}", f"batch-{self.drawn // 300}", rarely=0.8),
            "name": self._some("Juli"), "metadata": self._some(*METADATA),
            "type": self._some("credit_note"),
        }  # fmt: skip

    def _batch_id(self) -> str:
        ids = [id for account, id in [*self.model.batches][-15:] if account == self.account]
        return self.random.choice(ids) if ids and self.random.random() < 0.95 else "nothing"

    def approve(self) -> Any:
        by = self._some("kari", "ola", "ola", rarely=0.95)
        return "batches.approve", {"batch_id": self._batch_id(), "created_by": by}

    def cancel(self) -> Any:
        return "batches.cancel", {
            "batch_id": self._batch_id(), "reason": self._some("not needed")
        }  # fmt: skip

    def recall(self) -> Any:
        action = self.random.choice(["block", "unblock", "close", "extend"])
        fields = {"batch_id": self._batch_id(), "first": self._some(1, 2, 5), "reason": "recall"}
        fields["last"] = self._some(
            *(n for n in (1, 2, 5) if fields["first"] is ... or n >= fields["first"])
        )
        if action == "extend":
            fields |= {"reason": ..., "expires_at": self.random.choice(FUTURE)}
        return f"batches.{action}", fields

    def rotate(self) -> Any:
        pin = self.random.choice([{}, {"format": {"numbers": True, "length": 5}}])
        return "cards.rotate_pin", {
            "card_id": self._card_id(), "pin": pin, "seal_to": self._sealing()
        }  # fmt: skip

    def token(self) -> Any:
        return "tokens.create", {
            "card_id": self._active(), "ref_id": self._ref(), "expires_in": 316_224_000,
            "expires_after_transaction": self._some(True, False, rarely=0.5),
            "format": self._some(*FORMATS), "seal_to": self._sealing(),
        }  # fmt: skip

    def _tokens(self) -> list[tuple[Card, Later]]:
        cards = [self.model.cards.get((self.account, self._card_id())) for _ in range(10)]
        return [(card, id) for card in cards if card for id in card.tokens if id.value]

    def revoke(self) -> Any:
        known = self._tokens()
        if not known:
            return self.token()
        card, id = self.random.choice(known)
        return "tokens.revoke", {
            "card_id": card.card_id if self.random.random() < 0.9 else self._card_id(),
            "token_id": id.value,
        }  # fmt: skip

    def pay(self) -> Any:
        card_id = self._active()
        kinds: list[Json] = [{}, {}, {}, {"pending": True}, {"pending": True}, FUND, FUND]
        kind = dict(self.random.choice(kinds))
        if kind.get("type") == "fund":
            kind["funding"] = self._some(*FUNDINGS)
        elif kind:
            kind["hold_expires_in"] = self._some(316_224_000)
        return "transactions.create", {
            "card_id": card_id, "ref_id": self._ref(), "amount": self._amount(card_id),
            "currency": self._currency(card_id), "metadata": self._some(*METADATA),
            "pin": self._some("0000", rarely=0.02), **kind,
        }  # fmt: skip

    def pay_by_token(self) -> Any:
        known = [(card, self.model.tokens[id].secret) for card, id in self._tokens()]
        known = [(card, secret) for card, secret in known if secret]
        if not known:
            return self.pay()
        card, secret = self.random.choice(known)
        assert secret
        name, fields = self.pay()
        del fields["card_id"]
        fields["currency"] = self._currency(card.card_id)
        fields["token"] = self._typed(secret)
        if card.pin_secret and self.random.random() < 0.9:
            pins = [card.pin_secret, f" {wide(card.pin_secret)}", "wrong"]
            fields["pin"] = self.random.choices(pins, weights=[4, 2, 3])[0]
        return name, fields

    def _typed(self, secret: str) -> str:
        ways = [secret] * 4 + [f" {secret}\t", wide(secret), secret[:-1], secret.lower()]
        if not re.search("[ -]", secret):
            ways += ["-".join(re.findall(".{1,4}", secret)), " ".join(re.findall(".{1,5}", secret))]
        return self.random.choice(ways)

    def capture(self) -> Any:
        return "transactions.capture", {
            "transaction_id": self._money("pending_capture"), "ref_id": self._ref(),
            "amount": self._some(1, 50, 1250, 90_000, rarely=0.6), "final": self._some(True, False),
            "metadata": self._some(*METADATA),
        }  # fmt: skip

    def void(self) -> Any:
        return "transactions.void", {
            "transaction_id": self._money("pending_capture"), "ref_id": self._ref()
        }  # fmt: skip

    def refund(self) -> Any:
        return "transactions.refund", {
            "transaction_id": self._money("drawdown"), "ref_id": self._ref(),
            "amount": self._some(1, 50, 1250, 90_000, rarely=0.6),
            "metadata": self._some(*METADATA),
        }  # fmt: skip

    def again(self) -> Any:
        """Return an earlier command: unchanged, with another command_id, or changed."""
        if not self.recent:
            return (*self.pay(), [])
        name, fields, problems = self.random.choice(self.recent)
        fields, way = dict(fields), self.random.random()
        if {"ref_id", "card_id", "transaction_id", "token"} & {*problems}:
            way = 0
        if way > 0.4 and "ref_id" in fields:
            fields["command_id"] = f"command-{self.drawn}"
        if way > 0.75 and not problems:
            fields["originated_by"] = "elsewhere"
        if way < 0.05:
            return name, {**fields, "unknown": 1}, [*problems, "unknown"]
        return name, fields, problems


FUND: Json = {"type": "fund"}


def done(money: Any) -> bool:
    return bool(money.hold) and not money.hold["amount_open"]


def wide(text: str) -> str:
    """Return ASCII as full-width characters, as some keyboards type it."""
    return "".join(chr(ord(each) + 0xFEE0) if "!" <= each <= "~" else each for each in text)
