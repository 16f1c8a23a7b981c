"""The figures of the report, made of the database's sums. Amounts are in minor units."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from card_worker.cli.report.periods import Segment
from card_worker.contracts.enums import CardType, Funding, TransactionType
from card_worker.money import Currency, in_words
from card_worker.storage.finance import Held, Moved

Book: TypeAlias = tuple[Currency, CardType]
"""What is added up: the cards of one type in one currency."""

COLUMNS = {
    **{funding.value: funding.value for funding in Funding},
    "refunded": "refunded",
    "adjusted": "adjusted",
    "transferred": "transferred",
    "drawn_down": "drawn down",
    "cashed_out": "cashed out",
    "reversed": "reversed",
    "breakage": "breakage",
}
"""The columns of the roll-forward, with their headings."""


_COLUMN_OF_TYPE = {
    TransactionType.ADJUSTMENT: "adjusted",
    TransactionType.TRANSFER: "transferred",
    TransactionType.DRAWDOWN: "drawn_down",
    TransactionType.CASH_OUT: "cashed_out",
    TransactionType.REVERSAL: "reversed",
    TransactionType.BREAKAGE: "breakage",
}


def name(book: Book) -> str:
    """Return the name of a book, such as `Gift cards, NOK`."""
    currency, card_type = book
    return f"{words(card_type).capitalize()}s, {currency}"


def in_order(books: Iterable[Book]) -> list[Book]:
    """Return books in the order in which currencies and types are defined."""
    return sorted(books, key=_place)


def _place(book: Book) -> tuple[int, int]:
    return [*Currency].index(book[0]), [*CardType].index(book[1])


def words(value: StrEnum) -> str:
    """Return a value as words, such as `gift card`."""
    return value.value.replace("_", " ")


@dataclass(slots=True)
class Row:
    """A period of a book. What left the cards is negative."""

    label: str
    opening: int
    moved: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COLUMNS, 0))
    adjusted_up: dict[Funding, int] = field(default_factory=lambda: dict.fromkeys(Funding, 0))
    """The part of `adjusted` that was put onto cards, by why it was."""

    @property
    def closing(self) -> int:
        return self.opening + sum(self.moved.values())

    def add(self, moved: Moved) -> None:
        amount = moved.amount if moved.to_card else -moved.amount
        self.moved[_column(moved)] += amount
        if moved.type is TransactionType.ADJUSTMENT and moved.to_card:
            self.adjusted_up[moved.funding or Funding.SOLD] += amount


def _column(moved: Moved) -> str:
    # Version 0.1.0 stored no funding; `sold` is its default since.
    if moved.type is not TransactionType.FUND:
        return _COLUMN_OF_TYPE[moved.type]
    return "refunded" if moved.is_refund else (moved.funding or Funding.SOLD).value


class RollForward(NamedTuple):
    """The periods of a book, and their sum."""

    rows: list[Row]
    total: Row


def roll_forward(
    moved: Iterable[Moved], history: Sequence[Segment], period: Sequence[Segment]
) -> tuple[dict[Book, RollForward], dict[Book, int]]:
    """Return the roll-forward of each book in a period, and what each has by its transactions.

    `history` has the segments before the period, those of the period, and no others.
    """
    before = len(history) - len(period)
    by_period = defaultdict[Book, dict[int, list[Moved]]](lambda: defaultdict(list))
    for each in moved:
        by_period[each.currency, each.card_type][each.period].append(each)
    books, balances = {}, {}
    for book in in_order(by_period):
        of_book = by_period[book]
        opening = 0
        rows = []
        # Bound 0 is the start of the first segment, so period 1 is that segment.
        for number, segment in enumerate(history, start=1):
            row = Row(segment.label, opening)
            for each in of_book[number]:
                row.add(each)
            opening = row.closing
            if number > before:
                rows.append(row)
        later = Row("", opening)
        for each in of_book[len(history) + 1]:
            later.add(each)
        balances[book] = later.closing
        if any(row.opening or any(row.moved.values()) for row in rows):
            books[book] = RollForward(rows, _total(rows))
    return books, balances


def _total(rows: Sequence[Row]) -> Row:
    total = Row("total", rows[0].opening)
    for row in rows:
        for name, amount in row.moved.items():
            total.moved[name] += amount
        for funding, amount in row.adjusted_up.items():
            total.adjusted_up[funding] += amount
    return total


class Difference(NamedTuple):
    """A book whose transactions and cards disagree."""

    book: Book
    by_transactions: int
    on_cards: int

    @property
    def text(self) -> str:
        """Return it as a sentence."""
        currency = self.book[0]
        left = in_words(self.by_transactions, currency)
        difference = in_words(self.on_cards - self.by_transactions, currency)
        return (
            f"{name(self.book)}: the transactions leave {left}, the cards have"
            f" {in_words(self.on_cards, currency)}; a difference of {difference}"
        )


def differences(balances: Mapping[Book, int], held: Iterable[Held]) -> list[Difference]:
    """Return the books whose closing balance now is not what their cards have."""
    on_cards = defaultdict[Book, int](int)
    for each in held:
        if each.currency is not None:
            on_cards[each.currency, each.card_type] += each.balance
    books = in_order({*balances, *on_cards})
    found = (Difference(book, balances.get(book, 0), on_cards[book]) for book in books)
    return [each for each in found if each.by_transactions != each.on_cards]


@dataclass(slots=True)
class Redeemed:
    """What has become of the money of a cohort, so many months after its month."""

    loaded: int = 0
    """Put onto its cards, less what was reversed, and what moved to cards of other cohorts."""
    spent: int = 0
    """Less what was refunded."""
    cashed_out: int = 0
    breakage: int = 0

    @property
    def share(self) -> float | None:
        """The part that was spent; None if nothing was loaded."""
        return self.spent / self.loaded if self.loaded > 0 else None

    def add(self, column: str, amount: int) -> None:
        match column:
            case "drawn_down" | "refunded":
                self.spent -= amount
            case "cashed_out":
                self.cashed_out -= amount
            case "breakage":
                self.breakage -= amount
            case _:
                self.loaded += amount


class Cohort(NamedTuple):
    """The cards of a book that were activated in the same month."""

    book: Book
    month: int
    ages: list[Redeemed]
    """By the number of months after, from 0."""


def cohorts(moved: Iterable[Moved], history: Sequence[Segment]) -> list[Cohort]:
    """Return the cohorts of all books until the end of the history, in the order of time."""
    last = history[-1].month
    sums = defaultdict[tuple[Book, int, int], Row](lambda: Row("", 0))
    for each in moved:
        if each.cohort and max(each.cohort, each.period) <= len(history) and each.period:
            month = history[each.cohort - 1].month
            # An activation before the last one was reversed, so nothing is left of it.
            age = max(0, history[each.period - 1].month - month)
            sums[(each.currency, each.card_type), month, age].add(each)
    found = []
    for book, month in sorted(
        {(book, month) for book, month, _ in sums}, key=lambda each: (_place(each[0]), each[1])
    ):
        redeemed, ages = Redeemed(), list[Redeemed]()
        for age in range(last - month + 1):
            row = sums.get((book, month, age))
            for name, amount in row.moved.items() if row else ():
                redeemed.add(name, amount)
            ages.append(replace(redeemed))
        found.append(Cohort(book, month, ages))
    return found
