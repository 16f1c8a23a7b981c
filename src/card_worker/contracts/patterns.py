"""Patterns of card_ids: the names of the cards of an order, made from their numbers.

"JUL26-{n:08d}"            JUL26-00000001, JUL26-00000002 …
"GC{n:010d}{luhn}"         with a check digit over all digits before it
"""

import re
from functools import lru_cache
from typing import NamedTuple

from pydantic_core import PydanticCustomError

CARD_ID_CHARS_MAX = 255
WIDTH_MAX = 18
_FIELD = re.compile(r"\{n(?::0([1-9][0-9]?)d)?\}")
_LUHN = "{luhn}"
PATTERN = r"^[^{}]*\{n(:0([1-9]|1[0-8])d)?\}[^{}]*(\{luhn\})?$"
"""The rule for patterns as a regular expression, without the rules for ids."""
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


class Pattern(NamedTuple):
    """A pattern, split at its number."""

    before: str
    width: int
    """Least number of digits."""
    after: str
    is_checked: bool
    """Whether there is a check digit at the end."""

    @classmethod
    def read(cls, text: str) -> "Pattern":
        """Parse a pattern. Raises PydanticCustomError."""
        is_checked = text.endswith(_LUHN)
        bare = text.removesuffix(_LUHN)
        fields = list(_FIELD.finditer(bare))
        if len(fields) != 1:
            raise PydanticCustomError("pattern", "must have one number, written as {n} or {n:08d}")
        (field,) = fields
        before, after = bare[: field.start()], bare[field.end() :]
        if set("{}") & set(before + after):
            raise PydanticCustomError(
                "pattern", "must have no other braces than the number and, at the end, {luhn}"
            )
        width = int(field[1] or 1)
        if width > WIDTH_MAX:
            raise PydanticCustomError("pattern", "must have a number of at most 18 digits")
        return cls(before, width, after, is_checked)

    @classmethod
    @lru_cache(maxsize=256)
    def known(cls, text: str) -> "Pattern":
        """Return a pattern that was validated before."""
        return cls.read(text)

    def card_id(self, number: int) -> str:
        """Return the card_id of the card with this number."""
        name = f"{self.before}{number:0{self.width}d}{self.after}"
        return name + check_digit(name) if self.is_checked else name

    def number_of(self, card_id: str) -> int | None:
        """Return the number of a card; None when its card_id doesn't match the pattern."""
        name = card_id[:-1] if self.is_checked else card_id
        digits = name[len(self.before) : len(name) - len(self.after)]
        if not (digits.isascii() and digits.isdigit()) or len(digits) > WIDTH_MAX:
            return None
        number = int(digits)
        return number if self.card_id(number) == card_id else None

    def card_ids(self, first: int, count: int) -> list[str]:
        """Return the card_ids of `count` cards from number `first` on."""
        if self.is_checked:
            return [self.card_id(number) for number in range(first, first + count)]
        before, width, after = self.before, self.width, self.after
        return [f"{before}{number:0{width}d}{after}" for number in range(first, first + count)]

    def fits(self, count: int) -> bool:
        """Say whether all card_ids from 1 to `count` are short enough."""
        return len(self.card_id(count)) <= CARD_ID_CHARS_MAX


def check_digit(text: str) -> str:
    """Return the Luhn digit over all digits in `text`, as in ISO/IEC 7812-1."""
    total = 0
    for place, digit in enumerate(int(c) for c in reversed(text) if c in "0123456789"):
        total += _DOUBLED[digit] if place % 2 == 0 else digit
    return str(-total % 10)
