"""Random cards and transactions for reports: many rows, stored as they are, without events."""

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Engine, Table, insert

from card_worker.contracts.enums import CardType, Funding, Side, TransactionType
from card_worker.domain.rows import Card, State, Transaction
from card_worker.money import Currency
from card_worker.storage.engine import begin
from card_worker.storage.pipeline import raw_connection
from card_worker.storage.tables import cards, transactions

ACCOUNTS = ("T00000001", "T00000002")
FIRST, LAST = datetime(2024, 1, 20, tzinfo=UTC), datetime(2026, 6, 10, tzinfo=UTC)
ZONES = [ZoneInfo(name) for name in ("UTC", "Europe/Oslo", "America/New_York")]
IN, OUT = TransactionType.FUND, TransactionType.DRAWDOWN
OTHER_WAYS = (
    (TransactionType.ADJUSTMENT, Side.ISSUER, Side.CARD),
    (TransactionType.ADJUSTMENT, Side.CARD, Side.ISSUER),
    (TransactionType.TRANSFER, Side.OTHER_CARD, Side.CARD),
    (TransactionType.TRANSFER, Side.CARD, Side.OTHER_CARD),
    (TransactionType.CASH_OUT, Side.CARD, Side.CUSTOMER),
    (TransactionType.REVERSAL, Side.CARD, Side.ISSUER),
    (TransactionType.BREAKAGE, Side.CARD, Side.BREAKAGE),
    (TransactionType.PENDING_CAPTURE, Side.AVAILABLE, Side.RESERVED),
    (TransactionType.VOIDED, Side.RESERVED, Side.AVAILABLE),
)


class Rows(NamedTuple):
    cards: list[Card]
    transactions: list[Transaction]


def random_rows(number: int, seed: int = 1) -> Rows:
    """Return at least so many transactions, and their cards. Other seeds have other ids."""
    chance, numbers = random.Random(seed), count(seed * 10**9)
    rows = Rows([], [])
    while len(rows.transactions) < number:
        card, moved = _card(chance, numbers)
        rows.cards.append(card)
        rows.transactions.extend(moved)
    return rows


def _card(chance: random.Random, numbers: Iterator[int]) -> tuple[Card, list[Transaction]]:
    id, account = UUID(int=next(numbers)), chance.choice(ACCOUNTS)
    currency, type = chance.choice([*Currency][:3]), chance.choice([*CardType])
    times = sorted(_time(chance) for _ in range(chance.randint(1, 9)))
    balance, moved = 0, list[Transaction]()
    for version, at in enumerate(times, start=1):
        way = (IN, Side.ISSUER, Side.CARD)
        if balance and version > 1:
            spends = (OUT, Side.CARD, Side.MERCHANT)
            way = chance.choice([way, spends, spends, chance.choice(OTHER_WAYS)])
        kind, debit, credit = way
        amount = chance.randint(1, 10**6 if credit is Side.CARD else balance)
        change = {Side.CARD: amount}.get(credit, 0) - {Side.CARD: amount}.get(debit, 0)
        is_refund = kind is IN and version > 1 and chance.random() < 0.3
        # Funds from before 0.2 have no funding.
        funding = chance.choice([*Funding, None]) if change > 0 and not is_refund else None
        moved.append(
            Transaction(
                id=UUID(int=next(numbers)),
                account_id=account,
                card=id,
                type=kind,
                amount=amount,
                currency=currency,
                debit=debit,
                credit=credit,
                balance_before=balance,
                balance_after=balance + change,
                version=version,
                created_at=at,
                parent_id=moved[-1].id if is_refund else None,
                funding=funding if kind is not TransactionType.TRANSFER else None,
            )
        )
        balance += change
    expires = chance.choice([None, _time(chance), _time(chance) + timedelta(days=500)])
    if expires is not None and abs(expires - datetime.now(UTC)) < timedelta(hours=1):
        expires = None  # it would expire in the middle of a test
    card = Card(
        id=id,
        account_id=account,
        card_id=f"card-{id.int:012}",
        type=type,
        state=chance.choice([State.ACTIVE, State.ACTIVE, State.ACTIVE, State.CLOSED]),
        created_at=times[0],
        blocked=chance.random() < 0.05,
        currency=currency,
        activated_at=chance.choice(times[:2]) if chance.random() < 0.95 else None,
        expires_at=expires,
        version=len(times),
        amount_drawdown=sum(each.amount for each in moved if each.type is OUT),
        amount_balance=balance,
        amount_reserved=chance.choice([0, 0, 0, balance // 2]),
    )
    return card, moved


def _time(chance: random.Random) -> datetime:
    """Return a time; one in twenty is the first or the last moment of a month somewhere."""
    seconds = chance.randrange(int((LAST - FIRST).total_seconds()))
    at = FIRST + timedelta(seconds=seconds, milliseconds=chance.randrange(1000))
    if chance.random() > 0.05:
        return at
    local = at.astimezone(chance.choice(ZONES))
    start = local.replace(day=1, hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)
    return max(FIRST, start - timedelta(milliseconds=chance.choice([0, 1])))


def insert_rows(engine: Engine, rows: Rows) -> None:
    """Store the rows."""
    with begin(engine) as (connection, _):
        for table, of_table in ((cards, rows.cards), (transactions, rows.transactions)):
            if engine.dialect.name == "postgresql":
                _copy(connection, table, of_table)
            else:
                connection.execute(insert(table), [each._asdict() for each in of_table])


def _copy(
    connection: Connection, table: Table, rows: Sequence[Card] | Sequence[Transaction]
) -> None:
    names = ", ".join(rows[0]._fields)
    statement = f"COPY {table.name} ({names}) FROM STDIN".encode()
    with raw_connection(connection) as driver, driver.cursor().copy(statement) as copy:
        for row in rows:
            copy.write_row([str(each) if isinstance(each, str) else each for each in row])
