"""The tables of the report: the figures as texts."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from card_worker.cli.report.figures import (
    COLUMNS,
    Book,
    Cohort,
    RollForward,
    Row,
    in_order,
    name,
    words,
)
from card_worker.cli.report.periods import month_label
from card_worker.contracts.enums import BatchState, CardType, Status
from card_worker.money import Currency, in_units
from card_worker.storage.finance import Held, Ordered

AGES = ("up to 3 months", "3 to 12 months", "12 to 24 months", "over 24 months")
"""How long ago the money of a card last moved."""
EXPIRIES_MAX = 24
"""Number of months of expiry that are shown one by one."""
COHORTS_MAX, AGES_SHOWN = 13, (0, 1, 2, 3, 6, 9, 12, 18, 24)
K = TypeVar("K", bound=Hashable)


class Table(NamedTuple):
    """A table: the first cell of a row is its heading. `total` is the last row, if there is one."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    total: Sequence[str] = ()


def _money(amount: int) -> str:
    return in_units(amount).replace("-", "\N{MINUS SIGN}") if amount else "–"


def roll_forward_table(book: Book, forward: RollForward) -> Table:
    """Return a roll-forward. Columns that have no amount in any period are left out."""
    columns = [column for column in COLUMNS if any(row.moved[column] for row in forward.rows)]

    def cells(row: Row) -> list[str]:
        amounts = [row.opening, *(row.moved[column] for column in columns), row.closing]
        return [row.label, *map(_money, amounts)]

    head = ["", "opening", *(COLUMNS[column] for column in columns), "closing"]
    total = cells(forward.total) if len(forward.rows) > 1 else []
    return Table(name(book), head, [*map(cells, forward.rows)], total)


def age_table(held: Iterable[Held]) -> Table:
    """Return the liability of each book by age, and the money on hold."""
    amounts = _sums(held, lambda each: each.age)
    reserved = Counter[Book]()
    for each in held:
        if each.currency is not None:
            reserved[each.currency, each.card_type] += each.reserved
    rows = [
        [
            name(book),
            *(_money(amounts[book].get(age, 0)) for age in reversed(range(len(AGES)))),
            _money(sum(amounts[book].values())),
            _money(reserved[book]),
        ]
        for book in in_order(amounts)
    ]
    head = ["last moved", *(f"{age} ago" for age in AGES), "liability", "of which on hold"]
    return Table("By age since the money last moved", head, rows)


def _sums(held: Iterable[Held], key: Callable[[Held], K]) -> Mapping[Book, Mapping[K, int]]:
    sums = defaultdict[Book, Counter[K]](Counter)
    for each in held:
        if each.currency is not None and each.balance:
            sums[each.currency, each.card_type][key(each)] += each.balance
    return sums


@dataclass(frozen=True, slots=True)
class Expiries:
    """The liability by month of expiry: labels, and for each book an amount for each label."""

    labels: list[str]
    amounts: dict[Book, list[int]]

    @classmethod
    def of(cls, held: Iterable[Held], first_month: int) -> "Expiries":
        """Return it for the months from the first one on, and for all others together."""
        months = [month_label(first_month + number) for number in range(EXPIRIES_MAX)]
        labels = ["overdue", *months, "later", "never"]
        sums = _sums(held, lambda each: each.expiry)
        amounts = {
            book: [sums[book].get(index, 0) for index in (*range(EXPIRIES_MAX + 2), None)]
            for book in in_order(sums)
        }
        return cls(labels, amounts)

    def table(self) -> Table:
        by_label = zip(*self.amounts.values(), strict=True)
        rows = [
            [label, *map(_money, amounts)]
            for label, amounts in zip(self.labels, by_label, strict=bool(self.amounts))
            if any(amounts)
        ]
        total = ["total", *(_money(sum(each)) for each in self.amounts.values())]
        return Table("By month of expiry", ["", *map(name, self.amounts)], rows, total)


def status_table(held: Iterable[Held]) -> Table:
    """Return the cards and their money by status."""
    cards = Counter[tuple[Status, CardType]]()
    balances = Counter[tuple[Status, Currency]]()
    for each in held:
        cards[each.status, each.card_type] += each.cards
        if each.currency is not None:
            balances[each.status, each.currency] += each.balance
    types = [type for type in CardType if any(of == type for _, of in cards)]
    currencies = [each for each in Currency if any(of == each for _, of in balances)]
    statuses = [status for status in Status if any(cards[status, type] for type in types)]

    def cells(label: str, of: Sequence[Status]) -> list[str]:
        counts = [sum(cards[status, type] for status in of) for type in types]
        amounts = [sum(balances[status, currency] for status in of) for currency in currencies]
        return [label, *(f"{count:,}" for count in counts), *map(_money, amounts)]

    rows = [cells(words(status), [status]) for status in statuses]
    head = ["", *(f"{words(type)}s" for type in types), *currencies]
    return Table("Cards by status", head, rows, cells("total", statuses))


def order_table(ordered: Iterable[Ordered]) -> Table:
    """Return the orders by state."""
    by_state = {each.state: each for each in ordered}
    rows = [
        [words(state), *(f"{count:,}" for count in by_state[state][1:])]
        for state in BatchState
        if state in by_state
    ]
    return Table("Orders", ["", "orders", "cards ordered", "cards made", "with an error"], rows)


def newest_cohorts(book: Book, found: Iterable[Cohort]) -> list[Cohort]:
    """Return the cohorts of a book that are shown, the newest last: those with any money."""
    of_book = [cohort for cohort in found if cohort.book == book and cohort.ages[-1].loaded > 0]
    return of_book[-COHORTS_MAX:]


def redemption_table(book: Book, found: Sequence[Cohort]) -> Table:
    """Return what share of the newest cohorts of a book was spent, by age."""
    shown = newest_cohorts(book, found)
    longest = max((len(cohort.ages) for cohort in shown), default=0)
    ages = [age for age in AGES_SHOWN if age < longest]
    rows = [
        [
            month_label(cohort.month),
            _money(cohort.ages[-1].loaded),
            *(_percent(cohort, age) for age in ages),
        ]
        for cohort in shown
    ]
    months = ["same month", *(f"after {age}" for age in ages[1:])]
    return Table(name(book), ["activated", "loaded", *months], rows)


def _percent(cohort: Cohort, age: int) -> str:
    share = cohort.ages[age].share if age < len(cohort.ages) else None
    return "" if share is None else f"{share:.1%}"
