"""A plain model of the contract, written from docs/reference alone.

It takes commands in order and gives the events that the worker has to publish. Nothing here comes
from the worker's own rules: where both disagree, one of them or the page is wrong.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
Json = dict[str, Any]

_reason = json.loads((REFERENCE / "schemas/events/command.rejected.json").read_text())
_reason = _reason["$defs"]["Reason"]
REASONS: list[str] = _reason["enum"]
"""In the order in which they are given, if several apply."""
MESSAGES = dict(re.findall(r"^- `(\w+)`: (.*)$", _reason["description"], re.M))

STATUSES = ("inactive", "closed", "expired", "blocked", "unused", "used", "partially_used")
ALLOWED: dict[str, dict[str, str]] = {}
"""For each command and status (`–` without a card): `yes`, or the reason of the refusal."""
for _line in (REFERENCE / "states.md").read_text().splitlines():
    if _line.startswith("| `"):
        _command, *_cells = (cell.strip().replace("`", "") for cell in _line.strip("|").split("|"))
        ALLOWED[_command] = dict(zip((*STATUSES, "–"), _cells, strict=True))

FORMS = {
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",
    "sealed": r"-----BEGIN AGE ENCRYPTED FILE-----\n(?s:.*)-----END AGE ENCRYPTED FILE-----\n",
    "text": r".*",
    "any": r"(?s:.*)",
}
WRONG_PINS_MAX = 5
"""So many lock a PIN: for longer than a run."""
ABSENT = object()


class Later:
    """A value that the worker chooses: any of its form at first, the same one from then on."""

    def __init__(self, form: str) -> None:
        self.form = form
        self.value: Any = None

    def fits(self, actual: object) -> bool:
        if self.value is None and re.fullmatch(FORMS[self.form], str(actual)):
            self.value = actual
        return self.value is not None and actual == self.value

    def __repr__(self) -> str:
        return str(self.value or f"<{self.form}>")


@dataclass
class Token:
    id: Later
    ref_id: str | None
    format: Any
    expires_after_transaction: bool
    expires_at: Later | None
    sealed: Later | None = None
    masked: Later = field(default_factory=lambda: Later("text"))
    secret: str | None = None
    spent: bool = False
    revoked: bool = False

    def view(self) -> Json:
        return {
            "id": self.id,
            "ref_id": self.ref_id,
            "masked_code": self.masked,
            "format": self.format,
            "expires_at": self.expires_at,
            "expires_after_transaction": self.expires_after_transaction,
        }


@dataclass
class Transaction:
    view: Json
    hold: Json | None = None
    refunded: int = 0


@dataclass
class Card:
    account_id: str
    card_id: str
    type: str
    name: str | None
    created_by: str | None
    originated_by: str | None
    metadata: Any = None
    id: Later = field(default_factory=lambda: Later("uuid"))
    created_at: Later = field(default_factory=lambda: Later("time"))
    batch: str | None = None
    currency: str | None = None
    amount: int = 0
    customer_id: str | None = None
    active_from: str | None = None
    expires_at: str | None = None
    is_active: bool = False
    is_closed: bool = False
    is_blocked: bool = False
    replaced_by: str | None = None
    activation: int = 0
    activated_by: str | None = None
    activated_from: str | None = None
    version: int = 0
    funds: int = 0
    drawdown: int = 0
    balance: int = 0
    pending: int = 0
    reserved: int = 0
    posted: int = 0
    """Transactions since the activation."""
    tokens: tuple[Later, ...] = ()
    pin: Any = None
    pin_secret: str | None = None
    wrong_pins: int = 0
    locked_until: Later | None = None
    transactions: tuple[Later, ...] = ()

    @property
    def available(self) -> int:
        return self.balance - self.reserved

    @property
    def status(self) -> str:
        if not self.is_active and not self.is_closed:
            return "inactive"
        if self.is_closed:
            return "closed"
        if self.expires_at and is_past(self.expires_at):
            return "expired"
        if self.is_blocked:
            return "blocked"
        if self.drawdown == 0:
            return "unused"
        return "used" if self.balance == 0 else "partially_used"


@dataclass
class Rules:
    """The rules of an account; see docs/how-to/account-rules.md."""

    currencies: tuple[str, ...] | None = None
    load_max: int = 2**53
    balance_max: int = 2**53
    extends_expiry: bool = True
    has_recipients: bool = True


class Refused(Exception):
    """The command is refused."""


def utc(text: str | None) -> str | None:
    """Return a time as events show it."""
    if text is None:
        return None
    time = datetime.fromisoformat(text.upper()).astimezone(UTC)
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03d}Z"


def is_past(text: str) -> bool:
    return datetime.fromisoformat(text.upper()) <= datetime.now(UTC)


def not_started(card: Card) -> bool:
    return card.active_from is not None and not is_past(card.active_from)


def check(**applies: object) -> None:
    """Refuse for the first reason that applies."""
    for reason in REASONS:
        if applies.get(reason):
            raise Refused(reason)


def typed(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip()


def complete(format: Json | None, length: int, **more: Any) -> Json:
    """Return a format with its defaults."""
    kinds = dict.fromkeys(("symbols", "numbers", "characters"))
    return {**kinds, "unambiguous": False, "length": length, **more, **(format or {})}


class Model:
    """All accounts, and the answers that commands have had."""

    def __init__(self, rules: dict[str, Rules] | None = None) -> None:
        self.rules = rules or {}
        self.cards: dict[tuple[str, str], Card] = {}
        self.money: dict[Later, Transaction] = {}
        self.tokens: dict[Later, Token] = {}
        self.batches: dict[tuple[str, str], Json] = {}
        self.members: dict[tuple[str, str], list[str]] = {}
        self.answers: dict[tuple[Any, ...], tuple[Json, Json]] = {}
        self.more: list[Json] = []

    # --- one command ---------------------------------------------------------------------------

    def handle(self, name: str, fields: Json, problems: Sequence[str]) -> list[Json]:
        """Return the answer, and the other events that the command leads to."""
        self.command, self.fields, self.problems = name, fields, [*problems]
        self.account, self.is_malformed = fields["account_id"], bool(problems)
        self.more = []
        key = self._key()
        content = {k: v for k, v in fields.items() if k not in ("command_id", "not_after", "pin")}
        content = {"command": name} | {k: v for k, v in content.items() if v is not None}
        if key in self.answers and self.answers[key][0] != content:
            # The refusal of other fields has a key of its own.
            key = (*key, json.dumps(content))
            if key not in self.answers:
                self.answers[key] = content, self._rejected("idempotency_conflict")
                return [self.answers[key][1]]
        if key in self.answers:
            first = self.answers[key][1]
            if first["correlationid"] != fields["command_id"]:
                key = (*key, "repeat", fields["command_id"])
                if key not in self.answers:
                    data = self._data(event=first)
                    repeat = self._envelope("command.repeated", first["subject"], data)
                    self.answers[key] = content, repeat
            return [self.answers[key][1]]
        self.kept = kept = (
            dict(self.cards),
            dict(self.money),
            dict(self.tokens),
            dict(self.batches),
        )
        try:
            check(invalid=problems)
            if not name.startswith("cards.batch"):
                self._check_dates()
            check(stale_command=self._is_stale())
            answer = getattr(self, "do_" + name.replace(".", "_"))(**self._given())
            events = [answer, *self.more]
            if fields.get("dry_run"):
                self.cards, self.money, self.tokens, self.batches = kept
                answer.pop("sequence", None)
                events = [answer]
        except Refused as refused:
            self.cards, self.money, self.tokens, self.batches = kept
            events = [self._rejected(str(refused)), *self.more]
        self.answers[key] = content, events[0]
        return events

    def _key(self) -> tuple[Any, ...]:
        fields = self.fields
        dry = fields.get("dry_run") is True
        if "ref_id" not in fields or self.problems:
            return self.account, dry, fields["command_id"]
        named = next(
            n for n in ("card_id", "transaction_id", "token", "") if fields.get(n) or not n
        )
        kind = self.command == "tokens.create"
        return self.account, dry, kind, named, fields.get(named), fields["ref_id"]

    def _given(self) -> Json:
        common = ("account_id", "command_id", "not_after", "created_by", "originated_by", "dry_run")
        return {k: v for k, v in self.fields.items() if k not in common}

    def _is_stale(self) -> bool:
        return bool(self.fields.get("not_after")) and is_past(self.fields["not_after"])

    # --- events --------------------------------------------------------------------------------

    def _envelope(self, type: str, subject: str, data: Json, *, answer: bool = True) -> Json:
        event = {
            "specversion": "1.0",
            "id": Later("uuid"),
            "source": f"/card-worker/{self.account}",
            "type": type,
            "subject": subject,
            "time": Later("time"),
            "datacontenttype": "application/json",
            "partitionkey": f"{self.account}/{subject}",
            "correlationid": self.fields["command_id"],
            "data": data,
        }
        return event | ({"answer": True} if answer else {})

    def _data(self, **more: Any) -> Json:
        data = {
            "command": self.command,
            "command_id": self.fields["command_id"],
            "account_id": self.account,
        }
        dry = {"dry_run": True} if self.fields.get("dry_run") is True else {}
        return data | dry | {k: v for k, v in more.items() if v is not ABSENT}

    def _rejected(self, reason: str) -> Json:
        more: Json = {"reason": reason, "message": MESSAGES[reason]}
        if self.problems and reason != "idempotency_conflict":
            more["problems"] = [{"field": name, "message": Later("text")} for name in self.problems]
        fields = self.fields
        named = fields.get("card_id") if "card_id" not in self.problems else None
        card = self.cards.get((self.account, named)) if named else None
        if card and reason not in ("invalid", "idempotency_conflict") and not self.waits(card):
            more["status"] = card.status
            if reason == "exceeds_available":
                more |= {"amount_available": card.available, "amount_reserved": card.reserved}
        if not named and fields.get("transaction_id") and not self.problems:
            money = self._found(fields["transaction_id"])
            named = money.view["card_id"] if money else None
        if named:
            more["card_id"] = named
        batch = None if self.is_malformed else fields.get("batch_id")
        subject = named or batch or fields["command_id"]
        return self._envelope("command.rejected", subject, self._data(**more))

    def _event(self, type: str, card: Card, tx: Later | None = None, **more: Any) -> Json:
        card.version += 1
        for key in ("transaction", "token"):
            if key in more:
                more[key] = more[key].view()
        if tx:
            self.money[tx].view["version"] = card.version
        if self.fields.get("reason") is not None:
            more["reason_text"] = self.fields["reason"]
        data = self._data(
            card_id=card.card_id,
            version=card.version,
            card=self.card_view(card),
            transaction=dict(self.money[tx].view) if tx else None,
            **more,
        )
        event = self._envelope(type, card.card_id, data)
        return event | {"sequence": f"{card.version:020d}"}

    def _also(self, event: Json) -> None:
        del event["answer"]
        event["data"].pop("reason_text", None)
        self.more.append(event)

    def card_view(self, card: Card) -> Json:
        """Return a card as events and queries show it."""
        same = (
            "account_id card_id id type currency amount customer_id name originated_by metadata "
            "active_from expires_at status created_at created_by activation activated_by "
            "activated_from version"
        )
        tokens = [self.tokens[token] for token in card.tokens]
        return {name: getattr(card, name) for name in same.split()} | {
            "amount_funds": card.funds,
            "amount_drawdown": card.drawdown,
            "amount_balance": card.balance,
            "amount_pending": card.pending,
            "amount_reserved": card.reserved,
            "amount_available": card.available,
            "tokens": [t.view() for t in tokens if not t.spent and not t.revoked],
            "pin": card.pin and {"format": card.pin, "locked_until": card.locked_until},
        }

    def batch_view(self, account_id: str, batch_id: str) -> Json:
        """Return a batch as queries show it."""
        batch = self.batches[account_id, batch_id]
        pattern = batch["card_id_pattern"]
        made = {"card_id_pattern": None if pattern is ABSENT else pattern, "last_error": None}
        return {"account_id": account_id} | batch | made

    # --- the books -----------------------------------------------------------------------------

    def _get(self, card_id: str | None) -> Card | None:
        """Return a copy of a card that may be changed."""
        card = self.cards.get((self.account, card_id or ""))
        return self._put(copy(card)) if card else None

    def _put(self, card: Card) -> Card:
        self.cards[card.account_id, card.card_id] = card
        return card

    def _state(self, card: Card | None, column: str = "") -> Json:
        """Return the reason for which the state of a card forbids a command, if it does."""
        word = ALLOWED[column or self.command][card.status if card else "–"]
        if card and self.waits(card):
            return {"batch_state": True}
        ref_id = None if self.command == "tokens.create" else self.fields.get("ref_id")
        ids = card.transactions if card and ref_id and not column.endswith("card") else ()
        in_use = any(self.money[id].view["ref_id"] == ref_id for id in ids)
        return {"idempotency_conflict": in_use, word: word != "yes"}

    def waits(self, card: Card) -> bool:
        """Return whether the card is of a batch that waits for approval."""
        batch = self.batches.get((card.account_id, card.batch or ""))
        return batch is not None and batch["state"] == "awaiting_approval"

    def _need(self, card_id: str | None) -> Card:
        card = self._get(card_id)
        check(**self._state(card))
        assert card
        return card

    def _found(self, transaction_id: str) -> Transaction | None:
        """Return a transaction of the account by the id that the worker gave it."""
        for id, money in reversed(self.money.items()):
            if id.value == transaction_id and money.view["account_id"] == self.account:
                return money
        return None

    def _post(
        self, card: Card, type: str, amount: int, debit: str, credit: str, **more: Any
    ) -> Later:
        before = card.balance
        if credit == "card":
            card.balance += amount
        elif debit == "card":
            card.balance -= amount
        elif debit == "available":
            card.reserved += amount
            card.pending += amount
        else:
            card.reserved -= amount
        if type == "fund":
            card.funds += amount
        elif type == "drawdown":
            card.drawdown += amount
        elif type == "reversal":
            card.funds -= amount
        id = Later("uuid")
        view = {
            "id": id,
            "account_id": self.account,
            "card_id": card.card_id,
            "type": type,
            "amount": amount,
            "currency": card.currency,
            "debit": debit,
            "credit": credit,
            "ref_id": self.fields.get("ref_id"),
            "parent_id": None,
            "funding": None,
            "metadata": self.fields.get("metadata"),
            "originated_by": self.fields.get("originated_by"),
            "created_at": Later("time"),
            "created_by": self.fields.get("created_by"),
            "balance_before": before,
            "balance_after": card.balance,
        }
        self.money[id] = Transaction(view | more)
        card.transactions += (id,)
        card.posted += 1
        return id

    def _limits(self, balance: int, *, load: int = 0, currency: str | None = None) -> Json:
        rules = self.rules.get(self.account, Rules())
        return {
            "limit_exceeded": load > rules.load_max or balance > rules.balance_max,
            "currency_mismatch": currency and currency not in (rules.currencies or (currency,)),
        }

    # --- cards ---------------------------------------------------------------------------------

    def do_cards_create(
        self, *, card_id: str, amount: int, currency: str, funding: str = "sold",
        type: str = "gift_card", customer_id: str | None = None, name: str | None = None,
        active_from: str | None = None, expires_at: str | None = None, metadata: Any = None,
        card_token: Any = None, pin: Any = None, seal_to: Any = None,
    ) -> Json:  # fmt: skip
        if card_token is not None or pin is not None:
            self._need_recipients()
        check(
            card_exists=(self.account, card_id) in self.cards,
            **self._limits(amount, load=amount, currency=currency),
        )
        by, origin = self.fields.get("created_by"), self.fields.get("originated_by")
        card = self._put(Card(self.account, card_id, type, name, by, origin))
        more: Json = {}
        if card_token is not None:
            self._issue(card, card_token)
        if pin is not None:
            card.pin = self._pin_format(pin)
        if card.pin or card.tokens:
            more["sealed"] = self._sealed()
        return self._activated(
            "card.created", card, amount=amount, currency=currency, funding=funding,
            customer_id=customer_id, name=name, metadata=metadata,
            active_from=active_from, expires_at=expires_at, more=more,
        )  # fmt: skip

    def _activated(
        self, type: str, card: Card, *, amount: int, currency: str, funding: str,
        customer_id: str | None, name: str | None, metadata: Any,
        active_from: str | None, expires_at: str | None, more: Json,
    ) -> Json:  # fmt: skip
        card.is_active, card.currency, card.amount = True, currency, amount
        card.customer_id, card.name, card.metadata = customer_id, name, metadata
        card.active_from, card.expires_at = utc(active_from), utc(expires_at)
        card.activation += 1
        card.activated_by = self.fields.get("created_by")
        card.activated_from = self.fields.get("originated_by")
        tx = None
        if amount:
            tx = self._post(card, "fund", amount, "issuer", "card", funding=funding, metadata=None)
        card.posted = 0
        return self._event(type, card, tx, **more)

    def do_cards_activate(
        self, *, card_id: str, amount: int, currency: str, funding: str = "sold",
        customer_id: str | None = None, name: str | None = None, card_token: Any = None,
        metadata: Any = None, active_from: str | None = None, expires_at: str | None = None,
    ) -> Json:  # fmt: skip
        card = self._need(card_id)
        check(
            card_blocked=card.is_blocked,
            token_not_found=card_token is not None and not card.tokens,
            **self._limits(amount, load=amount, currency=currency),
        )
        if card_token is not None:
            for id in card.tokens:
                token = self.tokens[id] = copy(self.tokens[id])
                if card_token.get("expires_after_transaction") is not None:
                    token.expires_after_transaction = card_token["expires_after_transaction"]
                if card_token.get("expires_in") is not None:
                    token.expires_at = Later("time")
        return self._activated(
            "card.activated", card, amount=amount, currency=currency, funding=funding,
            customer_id=customer_id, name=name if name is not None else card.name,
            metadata=metadata if metadata is not None else card.metadata,
            active_from=active_from, expires_at=expires_at, more={},
        )  # fmt: skip

    def do_cards_reverse_activation(self, *, card_id: str, reason: str | None = None) -> Json:
        card = self._need(card_id)
        check(not_reversible=card.posted)
        tx = None
        if card.balance:
            tx = self._post(card, "reversal", card.balance, "card", "issuer")
        card.is_active, card.currency, card.amount = False, None, 0
        card.customer_id = card.active_from = card.expires_at = None
        card.activated_by = card.activated_from = None
        return self._event("card.activation_reversed", card, tx)

    def do_cards_update(self, *, card_id: str, **changes: Any) -> Json:
        card = self._need(card_id)
        if "expires_at" in changes:
            changes["expires_at"] = utc(changes["expires_at"])
            check(expiry_not_later=not card.expires_at or changes["expires_at"] <= card.expires_at)
        for name, value in changes.items():
            setattr(card, name, value)
        return self._event("card.updated", card)

    def do_cards_block(self, *, card_id: str, reason: str) -> Json:
        card = self._need(card_id)
        check(card_blocked=card.is_blocked)
        card.is_blocked = True
        return self._event("card.blocked", card)

    def do_cards_unblock(self, *, card_id: str, reason: str) -> Json:
        card = self._need(card_id)
        check(card_not_blocked=not card.is_blocked and not card.locked_until)
        card.is_blocked, card.wrong_pins, card.locked_until = False, 0, None
        return self._event("card.unblocked", card)

    def do_cards_close(self, *, card_id: str, reason: str) -> Json:
        card = self._need(card_id)
        check(exceeds_available=card.reserved)
        tx = None
        if card.balance:
            tx = self._post(card, "cash_out", card.balance, "card", "customer")
        card.is_closed = True
        return self._event("card.closed", card, tx)

    def do_cards_replace(self, *, card_id: str, new_card_id: str, reason: str) -> Json:
        card, new = self._get(card_id), self._get(new_card_id)
        blocked = {"card_blocked": True} if new and new.is_blocked else {}
        check(**self._state(card) | self._state(new, "cards.replace, the new card") | blocked)
        assert card
        check(exceeds_available=card.reserved)
        by, origin = self.fields.get("created_by"), self.fields.get("originated_by")
        type = "card.activated" if new else "card.created"
        if not new:
            new = self._put(Card(self.account, new_card_id, card.type, card.name, by, origin))
        amount = card.balance
        new.is_active, new.currency, new.amount = True, card.currency, amount
        new.customer_id, new.name, new.metadata = card.customer_id, card.name, card.metadata
        new.active_from, new.expires_at = card.active_from, card.expires_at
        new.activation += 1
        new.activated_by, new.activated_from = by, origin
        out = self._post(card, "transfer", amount, "card", "other_card") if amount else None
        card.is_closed, card.replaced_by = True, new_card_id
        answer = self._event("card.replaced", card, out, other_card_id=new_card_id)
        into = self._post(new, "transfer", amount, "other_card", "card") if amount else None
        new.posted = 1
        self._also(self._event(type, new, into, other_card_id=card_id))
        return answer

    def do_cards_transfer(
        self, *, card_id: str, ref_id: str, to_card_id: str, amount: int | None = None
    ) -> Json:
        card, other = self._get(card_id), self._get(to_card_id)
        check(**(self._state(card) | self._state(other, "cards.transfer, the other card")))
        assert card
        assert other
        amount = card.available if amount is None else amount
        rules = self.rules.get(self.account, Rules())
        later = card.expires_at and (not other.expires_at or other.expires_at > card.expires_at)
        check(
            card_not_started=not_started(card),
            expiry_mismatch=later and not rules.extends_expiry,
            **self._limits(other.balance + amount)
            | {"currency_mismatch": card.currency != other.currency},
            exceeds_available=amount > card.available or not amount,
        )
        out = self._post(card, "transfer", amount, "card", "other_card")
        answer = self._event("card.transferred_out", card, out, other_card_id=to_card_id)
        into = self._post(other, "transfer", amount, "other_card", "card", ref_id=None)
        self._also(self._event("card.transferred_in", other, into, other_card_id=card_id))
        return answer

    def do_cards_adjust(
        self, *, card_id: str, ref_id: str, amount: int, currency: str, reason: str,
        funding: str = "sold",
    ) -> Json:  # fmt: skip
        card = self._need(card_id)
        check(
            **self._limits(card.balance + amount)
            | {"currency_mismatch": currency != card.currency},
            exceeds_available=-amount > card.available,
        )
        if amount > 0:
            tx = self._post(card, "adjustment", amount, "issuer", "card", funding=funding)
        else:
            tx = self._post(card, "adjustment", -amount, "card", "issuer")
        return self._event("card.adjusted", card, tx)

    def do_cards_expire(self, *, card_id: str) -> Json:
        card = self._need(card_id)
        return self._event("card.expired", card)

    # --- tokens and PINs -----------------------------------------------------------------------

    def _issue(self, card: Card, options: Json, ref_id: str | None = None) -> Token:
        format = options.get("format")
        if format is not None:
            format = complete(format, 36, prefix="", barcode=None)
        once = options.get("expires_after_transaction")
        token = Token(
            Later("uuid"), ref_id, format, bool(once),
            Later("time") if options.get("expires_in") else None,
        )  # fmt: skip
        self.tokens[token.id] = token
        card.tokens += (token.id,)
        return token

    def _pin_format(self, options: Json) -> Json:
        return complete(options.get("format") or {"numbers": True}, 4)

    def _need_recipients(self) -> None:
        rules = self.rules.get(self.account, Rules())
        if self.fields.get("seal_to") is None and not rules.has_recipients:
            self._invalid("seal_to")

    def _sealed(self) -> Any:
        return ABSENT if self.fields.get("dry_run") else Later("sealed")

    def do_cards_rotate_pin(self, *, card_id: str, pin: Json, seal_to: Any = None) -> Json:
        self._need_recipients()
        card = self._need(card_id)
        card.pin, card.pin_secret = self._pin_format(pin), None
        card.wrong_pins, card.locked_until = 0, None
        return self._event("card.pin_rotated", card, sealed=self._sealed())

    def do_tokens_create(
        self, *, card_id: str, ref_id: str, expires_in: int, expires_after_transaction: bool = True,
        format: Any = None, metadata: Any = None, seal_to: Any = None,
    ) -> Json:  # fmt: skip
        self._need_recipients()
        card = self._need(card_id)
        options = {"format": format, "expires_in": expires_in}
        options["expires_after_transaction"] = expires_after_transaction
        token = self._issue(card, options, ref_id)
        return self._event("token.created", card, token=token, sealed=self._sealed())

    def do_tokens_revoke(self, *, card_id: str, token_id: str) -> Json:
        card = self._need(card_id)
        found = [self.tokens[id] for id in card.tokens if id.value == token_id]
        check(token_not_found=not found or found[0].revoked, token_spent=found and found[0].spent)
        token = self.tokens[found[0].id] = copy(found[0])
        token.revoked = True
        return self._event("token.revoked", card, token=token)

    def _by_token(self, text: str, pin: str | None) -> tuple[Card, Token]:
        """Return the card that a token and a PIN open."""
        text = typed(text)
        bare = re.sub("[ -]", "", text)
        for token in self.tokens.values():
            secret = token.secret
            if secret and (text == secret or (bare == secret and not re.search("[ -]", secret))):
                break
        else:
            raise Refused("card_not_usable")
        holder = next(card for card in self.cards.values() if token.id in card.tokens)
        if token.revoked or holder.account_id != self.account:
            raise Refused("card_not_usable")
        # A card that can't be spent from can't be used with its token at all.
        unusable = ALLOWED["transactions.create"][holder.status] != "yes"
        unusable |= self.fields.get("type") != "fund" and not_started(holder)
        check(token_spent=token.spent)
        unusable |= holder.locked_until is not None
        check(card_not_usable=unusable, pin_required=holder.pin and pin is None)
        if pin is not None:
            self._try_pin(holder, pin)
        return self._put(copy(holder)), token

    def _try_pin(self, card: Card, pin: str | None) -> None:
        """Compare a PIN and count it. What is refused is undone, but not this."""
        check(card_not_usable=card.locked_until or card.pin is None)
        if pin and typed(pin) == card.pin_secret:
            card.wrong_pins = 0
            return
        card.wrong_pins += 1
        if card.wrong_pins == WRONG_PINS_MAX:
            card.locked_until = Later("time")
            self._also(self._event("card.pin_locked", card))
        raise Refused("card_not_usable")

    # --- transactions --------------------------------------------------------------------------

    def do_transactions_create(
        self, *, ref_id: str, amount: int, currency: str, card_id: str | None = None,
        token: str | None = None, pin: str | None = None, type: str = "drawdown",
        funding: str = "sold", pending: bool = False, hold_expires_in: int | None = None,
        metadata: Any = None,
    ) -> Json:  # fmt: skip
        used = None
        column = "transactions.create" + (" fund" if type == "fund" else "")
        if token is not None:
            card, used = self._by_token(token, pin)
        else:
            found = self._get(card_id)
            early = found is not None and type == "drawdown" and not_started(found)
            check(**self._state(found, column) | {"card_not_started": early})
            assert found
            if pin is not None:
                self._try_pin(self.kept[0][found.account_id, found.card_id], pin)
            card = found
        limits = self._limits(card.balance + amount) if type == "fund" else {}
        check(
            **self._state(card, column),
            token_spent=used and used.spent,
            **{
                "card_not_usable" if token else "card_not_started": type == "drawdown"
                and not_started(card)
            },
            **limits | {"currency_mismatch": card.currency and currency != card.currency},
            exceeds_available=type == "drawdown" and amount > card.available,
        )
        if used and used.expires_after_transaction:
            used = self.tokens[used.id] = copy(used)
            used.spent = True
        if type == "fund":
            tx = self._post(card, "fund", amount, "issuer", "card", funding=funding)
            return self._event("card.funded", card, tx)
        if not pending:
            tx = self._post(card, "drawdown", amount, "card", "merchant")
            return self._event("card.drawn_down", card, tx)
        tx = self._post(card, "pending_capture", amount, "available", "reserved")
        hold = {"id": tx, "amount": amount, "amount_captured": 0, "amount_released": 0}
        hold |= {"amount_open": amount, "expires_at": Later("time") if hold_expires_in else None}
        self.money[tx].hold = hold
        return self._event("hold.placed", card, tx, hold=dict(hold))

    def _hold(self, transaction_id: str) -> tuple[Card, Transaction, Json]:
        money = self._found(transaction_id)
        check(hold_not_found=not money or not money.hold)
        assert money
        assert money.hold
        card = self._get(money.view["card_id"])
        assert card
        check(**self._state(card), hold_closed=not money.hold["amount_open"])
        new = self.money[money.view["id"]] = copy(money)
        new.hold = dict(money.hold)
        return card, new, new.hold

    def do_transactions_capture(
        self, *, transaction_id: str, ref_id: str, amount: int | None = None, final: bool = False,
        metadata: Any = None,
    ) -> Json:  # fmt: skip
        card, money, hold = self._hold(transaction_id)
        amount = hold["amount_open"] if amount is None else amount
        check(exceeds_hold=amount > hold["amount_open"])
        hold["amount_captured"] += amount
        hold["amount_open"] -= amount
        card.reserved -= amount
        tx = self._post(card, "drawdown", amount, "card", "merchant", parent_id=money.view["id"])
        answer = self._event("hold.captured", card, tx, hold=dict(hold))
        if final and hold["amount_open"]:
            self._also(self._release("hold.voided", card, money, hold, ref_id=None, metadata=None))
        return answer

    def do_transactions_void(
        self, *, transaction_id: str, ref_id: str, metadata: Any = None
    ) -> Json:
        card, money, hold = self._hold(transaction_id)
        return self._release("hold.voided", card, money, hold)

    def _release(self, type: str, card: Card, money: Transaction, hold: Json, **more: Any) -> Json:
        amount = hold["amount_open"]
        hold["amount_released"] += amount
        hold["amount_open"] = 0
        id = money.view["id"]
        tx = self._post(card, "voided", amount, "reserved", "available", parent_id=id, **more)
        return self._event(type, card, tx, hold=dict(hold))

    def do_transactions_refund(
        self, *, transaction_id: str, ref_id: str, amount: int | None = None, metadata: Any = None
    ) -> Json:
        money = self._found(transaction_id)
        check(transaction_not_found=not money or money.view["type"] != "drawdown")
        assert money
        card = self._get(money.view["card_id"])
        while card and card.replaced_by:
            card = self._get(card.replaced_by)
        assert card
        left = money.view["amount"] - money.refunded
        amount = left if amount is None else amount
        check(
            **self._state(card),
            exceeds_drawdown=amount > left or not left,
            **self._limits(card.balance + amount),
        )
        money = self.money[money.view["id"]] = copy(money)
        money.refunded += amount
        id = money.view["id"]
        tx = self._post(card, "fund", amount, "issuer", "card", parent_id=id)
        return self._event("card.refunded", card, tx)

    def do_holds_expire(self, *, transaction_id: str) -> Json:
        card, money, hold = self._hold(transaction_id)
        check(not_due=True)
        return self._release("hold.expired", card, money, hold)

    # --- batches -------------------------------------------------------------------------------

    def do_cards_batch_create(
        self, *, cards: Any = None, count: int = 0, card_id_pattern: str | None = None,
        batch_id: str | None = None, type: str = "gift_card", name: str | None = None,
        metadata: Any = None, options: Any = None, seal_to: Any = None, seal_pins_to: Any = None,
        needs_approval: bool = False,
    ) -> Json:  # fmt: skip
        batch_id = batch_id or self.fields["command_id"]
        by, origin = self.fields.get("created_by"), self.fields.get("originated_by")
        if needs_approval and by is None:
            self._invalid("created_by")
        given = cards is not None
        if cards is None:
            pattern = card_id_pattern or ""
            cards = [{"card_id": pattern.replace("{n}", str(n))} for n in range(1, count + 1)]
        ids = [card["card_id"] for card in cards]
        twice = [n for n, id in enumerate(ids) if ids.count(id) > 1 and id not in ids[:n]]
        taken = [n for n, id in enumerate(ids) if (self.account, id) in self.cards]
        exists = (self.account, batch_id) in self.batches
        if twice or not exists:
            where = "cards.{}.card_id" if given else "card_id_pattern"
            self.problems = [where.format(n) for n in twice or taken]
        check(duplicate_in_batch=twice, card_exists=taken, batch_state=exists)
        made = []
        for asked in cards:
            kind = asked.get("type") or type
            card = self._put(Card(self.account, asked["card_id"], kind, None, by, origin))
            card.batch, card.version = batch_id, 1
            made.append(card)
        state = "awaiting_approval" if needs_approval else "completed" if given else "running"
        batch = {
            "batch_id": batch_id, "state": state, "requested": len(made),
            "created": len(made) if state == "completed" else 0,
            "name": name, "metadata": metadata, "created_by": by, "approved_by": None,
            "card_id_pattern": card_id_pattern or ABSENT,
        }  # fmt: skip
        self.batches[self.account, batch_id] = batch
        self.members[self.account, batch_id] = ids
        if state == "awaiting_approval":
            return self._about("batch.awaiting_approval", batch)
        if given:
            return self._completed(batch)
        return self._make("batch.accepted", batch)

    def _check_dates(self) -> None:
        start, end = self.fields.get("active_from"), self.fields.get("expires_at")
        if end and (is_past(end) or (start and str(utc(start)) >= str(utc(end)))):
            self._invalid("expires_at")

    def _invalid(self, *problems: str) -> None:
        self.problems = [*problems]
        raise Refused("invalid")

    def _about(self, type: str, batch: Json, **more: Any) -> Json:
        return self._envelope(type, batch["batch_id"], self._data(**batch | more))

    def _make(self, type: str, batch: Json) -> Json:
        """Make the cards of an order; the answer is from before."""
        answer = self._about(type, batch)
        batch |= {"state": "completed", "created": batch["requested"]}
        self._also(self._completed(batch))
        return answer

    def _completed(self, batch: Json) -> Json:
        cards: Any = ABSENT
        if batch["card_id_pattern"] is ABSENT:
            names = self.members[self.account, batch["batch_id"]]
            cards = [
                {"id": card.id, "card_id": name, "type": card.type, "status": "inactive",
                 "masked_code": None}
                for name in names
                for card in (self.cards[self.account, name],)
            ]  # fmt: skip
        return self._about("batch.completed", batch, cards=cards, file=None)

    def _batch(self, batch_id: str) -> Json:
        batch = self.batches.get((self.account, batch_id))
        check(batch_not_found=not batch)
        assert batch
        self.batches[self.account, batch_id] = batch = dict(batch)
        return batch

    def do_batches_approve(self, *, batch_id: str, reason: str | None = None) -> Json:
        by, batch = self.fields.get("created_by"), self.batches.get((self.account, batch_id))
        if by is None or (batch and by == batch["created_by"]):
            self._invalid("created_by")
        batch = self._batch(batch_id)
        check(batch_state=batch["state"] != "awaiting_approval")
        batch |= {"state": "running", "approved_by": by}
        answer = self._make("batch.approved", batch)
        if reason is not None:
            answer["data"]["reason_text"] = reason
        return answer

    def do_batches_cancel(self, *, batch_id: str, reason: str | None = None) -> Json:
        batch = self._batch(batch_id)
        check(batch_state=batch["state"] not in ("awaiting_approval", "completed"))
        was_complete = batch["state"] == "completed"
        batch["state"] = "cancelled"
        text = ABSENT if reason is None else reason
        answer = self._about("batch.cancelled", batch, reason_text=text)
        if was_complete:
            self._recall(batch, "cancel", "card_closed", 1, batch["requested"], reason=reason)
        else:
            for card_id in self.members[self.account, batch_id]:
                del self.cards[self.account, card_id]
        return answer

    def do_batches_block(
        self, *, batch_id: str, reason: str, first: int = 1, last: Any = None
    ) -> Json:
        return self._recalling(batch_id, "block", "card_blocked", first, last, reason=reason)

    def do_batches_unblock(
        self, *, batch_id: str, reason: str, first: int = 1, last: Any = None
    ) -> Json:
        return self._recalling(batch_id, "unblock", "card_not_blocked", first, last, reason=reason)

    def do_batches_close(
        self, *, batch_id: str, reason: str, first: int = 1, last: Any = None
    ) -> Json:
        return self._recalling(batch_id, "close", "card_closed", first, last, reason=reason)

    def do_batches_extend(
        self, *, batch_id: str, expires_at: str, first: int = 1, last: Any = None
    ) -> Json:
        return self._recalling(batch_id, "extend", "", first, last, expires_at=expires_at)

    def _recalling(
        self, batch_id: str, action: str, already: str, first: int, last: int | None, **more: Any
    ) -> Json:
        batch = self._batch(batch_id)
        if max(first, last or 0) > batch["requested"]:
            self._invalid("last" if last else "first")
        check(batch_state=not batch["created"])
        last = last or batch["requested"]
        view = {"action": action, "first": first, "last": last}
        view |= {"done": 0, "already": 0, "refused": 0}
        text = {"reason_text": more["reason"]} if "reason" in more else {}
        answer = self._about("batch.recalling", batch, recall=view, **text)
        self._recall(batch, action, already, first, last, **more)
        return answer

    def _recall(
        self, batch: Json, action: str, already: str, first: int, last: int, **more: Any
    ) -> None:
        """Do a command on each card, as one of the worker's own."""
        own = self.command, self.fields
        counts = {"done": 0, "already": 0, "refused": 0}
        name = {"extend": "update", "cancel": "withdraw"}.get(action, action)
        do = getattr(self, f"do_cards_{name}")
        if action != "cancel":
            self.command = f"cards.{name}"
        for card_id in self.members[self.account, batch["batch_id"]][first - 1 : last]:
            self.fields = {**own[1], **more, "card_id": card_id, "command_id": Later("text")}
            del self.fields["batch_id"]
            before = self.cards[self.account, card_id]
            try:
                event = do(card_id=card_id, **more)
                del event["answer"]
                counts["done"] += 1
            except Refused as refused:
                event = self._rejected(str(refused))
                same = before.expires_at == utc(more.get("expires_at")) and before.expires_at
                counts["already" if str(refused) == already or same else "refused"] += 1
            self.more.append(event)
        self.command, self.fields = own
        view = {"action": action, "first": first, "last": last, **counts}
        file = Later("any") if counts["refused"] and action != "cancel" else None
        self._also(self._about("batch.recalled", batch, recall=view, file=file))

    def do_cards_withdraw(self, *, card_id: str, reason: str | None) -> Json:
        card = self._get(card_id)
        assert card
        check(card_closed=card.is_closed, card_already_active=card.is_active and not card.is_closed)
        card.is_closed = True
        return self._event("card.closed", card)
