"""The CSV files of the report. Amounts are in units of the currency, such as 1500.00."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO

from card_worker.cli.report.figures import COLUMNS, Book, Cohort, RollForward
from card_worker.cli.report.periods import month_label
from card_worker.cli.report.tables import AGES, Expiries
from card_worker.contracts.enums import Funding
from card_worker.money import in_units
from card_worker.storage.finance import Held, Ordered


def roll_forward_csv(books: Mapping[Book, RollForward]) -> bytes:
    adjusted = [f"adjusted_up_{funding}" for funding in Funding]
    head = ["currency", "card_type", "period", "opening", *COLUMNS, "closing", *adjusted]
    return _csv(
        head,
        (
            [
                *(*book, row.label),
                *map(_units, (row.opening, *row.moved.values(), row.closing)),
                *map(_units, row.adjusted_up.values()),
            ]
            for book, forward in books.items()
            for row in forward.rows
        ),
    )


def liability_csv(held: Iterable[Held], expiries: Expiries) -> bytes:
    head = ["currency", "card_type", "status", "last_moved", "expires", "cards", "balance"]
    ages = dict(enumerate(reversed(AGES)))
    return _csv(
        [*head, "on_hold"],
        sorted(
            [
                each.currency or "",
                each.card_type,
                each.status,
                "" if each.age is None else ages[each.age],
                expiries.labels[-1 if each.expiry is None else each.expiry],
                str(each.cards),
                _units(each.balance),
                _units(each.reserved),
            ]
            for each in held
        ),
    )


def order_csv(ordered: Iterable[Ordered]) -> bytes:
    return _csv(Ordered._fields, (map(str, each) for each in ordered))


def redemption_csv(found: Iterable[Cohort]) -> bytes:
    head = ["currency", "card_type", "activated", "months_after", "loaded", "spent"]
    return _csv(
        [*head, "cashed_out", "breakage", "share_spent"],
        (
            [
                *(*cohort.book, month_label(cohort.month), str(age)),
                *map(_units, (each.loaded, each.spent, each.cashed_out, each.breakage)),
                "" if each.share is None else f"{each.share:.4f}",
            ]
            for cohort in found
            for age, each in enumerate(cohort.ages)
        ),
    )


def _units(amount: int) -> str:
    return in_units(amount).replace(",", "")


def _csv(head: Sequence[str], rows: Iterable[Iterable[str]]) -> bytes:
    text = StringIO(newline="")
    csv.writer(text).writerows([head, *rows])
    return text.getvalue().encode()
