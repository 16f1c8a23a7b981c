"""Stories: what is asked of cards and what comes of it, a line each.

    batch     B1: A1 A2                -> batch.completed
    activate  A1 500 NOK expires=+1d   -> card.activated      # A1: 500 unused
    activate  A1 500 NOK               -> command.rejected card_already_active
    hold      A1 200 NOK h1 lasts=+1h  -> hold.placed         # A1: 500 unused, 300 free
    capture   @h1 50                   -> hold.captured       # A1: 450 partially_used, 300 free
    wait      2d

Left of `->` stands the command, its card, batch or transaction, and its fields; right of it the
types of the events that come of it and, for a refusal, its reason. Behind `#` may stand what the
card shows afterwards: its balance, in whole units, its status, and what may be spent of it. A
lone word is the `ref_id` of a movement, by which `@` names its transaction. `given A1 closed` puts
a card into the books that no command can make, `turn A1 closed` lets one show that but keeps its
money. `account` sets the tenant's own rules.

    create    A1 500 NOK token pin       -> card.created
    token     A1 t1 lasts=+1h            -> token.created
    draw      $A1 5 NOK pin=right        -> card.drawn_down
    draw      $t1 5 NOK pin=wrong        -> command.rejected card_not_usable
    revoke    A1 $t1                     -> token.revoked

    order     B1: 20 A{n:02d} waits by=kari -> batch.awaiting_approval
    approve   B1 by=ola                  -> batch.approved
    made      B1
    block-all B1 first=3 last=5          -> batch.recalling

`made` lets an order be made as its chunks do. `token` and `pin` make a card with these, and `$`
names it by a token: that which it was made with, or that which has the reference. What the values
are is known as it is in the world: by opening what was sealed. `dry` before a command makes it a
dry run; `id=x` gives it a command_id of its own.
"""

import base64
import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Connection

from card_worker.contracts.commands import Command, event_id
from card_worker.contracts.enums import BatchState, CardType, Expiry, Reason, Status
from card_worker.contracts.json_text import write_time
from card_worker.contracts.message import UnreadableItem, read_commands
from card_worker.contracts.transactions import CreateTransaction
from card_worker.domain.access import record_attempt
from card_worker.domain.answers import Answer, answer
from card_worker.domain.books import Books
from card_worker.domain.decide import apply, decide
from card_worker.domain.events import CommandRejected, Decision, Event, IssuedSecrets
from card_worker.domain.ids import card_uuid
from card_worker.domain.orders import batch_card
from card_worker.domain.rows import Account, Card, Outcome, PinAttempt, State
from card_worker.domain.states import ByTransaction
from card_worker.money import Currency
from card_worker.secret_issuer import SecretIssuer
from card_worker.secrets.sealing import open_sealed
from tests.codes import OWNER, TOKEN_PEPPERS, VAULT, WRONG_PIN

ACCOUNT = "T00000001"
START = datetime(2026, 11, 22, 10, tzinfo=UTC)
CURRENCIES = {*Currency, "GBP"}
UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
TASKS = {
    "activate": "cards.activate",
    "adjust": "cards.adjust",
    "approve": "batches.approve",
    "batch": "cards.batch_create",
    "block-all": "batches.block",
    "cancel": "batches.cancel",
    "close-all": "batches.close",
    "extend-all": "batches.extend",
    "order": "cards.batch_create",
    "unblock-all": "batches.unblock",
    "block": "cards.block",
    "capture": "transactions.capture",
    "close": "cards.close",
    "create": "cards.create",
    "draw": "transactions.create",
    "expire": "cards.expire",
    "fund": "transactions.create",
    "hold": "transactions.create",
    "refund": "transactions.refund",
    "release": "holds.expire",
    "repin": "cards.rotate_pin",
    "revoke": "tokens.revoke",
    "token": "tokens.create",
    "replace": "cards.replace",
    "reverse": "cards.reverse_activation",
    "transfer": "cards.transfer",
    "unblock": "cards.unblock",
    "update": "cards.update",
    "void": "transactions.void",
}
CODES = ("token", "pin", "format", "many", "unsealed")
"""Words that are about these."""
ALWAYS: dict[str, dict[str, Any]] = {
    "repin": {"pin": {}, "seal_to": [OWNER.recipient]},
    "token": {"seal_to": [OWNER.recipient], "expires_in": 3600},
    "fund": {"type": "fund"},
    "hold": {"pending": True},
    **{
        word: {"reason": "because"}
        for word in (
            *("block", "unblock", "close", "replace", "adjust"),
            *("block-all", "unblock-all", "close-all"),
        )
    },
}
# A stored state, and what else makes a card show a status.
GIVEN: dict[str, dict[str, Any]] = {
    "inactive": {"state": State.INACTIVE},
    "closed": {"state": State.CLOSED, "currency": Currency.NOK},
    "expired": {"state": State.EXPIRED, "currency": Currency.NOK},
    "due": {"state": State.ACTIVE, "currency": Currency.NOK, "expires_at": START},
    "blocked": {"state": State.ACTIVE, "currency": Currency.NOK, "blocked": True},
    "inactive-blocked": {"state": State.INACTIVE, "blocked": True},
    "unused": {"state": State.ACTIVE, "currency": Currency.NOK},
    "used": {
        "state": State.ACTIVE,
        "currency": Currency.NOK,
        "amount_funds": 500,
        "amount_drawdown": 500,
    },
    "partially_used": {
        "state": State.ACTIVE,
        "currency": Currency.NOK,
        "amount_funds": 500,
        "amount_drawdown": 300,
        "amount_balance": 200,
    },
}


@dataclass
class Told:
    """What one line of a story came to."""

    line: str
    event: Event
    answer: Answer
    # What the card showed before, None if there was none.
    before: Status | None = None


@dataclass
class Story:
    """The books while a story runs over them, and what has been told so far."""

    books: Books = field(default_factory=Books)
    now: datetime = START
    told: list[Told] = field(default_factory=list)
    events: list[Answer] = field(default_factory=list)
    """All that came of it, the answers among them."""
    values: dict[str, str] = field(default_factory=dict)
    """Tokens by what the story calls them."""
    pins: dict[str, str] = field(default_factory=dict)
    """PINs by card_id."""

    def run(self, text: str) -> "Story":
        """Run every line; an AssertionError names the one that came out otherwise."""
        for line in (line.strip() for line in text.strip().splitlines()):
            if line:
                self._run_line(line)
        return self

    def card(self, card_id: str) -> Card:
        return self.books.cards[ACCOUNT, card_id]

    def _run_line(self, line: str) -> None:
        said, _, check = line.partition("#")
        asked, arrow, expected = (part.strip() for part in said.partition("->"))
        word, *words = asked.split()
        if word == "wait":
            self.now += _duration(words[0])
        elif word == "given":
            self._put(words[0], words[1])
        elif word == "turn":
            self._turn(words[0], words[1])
        elif word == "account":
            self._set_up(words)
        elif word == "made":
            self._make(words[0])
        else:
            assert arrow, f"no answer is expected: {line}"
            self._ask(line, asked, expected)
        if check:
            self._check(line, check)

    def decide(self, asked: str) -> Decision:
        """Return what a command would lead to; change nothing."""
        note_due_holds(self.books, self.now)
        return decide(self.books, self._command(asked), self.now)

    def _turn(self, card_id: str, kind: str) -> None:
        shown = {"state", "blocked", "expires_at"}
        given = {"blocked": False, "expires_at": None, **GIVEN[kind]}
        changed = {name: value for name, value in given.items() if name in shown}
        self.books.put_card(self.card(card_id)._replace(**changed))

    def _set_up(self, words: list[str]) -> None:
        rules: dict[str, Any] = dict(one.split("=") for one in words)
        if "approve_from" in rules:
            rules["approve_from"] = int(rules["approve_from"])
        for name in rules.keys() & {"load_max", "balance_max"}:
            rules[name] = int(rules[name]) * 100
        if "transfers_extend_expiry" in rules:
            rules["transfers_extend_expiry"] = rules["transfers_extend_expiry"] == "yes"
        if "window" in rules:
            rules["reversal_window_s"] = int(_duration(rules.pop("window")).total_seconds())
        if "expiry" in rules:
            rules["expiry"] = Expiry(rules["expiry"])
        if "currencies" in rules:
            rules["currencies"] = tuple(map(Currency, rules["currencies"].split(",")))
        if "recipients" in rules:
            rules["recipients"] = (OWNER.recipient,)
        self.books.accounts[ACCOUNT] = Account(ACCOUNT, **rules)

    def _make(self, batch_id: str) -> None:
        """Let an order be made, as its chunks do."""
        batch = self.books.batches[ACCOUNT, batch_id]
        for card_id in batch.card_ids(1, batch.requested):
            self.books.put_card(batch_card(batch, card_id, batch.type, has_codes=False))
        self.books.put_batch(
            batch._replace(
                state=BatchState.COMPLETED,
                created=batch.requested,
                busy=False,
                completed_at=self.now,
            )
        )

    def _put(self, card_id: str, kind: str) -> None:
        self.books.put_card(
            Card(
                id=card_uuid(ACCOUNT, card_id),
                account_id=ACCOUNT,
                card_id=card_id,
                type=CardType.GIFT_CARD,
                created_at=START,
                **GIVEN[kind],
            )
        )

    def _ask(self, line: str, asked: str, expected: str) -> None:
        command = self._command(asked)
        card = self._card_of(command)
        before = card.status(self.now) if card else None
        note_due_holds(self.books, self.now)
        self._note_pin_attempt(command)
        self.books.now = self.now
        decided = decide(self.books, command, self.now)
        # Tokens without a format are looked for in no database.
        decided = SecretIssuer(VAULT).fill(cast(Connection, None), self.books, decided)
        if isinstance(command, CreateTransaction) and command.pin is not None:
            record_attempt(self.books, command, decided.pin_check, self.now)
        books = self.books.aside() if command.dry_run else self.books
        given = [answer(books, event, apply(event, books)) for event in decided.events]
        refusal = decided.answer if isinstance(decided.answer, CommandRejected) else None
        told = " + ".join(one.type for one in given) + (f" {refusal.reason}" if refusal else "")
        assert told == expected, f"{told}: {line}"
        self.events += given
        mine = given[len(decided.before)]
        self.told.append(Told(line, decided.answer, mine, before))
        self._open(decided.answer, mine)

    def _note_pin_attempt(self, command: Command) -> None:
        """Do what is done before a commit: note that a PIN was given."""
        if not isinstance(command, CreateTransaction) or command.pin is None:
            return
        card = self._card_of(command)
        id, number = event_id(ACCOUNT, command.key), len(self.books.pin_attempts) + 1
        noted = PinAttempt(id, ACCOUNT, card.id if card else None, number, Outcome.OPEN, self.now)
        self.books.load_pin_attempt(noted)

    def _open(self, event: Event, told: Answer) -> None:
        """Learn what was sealed, as its owner does."""
        made = getattr(event, "issued", IssuedSecrets())
        for _, part in made.files:
            plain = open_sealed([OWNER.identity], base64.b64decode(part.content))
            for row in csv.DictReader(io.StringIO(plain.decode())):
                self._learn(row["card_id"], row)
        if made.sealed is not None:
            plain = open_sealed([OWNER.identity], made.sealed.encode())
            secrets, data = json.loads(plain), json.loads(told.event)["data"]
            name = data["token"]["ref_id"] if "token" in data else secrets["card_id"]
            self._learn(name, secrets)

    def _learn(self, name: str, secrets: dict[str, str]) -> None:
        if secrets.get("token"):
            self.values[name] = secrets["token"]
        if secrets.get("pin"):
            self.pins[secrets["card_id"]] = secrets["pin"]

    def _card_of(self, command: Command) -> Card | None:
        if isinstance(command, ByTransaction):
            named = self.books.named.get(command.transaction_id)
            return self.books.cards[self.books.card_keys[named.card]] if named else None
        if isinstance(command, CreateTransaction) and command.given_token is not None:
            token = self.books.token(command.given_token)
            return self.books.cards[self.books.card_keys[token.card]] if token else None
        return self.books.cards.get((ACCOUNT, getattr(command, "card_id", None) or ""))

    def _check(self, line: str, check: str) -> None:
        card_id, _, shows = check.strip().partition(":")
        card = self.card(card_id)
        found = f"{card.amount_balance // 100} {card.status(self.now)}"
        if "," in shows:
            found += f", {card.amount_available // 100} free"
        assert found == shows.strip(), f"{card_id} shows {found}: {line}"

    def _command(self, asked: str) -> Command:
        dry = asked.startswith("dry ")
        word, about, *words = asked.removeprefix("dry ").split()
        fields: dict[str, Any] = {"account_id": ACCOUNT, "command_id": f"c{len(self.told)}"}
        fields |= ALWAYS.get(word, {})
        if dry:
            fields["dry_run"] = True
        if word == "batch":
            named = [one for one in words if "=" not in one and one not in (*CODES, "waits")]
            fields |= {"batch_id": about.rstrip(":"), "needs_approval": "waits" in words}
            fields["cards"] = [{"card_id": card_id} for card_id in named]
        elif word == "order":
            count, pattern, *words = words
            fields |= {"batch_id": about.rstrip(":"), "count": int(count)}
            fields |= {"card_id_pattern": pattern, "needs_approval": "waits" in words}
            words = [one for one in words if one != "waits"]
        elif TASKS[word].startswith("batches."):
            fields["batch_id"] = about
        elif about.startswith("$"):
            fields["token"] = self.values.get(about[1:], "NONE-THAT-EXISTS")
        elif about.startswith("@"):
            fields["transaction_id"] = self.transaction(about)
        else:
            fields["card_id"] = about
        fields |= self._codes(word, about, words)
        words = [one for one in words if one.partition("=")[0] not in CODES and one[0] != "$"]
        fields |= dict(_fields(word, words, self.now))
        if "unsealed" in asked:
            fields.pop("seal_to")
        if TASKS[word].startswith("transactions.") or word in ("adjust", "transfer", "token"):
            fields.setdefault("ref_id", f"r{len(self.told)}")
        (command,) = read_commands(TASKS[word], str(fields["command_id"]), fields, VAULT)
        assert not isinstance(command, UnreadableItem)
        return command

    def _codes(self, word: str, about: str, words: list[str]) -> dict[str, Any]:
        """Return the fields that ask for tokens and PINs, or bring them."""
        said = {name: value for name, _, value in (one.partition("=") for one in words)}
        format = _format(said["format"]) if "format" in said else {}
        if word == "token":
            return {"expires_after_transaction": "many" not in said} | format
        if word == "revoke":
            return {"token_id": self._token_id(words[0])}
        if word == "repin":
            return {"pin": format}
        if "pin" in said and TASKS[word] == "transactions.create":
            return {"pin": self._pin(about) if said["pin"] == "right" else WRONG_PIN}
        made = {}
        if "token" in said:
            made["card_token"] = _behaviour(said["token"]) | format
        if "pin" in said:
            made["pin"] = {"format": {"numbers": True, "length": int(said["pin"] or 4)}}
        if word == "batch" and made:
            return {"options": made, "seal_to": [OWNER.recipient]}
        return made | ({"seal_to": [OWNER.recipient]} if made and word == "create" else {})

    def _token_id(self, name: str) -> str:
        value = self.values.get(name.removeprefix("$"))
        if value is None:
            return str(UUID(int=0))
        (known,) = TOKEN_PEPPERS.token_hashes(ACCOUNT, value)
        return str(self.books.digests[known.digest])

    def _pin(self, about: str) -> str:
        if not about.startswith("$"):
            return self.pins[about]
        token = self.books.tokens[UUID(self._token_id(about))]
        return self.pins[self.books.card_keys[token.card][1]]

    def transaction(self, name: str) -> str:
        """Return the id of the transaction that is called `@` and its reference."""
        found = (row.id for row in self.books.transactions if row.ref_id == name.lstrip("@"))
        return str(next(found, UUID(int=0)))


def note_due_holds(books: Books, now: datetime) -> None:
    """Do what loading does: say which holds' time is up."""
    books.due.clear()
    for hold in books.holds.values():
        if hold.is_due(now):
            books.due[hold.card] = (*books.due.get(hold.card, ()), hold.id)


def _fields(word: str, words: list[str], now: datetime) -> Iterator[tuple[str, Any]]:
    names = {
        "id": "command_id",
        "by": "created_by",
        "expires": "expires_at",
        "from": "active_from",
        "to": "new_card_id" if word == "replace" else "to_card_id",
        "ref": "ref_id",
        "lasts": "expires_in" if word == "token" else "hold_expires_in",
    }
    for one in words:
        name, equals, value = one.partition("=")
        if equals:
            yield names.get(name, name), _value(names.get(name, name), value, now)
        elif one.lstrip("-").isdecimal():
            yield "amount", int(one) * 100
        elif one in CURRENCIES:
            yield "currency", one
        elif word != "batch":
            yield "ref_id", one


def _format(text: str) -> dict[str, Any]:
    """Return the format that `numbers:16` stands for."""
    flag, _, length = text.partition(":")
    return {"format": {flag: flag != "none", "length": int(length)}}


def _behaviour(text: str) -> dict[str, Any]:
    if text == "once":
        return {"expires_after_transaction": True}
    return {"expires_in": int(_duration(text).total_seconds())} if text else {}


def _value(name: str, value: str, now: datetime) -> Any:
    if name in ("first", "last"):
        return int(value)
    if name == "final":
        return value == "yes"
    if not re.fullmatch(r"[+-]\d+[dhms]", value):
        return None if value == "null" else value
    lasts = _duration(value)
    return int(lasts.total_seconds()) if name.endswith("_in") else write_time(now + lasts)


def _duration(text: str) -> timedelta:
    sign = -1 if text.startswith("-") else 1
    number, unit = text.lstrip("+-")[:-1], text[-1]
    return sign * timedelta(**{UNITS[unit]: int(number)})


def reasons(told: list[Told]) -> set[Reason]:
    """Return the reasons of all refusals among `told`."""
    return {one.event.reason for one in told if isinstance(one.event, CommandRejected)}
