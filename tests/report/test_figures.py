"""The figures of the report are those of a computation that has nothing in common with it."""

import csv
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine

from card_worker.domain.rows import Transaction
from tests.cli.commands import run
from tests.report.rows import ACCOUNTS, Rows, insert_rows, random_rows

TRANSACTIONS = 100_000
PERIODS = [
    ("2025-01", "2025-12", "Europe/Oslo", None),
    ("2025-03-15", "2025-08-07", "UTC", ACCOUNTS[0]),
    ("2023-11", "2026-08-01", "America/New_York", ACCOUNTS[1]),
]
RESERVES = {"pending_capture", "voided"}
OUTFLOWS = ("drawn_down", "cashed_out", "reversed", "breakage")


class Expected(NamedTuple):
    apart: "Apart"
    roll_forward: list[dict[str, str]]
    redemption: list[dict[str, str]]


@pytest.fixture(scope="module")
def shared_rows() -> Rows:
    return random_rows(TRANSACTIONS)


@pytest.fixture(scope="module")
def shared_expected(shared_rows: Rows) -> list[Expected]:
    found = []
    for first, last, zone, account in PERIODS:
        apart = Apart(shared_rows, account, ZoneInfo(zone))
        found.append(Expected(apart, apart.roll_forward(first, last), apart.redemption(last)))
    return found


def test_the_figures_are_those_of_a_computation_apart(
    engine: Engine,
    database_url: str,
    shared_rows: Rows,
    shared_expected: list[Expected],
    tmp_path: Path,
) -> None:
    insert_rows(engine, shared_rows)
    for period, expected in zip(PERIODS, shared_expected, strict=True):
        first, last, zone, account = period
        out = tmp_path / first
        of = ["--account", account] if account else []
        asked = ["--from", first, "--to", last, "--timezone", zone, "--out", out, *of]
        assert run("report", *asked, DATABASE_URL=database_url).exit_code == 0
        assert read(out / "roll-forward.csv") == expected.roll_forward
        assert read(out / "redemption.csv") == expected.redemption
        held = [tuple(row.items()) for row in read(out / "liability.csv")]
        assert sorted(held) == sorted(tuple(row.items()) for row in expected.apart.liability())


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def units(amount: int) -> str:
    sign = "-" if amount < 0 else ""
    return f"{sign}{abs(amount) // 100}.{abs(amount) % 100:02}"


class Apart:
    """Computes the figures row by row, from dates in words, without the report's code."""

    def __init__(self, rows: Rows, account: str | None, zone: ZoneInfo) -> None:
        self.zone = zone
        self.cards = {card.id: card for card in rows.cards if account in (None, card.account_id)}
        self.moved = [
            (each, self.cards[each.card], self.day(each.created_at))
            for each in rows.transactions
            if account in (None, each.account_id) and each.type not in RESERVES
        ]

    def day(self, at: datetime) -> str:
        return at.astimezone(self.zone).date().isoformat()

    def books(self) -> list[tuple[str, str]]:
        currencies, types = ("NOK", "SEK", "DKK"), ("gift_card", "credit_note")
        return [(currency, type) for currency in currencies for type in types]

    def roll_forward(self, first: str, last: str) -> list[dict[str, str]]:
        start, end = f"{first}-01"[:10], f"{last}-31"[:10]
        sums: dict[Any, Any] = defaultdict(lambda: defaultdict(int))
        for each, card, day in self.moved:
            if day <= end:
                months = day[:7] if day >= start else "opening"
                column, amount = self.column(each)
                sums[each.currency, card.type, months][column] += amount
                if each.type == "adjustment" and amount > 0:
                    sums[each.currency, card.type, months][f"up_{each.funding or 'sold'}"] += amount
        found = []
        for book in self.books():
            inflows = ("sold", "promotional", "compensation")
            columns = (*inflows, "refunded", "adjusted", "transferred", *OUTFLOWS)
            balance = sum(sums[*book, "opening"][column] for column in columns)
            for month in self.months(start, end):
                of_month = sums[*book, month]
                closing = balance + sum(of_month[column] for column in columns)
                found.append(
                    {
                        "currency": book[0],
                        "card_type": book[1],
                        "period": self.label(month, start, end),
                        "opening": units(balance),
                        **{column: units(of_month[column]) for column in columns},
                        "closing": units(closing),
                        **{
                            f"adjusted_up_{each}": units(of_month[f"up_{each}"]) for each in inflows
                        },
                    }
                )
                balance = closing
        return found

    def column(self, each: Transaction) -> tuple[str, int]:
        amount = each.amount if each.credit == "card" else -each.amount
        if each.type == "fund":
            return ("refunded" if each.parent_id else str(each.funding or "sold")), amount
        names = {
            **{"adjustment": "adjusted", "transfer": "transferred", "drawdown": "drawn_down"},
            **{"cash_out": "cashed_out", "reversal": "reversed", "breakage": "breakage"},
        }
        return names[each.type], amount

    def months(self, start: str, end: str) -> list[str]:
        years = range(int(start[:4]), int(end[:4]) + 1)
        every = [f"{year}-{month:02}" for year in years for month in range(1, 13)]
        return [month for month in every if start[:7] <= month <= end[:7]]

    def label(self, month: str, start: str, end: str) -> str:
        year, number = map(int, month.split("-"))
        whole = date(year + number // 12, number % 12 + 1, 1) - timedelta(days=1)
        begin, stop = max(start, f"{month}-01"), min(end, whole.isoformat())
        is_whole = (begin, stop) == (f"{month}-01", whole.isoformat())
        return month if is_whole else f"{begin} – {stop}"

    def redemption(self, last: str) -> list[dict[str, str]]:
        end = f"{last}-31"[:10]
        sums: dict[Any, Any] = defaultdict(lambda: defaultdict(int))
        cohorts = set()
        for each, card, day in self.moved:
            if card.activated_at is None or max(day, self.day(card.activated_at)) > end:
                continue
            cohort = self.day(card.activated_at)[:7]
            cohorts.add((each.currency, card.type, cohort))
            column, amount = self.column(each)
            name = {"drawn_down": "spent", "refunded": "spent"}.get(column, column)
            name = name if name in ("spent", "cashed_out", "breakage") else "loaded"
            sign = 1 if name == "loaded" else -1
            sums[each.currency, card.type, cohort, max(cohort, day[:7])][name] += sign * amount
        found = []
        for book in self.books():
            for cohort in sorted(month for *of, month in cohorts if tuple(of) == book):
                total: dict[str, int] = defaultdict(int)
                for age, month in enumerate(self.months(cohort, end)):
                    for name, amount in sums[*book, cohort, month].items():
                        total[name] += amount
                    share = total["spent"] / total["loaded"] if total["loaded"] > 0 else None
                    found.append(
                        {
                            "currency": book[0],
                            "card_type": book[1],
                            "activated": cohort,
                            "months_after": str(age),
                            **{
                                name: units(total[name])
                                for name in ("loaded", "spent", "cashed_out", "breakage")
                            },
                            "share_spent": "" if share is None else f"{share:.4f}",
                        }
                    )
        return found

    def liability(self) -> list[dict[str, str]]:
        now = datetime.now(UTC)
        last: dict[Any, str] = {}
        for _, card, day in self.moved:
            last[card.id] = max(day, last.get(card.id, ""))
        sums: dict[Any, list[int]] = defaultdict(lambda: [0, 0, 0])
        for card in self.cards.values():
            key = (
                *(card.currency, card.type, card.status(now)),
                self.age(last[card.id], now) if card.amount_balance else "",
                self.expiry(card.expires_at, now),
            )
            for place, amount in enumerate((1, card.amount_balance, card.amount_reserved)):
                sums[key][place] += amount
        names = ("currency", "card_type", "status", "last_moved", "expires")
        return [
            {
                **dict(zip(names, key, strict=True)),
                "cards": str(count),
                "balance": units(balance),
                "on_hold": units(reserved),
            }
            for key, (count, balance, reserved) in sums.items()
        ]

    def age(self, day: str, now: datetime) -> str:
        today = now.astimezone(self.zone).date()
        for months, name in (
            (3, "up to 3 months"),
            (12, "3 to 12 months"),
            (24, "12 to 24 months"),
        ):
            year, month = divmod(today.year * 12 + today.month - 1 - months, 12)
            days = [today.day, 30, 29, 28]  # the month may be shorter
            for number in days:
                try:
                    limit = date(year, month + 1, number)
                except ValueError:
                    continue
                break
            if day >= limit.isoformat():
                return name
        return "over 24 months"

    def expiry(self, at: datetime | None, now: datetime) -> str:
        if at is None:
            return "never"
        if at <= now:
            return "overdue"
        today, month = self.day(now), self.day(at)[:7]
        last = f"{int(today[:4]) + 2}{today[4:7]}"
        return month if month < last else "later"
