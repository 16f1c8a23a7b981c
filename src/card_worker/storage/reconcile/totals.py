"""Where the money came from and where it is, by currency."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, case, func, select, union

from card_worker.contracts.enums import Side
from card_worker.money import Currency
from card_worker.storage.reconcile.reading import Books, as_stored
from card_worker.storage.reconcile.report import Difference, report, unequal
from card_worker.storage.tables import cards, transactions


@dataclass(frozen=True, slots=True)
class CurrencyTotals:
    """One currency over all accounts, in minor units: where money came from and where it is."""

    currency: Currency
    cards: int
    issued: int
    """By the issuer, corrections and reversals included."""
    spent: int
    """With merchants."""
    ended: int
    """Paid out when a card was closed, or kept when one expired."""
    between: int
    """On its way from one card to another: nothing, unless a transfer has but one end."""
    on_cards: int

    @property
    def adds_up(self) -> bool:
        return self.between == 0 and self.issued == self.spent + self.ended + self.on_cards


def totals(connection: Connection) -> list[CurrencyTotals]:
    """Return where money came from and where it is, by currency."""
    moved = (
        select(
            transactions.c.currency,
            (-_received(Side.ISSUER)).label("issued"),
            _received(Side.MERCHANT).label("spent"),
            _received(Side.CUSTOMER, Side.BREAKAGE).label("ended"),
            _received(Side.OTHER_CARD).label("between"),
        )
        .group_by(transactions.c.currency)
        .subquery()
    )
    held = (
        select(
            cards.c.currency,
            func.count().label("cards"),
            func.sum(cards.c.amount_balance).label("on_cards"),
        )
        .where(cards.c.currency.is_not(None))
        .group_by(cards.c.currency)
        .subquery()
    )
    flows = [func.coalesce(moved.c[name], 0) for name in ("issued", "spent", "ended", "between")]
    # A currency may be on no card any more, and yet have been issued.
    both = union(select(held.c.currency), select(moved.c.currency)).subquery()
    statement = select(
        as_stored(both.c.currency),
        func.coalesce(held.c.cards, 0),
        *flows,
        func.coalesce(held.c.on_cards, 0),
    ).select_from(
        both.outerjoin(held, both.c.currency == held.c.currency).outerjoin(
            moved, both.c.currency == moved.c.currency
        )
    )
    return [
        CurrencyTotals(currency, *map(int, sums))
        for currency, *sums in connection.execute(statement.order_by(both.c.currency))
    ]


def currencies_add_up(books: Books) -> Iterator[Difference]:
    """Prove that all money that was issued was spent, has ended, or is on cards."""
    for one in totals(books.connection):
        if not one.adds_up:
            there = one.spent + one.ended + one.on_cards
            proofs = (
                unequal("money between cards", one.between, 0),
                unequal("money issued", one.issued, there),
            )
            yield from report("currencies_add_up", "", one.currency, *proofs)


def _received(*sides: Side) -> ColumnElement[int]:
    """Return what arrived at `sides` less what left them."""
    return func.sum(
        case(
            (transactions.c.credit.in_(sides), transactions.c.amount),
            (transactions.c.debit.in_(sides), -transactions.c.amount),
            else_=0,
        )
    )
