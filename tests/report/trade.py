"""`make report-demo`: a year of a shop's trade with gift cards, and the report about it.

The commands go through the real handler, with a clock that is moved from day to day.
"""

import argparse
import os
import random
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Engine

from card_worker.cli import app
from card_worker.contracts.commands import event_id
from card_worker.contracts.enums import Expiry
from card_worker.contracts.message import UnreadableItem, read_commands
from card_worker.contracts.transactions import CreateTransaction
from card_worker.handler import handle
from card_worker.storage import outbox
from card_worker.storage.accounts import change_account
from card_worker.storage.engine import begin, open_engine
from card_worker.storage.migrations import upgrade
from tests.orders import ACCOUNT, Orders

ZONE = ZoneInfo("Europe/Oslo")
MONTHS = 14
SEASON = (0.7, 0.6, 0.8, 1.0, 1.1, 0.9, 0.5, 0.7, 0.8, 1.0, 1.6, 3.0)
"""How much is sold in each month of the year."""
AMOUNTS = (100_00, 200_00, 300_00, 500_00, 500_00, 1_000_00)
WHY = {"reason": "as the customer asked"}


@dataclass
class Card:
    """A card that was sold, and what the shop believes is left on it."""

    card_id: str
    currency: str
    left: int
    expires_at: datetime

    def moves(self, amount: int, **fields: Any) -> dict[str, Any]:
        return {"card_id": self.card_id, "amount": amount, "currency": self.currency, **fields}


@dataclass
class Shop:
    """A shop whose days are decided by chance."""

    cards_a_day: float
    chance: random.Random
    due: dict[date, list[tuple[Card, str]]] = field(default_factory=lambda: defaultdict(list))
    commands: int = 0
    cards: int = 0

    def day(self, today: datetime) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield the commands of a day: task, command_id, fields."""
        wanted = self.cards_a_day * SEASON[today.month - 1] * self.chance.uniform(0.5, 1.5)
        for _ in range(round(wanted)):
            yield self._ask("cards.create", **self._sell(today))
        for card, what in self.due.pop(today.date(), ()):
            yield from self._do(card, what, today)

    def _ask(self, task: str, **fields: Any) -> tuple[str, str, dict[str, Any]]:
        self.commands += 1
        return task, f"trade-{self.commands}", {"account_id": ACCOUNT, **fields}

    def _sell(self, today: datetime) -> dict[str, Any]:
        chance, self.cards = self.chance, self.cards + 1
        is_note = chance.random() < 0.1
        (funding,) = chance.choices(["sold", "promotional", "compensation"], [88, 9, 3])
        months = 6 if funding == "promotional" else chance.choice([12, 24, 36])
        card = Card(
            card_id=f"gift-{self.cards:05}",
            currency=chance.choices(["NOK", "EUR"], [85, 15])[0],
            left=chance.randint(50_00, 900_00) if is_note else chance.choice(AMOUNTS),
            expires_at=today + timedelta(days=30 * months),
        )
        self._plan(card, today)
        kind = "credit_note" if is_note else "gift_card"
        what = {"type": kind, "funding": funding, "expires_at": card.expires_at.isoformat()}
        return card.moves(card.left, **what)

    def _plan(self, card: Card, today: datetime) -> None:
        """Decide when the card is used; one in ten is forgotten."""
        used = today
        for _ in range(self.chance.choice([1, 1, 2, 3]) if self.chance.random() > 0.1 else 0):
            used += timedelta(days=round(self.chance.expovariate(1 / 45)))
            (what,) = self.chance.choices(
                ["pay", "pay and return", "reserve", "load", "move", "replace", "close", "correct"],
                [80, 4, 8, 2, 2, 2, 1, 1],
            )
            self.due[max(used, today + timedelta(days=1)).date()].append((card, what))
        if self.chance.random() < 0.01:
            self.due[today.date()].append((card, "reverse"))
        self.due[(card.expires_at + timedelta(days=1)).date()].append((card, "expire"))

    def _do(
        self, card: Card, what: str, today: datetime
    ) -> Iterator[tuple[str, str, dict[str, Any]]]:
        ref_id, on_card = f"receipt-{self.commands}", {"card_id": card.card_id}
        amount = min(card.left, max(1, round(card.left * self.chance.choice([0.4, 0.7, 1, 1]))))
        match what:
            case "pay" | "pay and return" | "reserve" if card.left:
                card.left -= amount
                fields = card.moves(amount, ref_id=ref_id, pending=what == "reserve")
                pay = self._ask("transactions.create", **fields)
                yield pay
                (command,) = read_commands(*pay)
                assert isinstance(command, CreateTransaction)
                paid = str(event_id(ACCOUNT, command.key))
                after = {"transaction_id": paid, "ref_id": f"{ref_id}-2"}
                if what == "pay and return":
                    card.left += amount
                    yield self._ask("transactions.refund", **after)
                elif what == "reserve" and self.chance.random() < 0.8:
                    yield self._ask("transactions.capture", **after)
            case "load":
                card.left += 200_00
                yield self._ask(
                    "transactions.create", **card.moves(200_00, ref_id=ref_id, type="fund")
                )
            case "move" if card.left:
                other = self._sell(today)
                other |= {"currency": card.currency, "type": "gift_card", "amount": 0}
                yield self._ask("cards.create", **other)
                to = {"to_card_id": other["card_id"], "ref_id": ref_id}
                card.left -= amount
                yield self._ask("cards.transfer", **on_card, **to, amount=amount)
            case "replace":
                new = f"{card.card_id}-new"
                yield self._ask("cards.replace", **on_card, new_card_id=new, **WHY)
                card.card_id = new
            case "close":
                card.left = 0
                yield self._ask("cards.close", **on_card, **WHY)
            case "correct":
                card.left += 10_00
                change = self.chance.choice([10_00, -5_00])
                yield self._ask("cards.adjust", **card.moves(change, ref_id=ref_id), **WHY)
            case "reverse":
                card.left = 0
                yield self._ask("cards.reverse_activation", **on_card)
            case "expire":
                card.left = 0
                yield self._ask("cards.expire", **on_card)


def play(engine: Engine, *, months: int = MONTHS, cards_a_day: float = 7, seed: int = 1) -> date:
    """Trade until the end of the month before this one; return the first day of that trade."""
    change_account(engine, ACCOUNT, lambda account: account._replace(expiry=Expiry.BREAKAGE))
    with begin(engine) as (_, now):
        last = now.astimezone(ZONE).date().replace(day=1)
    number = last.year * 12 + last.month - 1 - months
    first = date(number // 12, number % 12 + 1, 1)
    shop = Shop(cards_a_day, random.Random(seed))
    day = first
    while day < last:
        at = datetime.combine(day, time(12), ZONE)
        with begin(engine) as (connection, _):
            commands = [each for asked in shop.day(at) for each in read_commands(*asked)]
            assert not any(isinstance(each, UnreadableItem) for each in commands), commands
            handle(connection, commands, at)  # type: ignore[arg-type]  # all were readable
        day += timedelta(days=1)
    orders = Orders(engine)
    orders.order(200, "spring")
    orders.work()
    orders.order(50, "summer", needs_approval=True, created_by="kari")
    with begin(engine) as (connection, _):
        outbox.mark_published(connection, outbox.first_unpublished(connection, 10**6))
    return first


def main() -> None:
    """Fill a new database and write the report about it."""
    parser = argparse.ArgumentParser(prog="make report-demo")
    parser.add_argument("--out", type=Path, default=Path("build/report-demo"))
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    url = f"sqlite:///{out / 'cards.db'}"
    upgrade(url)
    engine = open_engine(url)
    first = play(engine)
    with begin(engine) as (_, now):
        last = now.astimezone(ZONE).date().replace(day=1) - timedelta(days=1)
    engine.dispose()
    os.environ["CARD_WORKER_DATABASE_URL"] = url
    # The first months fill the shop's books; the report is about the year after.
    start = max(first, date(last.year - 1 + last.month // 12, last.month % 12 + 1, 1))
    period = ["--from", f"{start:%Y-%m}", "--to", f"{last:%Y-%m}", "--timezone", ZONE.key]
    sys.exit(app(["report", *period, "--out", str(out)], standalone_mode=False) or 0)


if __name__ == "__main__":
    main()
