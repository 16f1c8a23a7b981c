"""Reading the figures of a report from the database."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, tzinfo

from sqlalchemy import Connection

from card_worker.cli.report import figures
from card_worker.cli.report.periods import (
    Segment,
    midnight,
    month_number,
    months_before,
    months_from,
    segments,
)
from card_worker.cli.report.tables import EXPIRIES_MAX, Expiries
from card_worker.storage import finance

AGES_MONTHS = (24, 12, 3)


@dataclass(frozen=True, slots=True)
class Scope:
    """What a report is about: an account or all, the months, and the time zone."""

    account_id: str | None
    first: date
    last: date
    """The first day that is not in the report."""
    zone: tzinfo
    zone_name: str


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a report, read at one moment."""

    books: dict[figures.Book, figures.RollForward]
    differences: list[figures.Difference]
    cohorts: list[figures.Cohort]
    held: list[finance.Held]
    ordered: list[finance.Ordered]
    expiries: Expiries


def read_figures(connection: Connection, scope: Scope, now: datetime) -> Figures:
    """Read all figures of a report."""
    finance.plan_for_sums(connection)
    history, period = _history(connection, scope)
    bounds = [*(each.start for each in history), history[-1].end]
    moved = finance.sum_moved(connection, scope.account_id, bounds)
    books, balances = figures.roll_forward(moved, history, period)
    today = now.astimezone(scope.zone).date()
    months = months_from(today, EXPIRIES_MAX + 1)
    held = finance.sum_held(
        connection,
        scope.account_id,
        now,
        ages=[midnight(months_before(today, months), scope.zone) for months in AGES_MONTHS],
        # What expires later this month is not overdue.
        expiries=[now, *(midnight(month, scope.zone) for month in months[1:])],
    )
    return Figures(
        books,
        figures.differences(balances, held),
        figures.cohorts(moved, history),
        held,
        finance.sum_ordered(connection, scope.account_id),
        Expiries.of(held, month_number(today)),
    )


def _history(connection: Connection, scope: Scope) -> tuple[list[Segment], Sequence[Segment]]:
    """Return all segments from the first movement on, and those of the report."""
    period = [*segments(scope.first, scope.last, scope.zone)]
    oldest = finance.first_movement(connection, scope.account_id) or period[0].start
    begin = min(oldest.astimezone(scope.zone).date().replace(day=1), scope.first)
    return [*segments(begin, scope.first, scope.zone), *period], period
