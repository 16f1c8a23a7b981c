"""Proving the books: every balance against the rows that made it. Reads, changes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, case, func, or_, select

from card_worker.contracts.kinds import Side, TransactionType
from card_worker.money import Currency
from card_worker.storage.tables import cards, keys, outbox, transactions


@dataclass(frozen=True, slots=True)
class Difference:
    """Two places that should say the same and don't. Amounts in minor units."""

    account_id: str
    subject: str
    what: str
    stands: str
    proven: str


@dataclass(frozen=True, slots=True)
class CurrencyTotals:
    """One currency over all accounts, in minor units. What was issued is what the cards hold."""

    currency: Currency
    cards: int
    issued: int
    on_cards: int

    @property
    def adds_up(self) -> bool:
        return self.issued == self.on_cards


_to_card = func.sum(
    case(
        (transactions.c.credit == Side.CARD, transactions.c.amount),
        (transactions.c.debit == Side.CARD, -transactions.c.amount),
        else_=0,
    )
)
_funds = func.sum(
    case((transactions.c.type == TransactionType.FUND, transactions.c.amount), else_=0)
)


def differences(connection: Connection) -> Iterator[Difference]:
    """Yield every card, transaction and key that contradicts its neighbours."""
    yield from _wrong_balances(connection)
    yield from _broken_chains(connection)
    yield from _unanswered_keys(connection)


def totals(connection: Connection) -> list[CurrencyTotals]:
    """Return what was issued and what the cards hold, by currency."""
    moved = (
        select(transactions.c.currency, _to_card.label("issued"))
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
    statement = select(
        held.c.currency, held.c.cards, func.coalesce(moved.c.issued, 0), held.c.on_cards
    ).select_from(held.outerjoin(moved, held.c.currency == moved.c.currency))
    return [
        CurrencyTotals(currency, count, int(issued), int(on_cards))
        for currency, count, issued, on_cards in connection.execute(
            statement.order_by(held.c.currency)
        )
    ]


def _wrong_balances(connection: Connection) -> Iterator[Difference]:
    rows = (
        select(
            transactions.c.card,
            _to_card.label("balance"),
            _funds.label("funds"),
            func.max(transactions.c.version).label("version"),
        )
        .group_by(transactions.c.card)
        .subquery()
    )
    balance, funds = func.coalesce(rows.c.balance, 0), func.coalesce(rows.c.funds, 0)
    statement = (
        select(
            cards.c.account_id,
            cards.c.card_id,
            cards.c.amount_balance,
            balance.label("proven_balance"),
            cards.c.amount_funds,
            funds.label("proven_funds"),
        )
        .select_from(cards.outerjoin(rows, cards.c.id == rows.c.card))
        .where(or_(cards.c.amount_balance != balance, cards.c.amount_funds != funds))
        .order_by(cards.c.account_id, cards.c.card_id)
    )
    for row in connection.execute(statement):
        for what, stands, proven in (
            ("amount_balance", row.amount_balance, row.proven_balance),
            ("amount_funds", row.amount_funds, row.proven_funds),
        ):
            if stands != proven:
                yield Difference(row.account_id, row.card_id, what, str(stands), str(proven))


def _broken_chains(connection: Connection) -> Iterator[Difference]:
    before = func.lag(transactions.c.balance_after).over(
        partition_by=transactions.c.card, order_by=transactions.c.version
    )
    chained = select(
        transactions.c.card,
        transactions.c.version,
        transactions.c.currency,
        transactions.c.balance_before,
        func.coalesce(before, 0).label("proven"),
    ).subquery()
    wrong = or_(
        chained.c.balance_before != chained.c.proven,
        chained.c.currency != cards.c.currency,
        chained.c.version > cards.c.version,
    )
    statement = (
        select(cards.c.account_id, cards.c.card_id, chained)
        .join(cards, cards.c.id == chained.c.card)
        .where(wrong)
        .order_by(cards.c.account_id, cards.c.card_id, chained.c.version)
    )
    for row in connection.execute(statement):
        what = f"transaction at version {row.version}: balance_before in {row.currency}"
        yield Difference(
            row.account_id, row.card_id, what, str(row.balance_before), str(row.proven)
        )


def _unanswered_keys(connection: Connection) -> Iterator[Difference]:
    statement = (
        select(keys.c.account_id, keys.c.key)
        .select_from(keys.outerjoin(outbox, outbox.c.id == keys.c.event_id))
        .where(outbox.c.id.is_(None))
        .order_by(keys.c.account_id, keys.c.key)
    )
    for row in connection.execute(statement):
        yield Difference(row.account_id, row.key, "answer", "none", "one event")
