"""Stories: what is asked of cards and what comes of it, a line each.

    batch     B1: A1 A2                -> batch.completed
    activate  A1 500 NOK expires=+1d   -> card.activated      # A1: 500 unused
    activate  A1 500 NOK               -> command.rejected card_already_active
    wait      2d

Left of `->` stands the command, its card or batch, and its fields; right of it the answer's type
and, for a refusal, its reason. Behind `#` may stand what the card shows afterwards: its balance,
in whole units, and its status. `given A1 closed` puts a card into the books that no command can
make yet. `dry` before a command makes it a dry run; `id=x` gives it a command_id of its own.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from card_worker.contracts.commands import Command
from card_worker.contracts.fields import write_time
from card_worker.contracts.kinds import CardType, Reason, Status
from card_worker.contracts.message import Letter, read_commands
from card_worker.domain.answers import Answer, answer
from card_worker.domain.books import Books, Card, State
from card_worker.domain.events import CommandRejected, Event
from card_worker.domain.evolve import card_uuid, evolve
from card_worker.domain.rules import decide
from card_worker.money import Currency

ACCOUNT = "T00000001"
START = datetime(2026, 11, 22, 10, tzinfo=UTC)
UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
TASKS = {
    "activate": "cards.activate",
    "batch": "cards.batch_create",
    "create": "cards.create",
    "expire": "cards.expire",
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
        "amount_funds": 5,
        "amount_drawdown": 5,
    },
    "partially_used": {
        "state": State.ACTIVE,
        "currency": Currency.NOK,
        "amount_funds": 5,
        "amount_drawdown": 3,
        "amount_balance": 2,
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
        else:
            assert arrow, f"no answer is expected: {line}"
            self._ask(line, asked, expected)
        if check:
            self._check(line, check)

    def _put(self, card_id: str, kind: str) -> None:
        self.books.put(
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
        command = _command(asked, number=len(self.told), now=self.now)
        card = self.books.cards.get((ACCOUNT, getattr(command, "card_id", None) or ""))
        before = card.status(self.now) if card else None
        event = decide(self.books, command, self.now)
        books = self.books.aside() if command.dry_run else self.books
        given = answer(books, event, evolve(books, event))
        reason = f" {event.reason}" if isinstance(event, CommandRejected) else ""
        assert f"{given.type}{reason}" == expected, f"{given.type}{reason}: {line}"
        self.told.append(Told(line, event, given, before))

    def _check(self, line: str, check: str) -> None:
        card_id, _, shows = check.strip().partition(":")
        card = self.card(card_id)
        found = f"{card.amount_balance // 100} {card.status(self.now)}"
        assert found == shows.strip(), f"{card_id} shows {found}: {line}"


def _command(asked: str, *, number: int, now: datetime) -> Command:
    dry = asked.startswith("dry ")
    word, about, *words = asked.removeprefix("dry ").split()
    fields: dict[str, Any] = {"account_id": ACCOUNT, "command_id": f"c{number}"}
    if dry:
        fields["dry_run"] = True
    if word == "batch":
        cards = [one for one in words if "=" not in one]
        fields |= {"batch_id": about.rstrip(":"), "cards": [{"card_id": one} for one in cards]}
    else:
        fields["card_id"] = about
    fields |= dict(_fields(word, words, now))
    (command,) = read_commands(TASKS[word], str(fields["command_id"]), fields)
    assert not isinstance(command, Letter)
    return command


def _fields(word: str, words: list[str], now: datetime) -> Iterator[tuple[str, Any]]:
    names = {"id": "command_id", "expires": "expires_at", "from": "active_from"}
    for one in words:
        name, equals, value = one.partition("=")
        if equals:
            timed = re.fullmatch(r"[+-]\d+[dhms]", value)
            yield names.get(name, name), write_time(now + _duration(value)) if timed else value
        elif one.lstrip("-").isdecimal():
            yield "amount", int(one) * 100
        elif word != "batch":
            yield "currency", one


def _duration(text: str) -> timedelta:
    sign = -1 if text.startswith("-") else 1
    number, unit = text.lstrip("+-")[:-1], text[-1]
    return sign * timedelta(**{UNITS[unit]: int(number)})


def reasons(told: list[Told]) -> set[Reason]:
    """Return the reasons of all refusals among `told`."""
    return {one.event.reason for one in told if isinstance(one.event, CommandRejected)}
