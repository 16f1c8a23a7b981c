"""Proving the books: every balance against the rows that made it. Reads, changes nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FunctionElement,
    case,
    func,
    not_,
    or_,
    select,
    union,
)

from card_worker.contracts.kinds import BatchState, Side, TransactionType
from card_worker.money import Currency
from card_worker.storage.tables import (
    batches,
    cards,
    holds,
    keys,
    outbox,
    pins,
    tokens,
    transactions,
)


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


def _received(*sides: Side) -> ColumnElement[int]:
    """Return what arrived at `sides` less what left them."""
    return _sum(
        (transactions.c.credit.in_(sides), transactions.c.amount),
        (transactions.c.debit.in_(sides), -transactions.c.amount),
    )


def _sum(*cases: tuple[ColumnElement[bool], ColumnElement[int]]) -> ColumnElement[int]:
    return func.sum(case(*cases, else_=0))


def _is(*types: TransactionType) -> ColumnElement[bool]:
    return transactions.c.type.in_(types)


# What each of a card's amounts is the sum of.
_PROOFS: Mapping[str, ColumnElement[int]] = {
    "amount_balance": _received(Side.CARD),
    "amount_funds": _sum(
        (_is(TransactionType.FUND), transactions.c.amount),
        (_is(TransactionType.REVERSAL), -transactions.c.amount),
    ),
    "amount_drawdown": _sum((_is(TransactionType.DRAWDOWN), transactions.c.amount)),
    "amount_pending": _sum((_is(TransactionType.PENDING_CAPTURE), transactions.c.amount)),
    "amount_reserved": _sum(
        (transactions.c.credit == Side.RESERVED, transactions.c.amount),
        (transactions.c.debit == Side.RESERVED, -transactions.c.amount),
        # A drawdown that has a parent takes what was locked.
        (
            _is(TransactionType.DRAWDOWN) & transactions.c.parent_id.is_not(None),
            -transactions.c.amount,
        ),
    ),
}


def differences(connection: Connection) -> Iterator[Difference]:
    """Yield every card, transaction, key, token, PIN and batch that contradicts its neighbours."""
    yield from _wrong_balances(connection)
    yield from _broken_chains(connection)
    yield from _wrong_holds(connection)
    yield from _unanswered_keys(connection)
    yield from _lost_codes(connection)
    yield from _miscounted_batches(connection)


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
        both.c.currency,
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


def _wrong_balances(connection: Connection) -> Iterator[Difference]:
    proofs = [proof.label(name) for name, proof in _PROOFS.items()]
    rows = select(transactions.c.card, *proofs).group_by(transactions.c.card).subquery()
    proven = {name: func.coalesce(rows.c[name], 0) for name in _PROOFS}
    statement = (
        select(
            cards.c.account_id,
            cards.c.card_id,
            *(cards.c[name] for name in _PROOFS),
            *(proof.label(f"proven_{name}") for name, proof in proven.items()),
        )
        .select_from(cards.outerjoin(rows, cards.c.id == rows.c.card))
        .where(or_(*(cards.c[name] != proof for name, proof in proven.items())))
        .order_by(cards.c.account_id, cards.c.card_id)
    )
    for row in connection.execute(statement).mappings():
        for name in _PROOFS:
            stands, is_so = str(row[name]), str(row[f"proven_{name}"])
            if stands != is_so:
                yield Difference(row["account_id"], row["card_id"], name, stands, is_so)


def _wrong_holds(connection: Connection) -> Iterator[Difference]:
    """Look at each hold beside its transaction, and what was captured and released of that."""
    moved = (
        select(
            transactions.c.parent_id,
            _sum((_is(TransactionType.DRAWDOWN), transactions.c.amount)).label("captured"),
            _sum((_is(TransactionType.VOIDED), transactions.c.amount)).label("released"),
        )
        .where(transactions.c.parent_id.is_not(None))
        .group_by(transactions.c.parent_id)
        .subquery()
    )
    pending = transactions.alias()
    proven = {
        "amount": func.coalesce(pending.c.amount, 0),
        "captured": func.coalesce(moved.c.captured, 0),
        "released": func.coalesce(moved.c.released, 0),
    }
    placed = (pending.c.id == holds.c.id) & (pending.c.type == TransactionType.PENDING_CAPTURE)
    statement = (
        select(
            holds.c.account_id,
            holds.c.id,
            *(holds.c[name] for name in proven),
            *(proof.label(f"proven_{name}") for name, proof in proven.items()),
        )
        .select_from(
            holds.outerjoin(pending, placed).outerjoin(moved, moved.c.parent_id == holds.c.id)
        )
        .where(or_(*(holds.c[name] != proof for name, proof in proven.items())))
        .order_by(holds.c.id)
    )
    for row in connection.execute(statement).mappings():
        for name in proven:
            stands, is_so = str(row[name]), str(row[f"proven_{name}"])
            if stands != is_so:
                what = f"hold {row['id']}: {name}"
                yield Difference(row["account_id"], str(row["id"]), what, stands, is_so)


def _broken_chains(connection: Connection) -> Iterator[Difference]:
    """Look at each transaction beside the one before it, and at the last beside its card."""
    before = _in_order(func.lag(transactions.c.balance_after))
    chained = select(
        transactions.c.card,
        transactions.c.version,
        transactions.c.type,
        transactions.c.currency,
        transactions.c.balance_before,
        func.coalesce(before, 0).label("proven"),
        _in_order(func.lag(transactions.c.currency)).label("currency_before"),
        _in_order(func.lead(transactions.c.version)).label("next"),
    ).subquery()
    # Only a card whose activation was reversed can begin again in another currency.
    changes = chained.c.currency_before != chained.c.currency
    is_last = chained.c.next.is_(None) & (chained.c.type != TransactionType.REVERSAL)
    wrong = or_(
        chained.c.balance_before != chained.c.proven,
        changes & (chained.c.balance_before != 0),
        is_last & (chained.c.currency != cards.c.currency),
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


def _in_order(value: FunctionElement[Any]) -> ColumnElement[Any]:
    """Return a value of the transaction before, or after, on the same card."""
    return value.over(partition_by=transactions.c.card, order_by=transactions.c.version)


def _unanswered_keys(connection: Connection) -> Iterator[Difference]:
    statement = (
        select(keys.c.account_id, keys.c.key)
        .select_from(keys.outerjoin(outbox, outbox.c.id == keys.c.event_id))
        .where(outbox.c.id.is_(None))
        .order_by(keys.c.account_id, keys.c.key)
    )
    for row in connection.execute(statement):
        yield Difference(row.account_id, row.key, "answer", "none", "one event")


def _lost_codes(connection: Connection) -> Iterator[Difference]:
    for table, card, what in (
        (tokens, tokens.c.card, "token's card"),
        (pins, pins.c.id, "PIN's card"),
    ):
        is_its_card = (cards.c.id == card) & (cards.c.account_id == table.c.account_id)
        statement = (
            select(table.c.account_id, table.c.id)
            .select_from(table.outerjoin(cards, is_its_card))
            .where(cards.c.id.is_(None))
            .order_by(table.c.account_id, table.c.id)
        )
        for row in connection.execute(statement):
            yield Difference(row.account_id, str(row.id), what, "none", "one card")


def _miscounted_batches(connection: Connection) -> Iterator[Difference]:
    """Yield batches that have other cards than they count. One that is being removed counts on."""
    made = (
        select(cards.c.account_id, cards.c.batch_id, func.count().label("cards"))
        .where(cards.c.batch_id.is_not(None))
        .group_by(cards.c.account_id, cards.c.batch_id)
        .subquery()
    )
    its_own = (made.c.account_id == batches.c.account_id) & (made.c.batch_id == batches.c.batch_id)
    number = func.coalesce(made.c.cards, 0)
    is_removed = (batches.c.state == BatchState.CANCELLED) & batches.c.completed_at.is_(None)
    statement = (
        select(batches.c.account_id, batches.c.batch_id, batches.c.created, number)
        .select_from(batches.outerjoin(made, its_own))
        .where(batches.c.created != number, not_(is_removed & batches.c.busy))
        .order_by(batches.c.account_id, batches.c.batch_id)
    )
    for account_id, batch_id, created, cards_made in connection.execute(statement):
        yield Difference(account_id, batch_id, "created", str(created), f"{cards_made} cards")
