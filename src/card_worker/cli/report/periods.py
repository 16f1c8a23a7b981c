"""The months of a report, in a time zone."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

_MONTH_OR_DAY = re.compile(r"([1-9]\d{3})-(\d\d)(?:-(\d\d))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Segment:
    """A month or a part of one, from `start` until before `end`; both times are in UTC."""

    start: datetime
    end: datetime
    month: int
    """Months since the year 0."""
    label: str


class NotAPeriod(ValueError):
    """A text is neither a month nor a day. The text says so."""


def first_day(text: str) -> date:
    """Return the first day of a month, such as `2026-11`, or a day. Raises NotAPeriod."""
    return _days(text)[0]


def day_after(text: str) -> date:
    """Return the day after a month or a day. Raises NotAPeriod."""
    return _days(text)[1]


def _days(text: str) -> tuple[date, date]:
    parts = _MONTH_OR_DAY.fullmatch(text)
    with suppress(ValueError, OverflowError):
        if parts is not None:
            month, day = int(parts[1]) * 12 + int(parts[2]) - 1, parts[3]
            start = date(int(parts[1]), int(parts[2]), int(day or 1))
            return start, start + timedelta(days=1) if day else _month_start(month + 1)
    raise NotAPeriod(f"{text} is not a month such as 2026-11, or a day such as 2026-11-30")


def month_number(day: date) -> int:
    """Return the number of months since the year 0."""
    return day.year * 12 + day.month - 1


def month_label(month: int) -> str:
    """Return a month as `2026-11`."""
    return f"{_month_start(month):%Y-%m}"


def midnight(day: date, zone: tzinfo) -> datetime:
    """Return when a day begins, in UTC."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def segments(first: date, last: date, zone: tzinfo) -> Iterator[Segment]:
    """Yield the months between two days; the first and the last may be parts of a month."""
    day = first
    while day < last:
        month = month_number(day)
        after = min(_month_start(month + 1), last)
        is_whole = day.day == 1 and after.day == 1
        label = month_label(month) if is_whole else f"{day} – {after - timedelta(days=1)}"
        yield Segment(midnight(day, zone), midnight(after, zone), month, label)
        day = after


def months_before(day: date, months: int) -> date:
    """Return the same day so many months before, or the last day of that month if it is shorter."""
    month = month_number(day) - months
    last = _month_start(month + 1) - timedelta(days=1)
    return min(_month_start(month) + timedelta(days=day.day - 1), last)


def months_from(day: date, count: int) -> list[date]:
    """Return the first days of this month and of those after it."""
    return [_month_start(month_number(day) + number) for number in range(count)]


def _month_start(month: int) -> date:
    return date(month // 12, month % 12 + 1, 1)
