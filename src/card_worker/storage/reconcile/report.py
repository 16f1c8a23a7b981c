"""What is reported: a value in the database beside what it should be."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, TypeAlias

from card_worker.contracts.json_text import write_json, write_time

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the name of a pass over the database, how many rows it has read, and of how many."""


class Wrong(NamedTuple):
    """A value that contradicts another one."""

    what: str
    stands: object
    proven: object


@dataclass(frozen=True, slots=True)
class Difference:
    """A value in the database that contradicts another one. Amounts in minor units."""

    check: str
    """The name of the function that found it."""
    account_id: str
    subject: str
    """Which card, batch, key, file or event."""
    what: str
    stands: str
    proven: str
    """What it should be."""


def report(
    check: str, account_id: object, subject: object, *found: Iterator[Wrong]
) -> Iterator[Difference]:
    """Yield what a check has found about a subject, or the error with which it ended."""
    for each in found:
        try:
            for wrong in each:
                yield difference(check, account_id, subject, wrong)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            broken = Wrong("something in it", repr(error), "as it was written")
            yield difference(check, account_id, subject, broken)


def difference(check: str, account_id: object, subject: object, wrong: Wrong) -> Difference:
    """Return a wrong value as a difference."""
    return Difference(
        check, str(account_id), str(subject), wrong.what, _text(wrong.stands), _text(wrong.proven)
    )


def unequal(what: str, stands: object, proven: object) -> Iterator[Wrong]:
    """Yield a difference if two values differ, 1 and true, and 1 and 1.0, among them."""
    if stands == proven and type(stands) is type(proven) and not isinstance(stands, dict | list):
        return  # as nearly always
    if stands != proven or _text(stands) != _text(proven):
        yield Wrong(what, stands, proven)


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        return str(value)
    return write_time(value) if isinstance(value, datetime) else write_json(value)
