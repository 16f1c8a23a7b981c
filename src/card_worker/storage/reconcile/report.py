"""The differences that are reported: a value in the database beside the value that is expected."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from card_worker.contracts.json_text import write_json, write_time

Comparison: TypeAlias = tuple[str, object, object]
"""What is compared, its actual value and its expected value."""
Comparisons: TypeAlias = Iterator[Comparison]
"""What a check yields, equal or not."""
_UNREADABLE = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""The errors of a check of a row whose content was not written by this software."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A value in the database that contradicts other values. Amounts are in minor units."""

    check: str
    """The name of the check that found it."""
    account_id: str
    """Empty if the row has no account."""
    subject: str
    """The card, batch, key, file, event or other row."""
    what: str
    actual: str
    expected: str


class Differences(list[Difference]):
    """The first `limit` differences, or all, in the order in which they were found."""

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()
        self.total = 0
        """The number of differences without a limit."""
        self._limit, self._known = limit, set[Difference]()

    def compare(self, account_id: str, subject: object, *checks: Comparisons) -> None:
        """Add what these checks of a subject find: unequal values, and the error that ends one.

        Each check is a generator. Its function's name is reported.
        """
        for check in checks:
            name: str = check.__name__  # type: ignore[attr-defined]  # as each generator has
            try:
                for comparison in check:
                    if comparison[1] is not comparison[2] and _differ(*comparison[1:]):
                        self.add(name, account_id, subject, comparison)
            except _UNREADABLE as error:
                problem = f"{type(error).__name__}: {error}"
                self.add(name, account_id, subject, ("content", problem, "readable content"))

    def add(self, check: str, account_id: str, subject: object, comparison: Comparison) -> None:
        """Add a difference, unless another pass has found it in the same row."""
        difference = Difference(check, account_id, *map(_text, (subject, *comparison)))
        if difference not in self._known:
            self.total += 1
            if self._limit is None or self.total <= self._limit:
                self.append(difference)
                self._known.add(difference)


def fields(row: object, expected: Mapping[str, object], prefix: str = "") -> Comparisons:
    """Compare the fields of a row with the values expected of them."""
    for name, value in expected.items():
        yield prefix + name, getattr(row, name), value


def _differ(actual: object, expected: object) -> bool:
    """Say whether two values differ. 1, 1.0 and true differ, also within JSON."""
    if actual != expected:
        return True
    is_plain = type(actual) is type(expected) and not isinstance(actual, dict | list)
    return not is_plain and _text(actual) != _text(expected)


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, str | UUID):
        return str(value)
    return write_time(value) if isinstance(value, datetime) else write_json(value)
