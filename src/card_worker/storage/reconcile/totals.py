"""Where the money came from and where it is, by currency."""
# ruff: noqa: S608  # the SQL is made of constants

from dataclasses import dataclass

from sqlalchemy import Connection, text

from card_worker.contracts.enums import Side
from card_worker.storage.reconcile.reading import Reader
from card_worker.storage.reconcile.report import Comparisons


@dataclass(frozen=True, slots=True)
class CurrencyTotals:
    """The totals of one currency over all accounts, in minor units."""

    currency: str
    cards: int
    issued: int
    """By the issuer, corrections and reversals included."""
    spent: int
    """With merchants."""
    ended: int
    """Paid out when a card was closed, or kept when a card expired."""
    between: int
    """Moved from a card and not to another card: 0, unless a transfer has only one end."""
    on_cards: int

    @property
    def adds_up(self) -> bool:
        return self.between == 0 and self.issued == self.spent + self.ended + self.on_cards


def _received(*sides: Side) -> str:
    """Return the sum of what arrived at `sides` less what left them."""
    of = ", ".join(f"'{side}'" for side in sides)
    sign = f"CASE WHEN credit IN ({of}) THEN 1 WHEN debit IN ({of}) THEN -1 ELSE 0 END"
    return f"sum(amount * {sign})"


# A currency may have been issued and be on no card any more.
_TOTALS = f"""
SELECT currency, sum(cards), sum(issued), sum(spent), sum(ended), sum(moved), sum(on_cards)
FROM (
    SELECT currency, 0 AS cards, -{_received(Side.ISSUER)} AS issued,
        {_received(Side.MERCHANT)} AS spent,
        {_received(Side.CUSTOMER, Side.BREAKAGE)} AS ended,
        {_received(Side.OTHER_CARD)} AS moved, 0 AS on_cards
    FROM transactions GROUP BY currency
    UNION ALL
    SELECT currency, count(*), 0, 0, 0, 0, sum(amount_balance)
    FROM cards WHERE currency IS NOT NULL GROUP BY currency
) AS sums
GROUP BY currency ORDER BY currency"""


def totals(connection: Connection) -> list[CurrencyTotals]:
    """Return where money came from and where it is, by currency."""
    rows = connection.execute(text(_TOTALS))
    return [CurrencyTotals(currency, *map(int, sums)) for currency, *sums in rows]


def check_totals(reader: Reader) -> None:
    for sums in totals(reader.connection):
        reader.found.compare("", sums.currency, currencies_add_up(sums))


def currencies_add_up(sums: CurrencyTotals) -> Comparisons:
    """All money that was issued was spent, paid out or kept, or is on cards."""
    yield "money between cards", sums.between, 0
    yield "money issued", sums.issued, sums.spent + sums.ended + sums.on_cards
