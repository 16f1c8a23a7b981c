"""The formats of tokens and PINs that a producer may request."""

import re
from enum import StrEnum
from math import log2
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr
from pydantic_core import PydanticCustomError

DIGITS = "0123456789"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# ASCII symbols without a special meaning in CSV, URLs and shells, and that Code 128 can encode.
SYMBOLS = "-_.~"
LOOKALIKES = "0O1lI"

TOKEN_LENGTH = 36
TOKEN_MIN, TOKEN_MIN_DIGITS, TOKEN_MIN_WITH_PIN = 12, 16, 8
TOKEN_MAX = 128
PREFIX_MAX = 32
PIN_MIN, PIN_MAX = 4, 32

# The first character of a formula in a spreadsheet; in East Asia also full-width.
FORMULA_SIGNS = "=+-@\uff1d\uff0b\uff0d\uff20"
FORMULA_PATTERN = f"(^|;)[{FORMULA_SIGNS.replace('-', '')}-]"
_formula = re.compile(FORMULA_PATTERN)
FORMULA = (
    "must not begin with =, +, - or @, or have one of these after a semicolon:"
    " a spreadsheet reads that as a formula"
)


def is_formula(text: str) -> bool:
    """Return whether a spreadsheet may read `text` in a CSV file as a formula.

    In some languages, spreadsheets also separate cells at semicolons.
    """
    return _formula.search(text) is not None


def no_formula(text: str) -> str:
    """Return `text` unless it is a formula. Raises PydanticCustomError."""
    if is_formula(text):
        raise PydanticCustomError("formula", FORMULA)
    return text


class Barcode(StrEnum):
    """How the token is printed."""

    CODE_128 = "code128"
    QR = "qr"


class _Alphabet(BaseModel):
    """The characters to choose from. Default: digits and letters. If one is given, only those."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    symbols: StrictBool | None = Field(None, description=f"Use the symbols {SYMBOLS}.")
    numbers: StrictBool | None = Field(None, description="Use digits.")
    characters: StrictBool | None = Field(None, description="Use letters, upper and lower case.")
    unambiguous: StrictBool = Field(
        False, description=f"Don't use the similar characters {' '.join(LOOKALIKES)}."
    )

    @property
    def alphabet(self) -> str:
        """The characters to choose from, each once."""
        flags = (self.numbers, self.characters, self.symbols)
        if flags == (None, None, None):
            flags = (True, True, None)
        kinds = zip(flags, (DIGITS, LETTERS, SYMBOLS), strict=True)
        drawn = "".join(kind for flag, kind in kinds if flag)
        return "".join(c for c in drawn if not (self.unambiguous and c in LOOKALIKES))

    def bits(self, length: int) -> float:
        """Return the random bits of the first `length` characters. They begin no formula."""
        firsts = [c for c in self.alphabet if c not in FORMULA_SIGNS]
        return log2(len(firsts)) + (length - 1) * log2(len(self.alphabet))


class TokenFormat(_Alphabet):
    """Format of a token. Without a format a token is `DINCARD:` and a random UUID."""

    length: Annotated[StrictInt, Field(ge=1, le=TOKEN_MAX)] = Field(
        TOKEN_LENGTH, description="Number of characters after the prefix."
    )
    prefix: Annotated[
        StrictStr,
        Field(
            max_length=PREFIX_MAX,
            pattern=r"^[!#-&(-\[\]-~]*$",
            json_schema_extra={"not": {"pattern": FORMULA_PATTERN}},
        ),
        AfterValidator(no_formula),
    ] = Field(
        "",
        description="Text before the random part: printable ASCII without spaces, quotes and"
        " backslash. It must not begin with `=`, `+`, `-` or `@`.",
    )
    barcode: Barcode | None = Field(None, description="Barcode to print. Default: none.")

    def weakness(self, *, with_pin: bool) -> str | None:
        """Return why tokens of this format are too easy to guess; None if they aren't.

        With a PIN, shorter tokens are accepted.
        """
        if not self.alphabet:
            return "leaves no character to choose from"
        only_digits = set(self.alphabet) <= set(DIGITS)
        alone = TOKEN_MIN_DIGITS if only_digits else TOKEN_MIN
        least = TOKEN_MIN_WITH_PIN if with_pin else alone
        if self.length >= least:
            return None
        return f"must have at least {least} characters{'' if with_pin else ' without a PIN'}"


class PinFormat(_Alphabet):
    """Format of a PIN. Without a format a PIN is four random digits."""

    length: Annotated[StrictInt, Field(ge=1, le=PIN_MAX)] = Field(
        PIN_MIN, description="Number of characters."
    )

    @property
    def weakness(self) -> str | None:
        """Why PINs of this format are too easy to guess; None if they aren't."""
        if not self.alphabet:
            return "leaves no character to choose from"
        return None if self.length >= PIN_MIN else f"must have at least {PIN_MIN} characters"


FOUR_DIGITS = PinFormat(numbers=True)
