"""Money: whole numbers of minor units, and currencies."""

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, StrictInt
from pydantic_core import PydanticCustomError

AMOUNT_MAX = 2**53 - 1
"""The largest amount in minor units: the largest integer that every JSON parser reads exactly."""


class Currency(StrEnum):
    """ISO 4217 codes. All of them have two decimals."""

    NOK = "NOK"
    SEK = "SEK"
    DKK = "DKK"
    EUR = "EUR"
    USD = "USD"


Amount = Annotated[StrictInt, Field(ge=0, le=AMOUNT_MAX)]
"""Minor units. `"5"`, `5.0`, `true` and NaN are not amounts."""

Positive = Annotated[StrictInt, Field(gt=0, le=AMOUNT_MAX)]
"""Minor units, more than 0."""


def _not_zero(amount: int) -> int:
    if amount == 0:
        raise PydanticCustomError("zero", "must not be 0")
    return amount


Signed = Annotated[
    StrictInt,
    Field(ge=-AMOUNT_MAX, le=AMOUNT_MAX, json_schema_extra={"not": {"const": 0}}),
    AfterValidator(_not_zero),
]
"""Minor units, positive or negative, but not 0."""


def in_words(amount_minor: int, currency: Currency | None) -> str:
    """Return an amount for people: `500.00 NOK`; `-` if the card has no currency yet."""
    return "-" if currency is None else f"{in_units(amount_minor)} {currency}"


def in_units(amount_minor: int) -> str:
    """Return an amount without its currency: `1,500.00`."""
    units, cents = divmod(abs(amount_minor), 100)
    return f"{'-' if amount_minor < 0 else ''}{units:,}.{cents:02}"
