"""Loading the books: the rows that a group of commands needs."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime
from functools import cache
from itertools import chain
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import CTE, Connection, FromClause, Select, bindparam, func, select, union

from card_worker.contracts.batches import CARDS_PER_ORDER_MAX
from card_worker.contracts.enums import TransactionType
from card_worker.contracts.patterns import Pattern
from card_worker.domain.books import Books
from card_worker.domain.needs import Needs, TokenKey, TransactionKey
from card_worker.domain.rows import (
    Batch,
    BatchKey,
    Card,
    CardKey,
    Hold,
    Pin,
    PinAttempt,
    Token,
    Transaction,
)
from card_worker.storage.accounts import find_accounts
from card_worker.storage.batches import find_busy, find_reserved, taken_card_ids
from card_worker.storage.json_rows import (
    Row,
    columns_named,
    find,
    find_rows,
    json_table,
    matching,
    parameters,
    send_with_rows,
)
from card_worker.storage.pipeline import Pending, send
from card_worker.storage.tables import (
    attempt_counts,
    batches,
    cards,
    hold_is_open,
    holds,
    pin_attempts,
    pins,
    token_is_usable,
    tokens,
    transactions,
)
from card_worker.storage.types import UtcTime

_CARD = ("account_id", "card_id")
_TRANSACTION = ("account_id", "id")
_BATCH = ("account_id", "batch_id")
NO_CARD = UUID(int=0)
"""Stands for the card of an unknown token: the same statements are sent as for a known one."""


def load(connection: Connection, needed: Sequence[Needs], now: datetime) -> Pending[Books]:
    """Send the queries for the rows that commands need; return the pending books.

    Cards are locked until the commit, in the order of their ids, so that two groups with the same
    cards wait instead of deadlocking. Rows that belong to a card change only under its lock, and
    are read after it was taken.
    """
    card_keys = {key for needs in needed for key in needs.cards}
    batch_keys = {key for needs in needed for key in needs.batches}
    named_keys = {key for needs in needed for key in needs.transactions}
    token_keys = {key for needs in needed for key in needs.tokens}
    locked = lock_cards(connection, card_keys, named_keys, token_keys)
    ordered = find_rows(connection, batches, Batch, _rows(_BATCH, batch_keys), lock=True)
    named_rows = _rows(_TRANSACTION, named_keys)
    named = find_rows(connection, transactions, Transaction, named_rows)
    given_rows = [{"digest": digest} for _, digest in token_keys]
    given_tokens = find_rows(connection, tokens, Token, given_rows)
    account_ids = {id for id, _ in chain(card_keys, named_keys, token_keys, batch_keys)}
    accounts = find_accounts(connection, account_ids)
    busy = find_busy(connection, account_ids)

    def wait() -> Books:
        rows = locked()
        taken = _taken(connection, needed)
        books = Books(accounts=accounts(), orders=busy(), taken=taken, now=now)
        for card in rows:
            books.load_card(card)
        for batch in ordered():
            books.batches.load(batch)
        if _were_created_meanwhile(connection, books, needed):
            return load(connection, needed, now)()
        books.named = {row.id: row for row in _of_cards(books, named())}
        if _were_replaced_meanwhile(books, needed):
            return load(connection, needed, now)()
        _load_tokens(books, given_tokens())
        _load_rows_of_cards(connection, books, needed, now)
        return books

    return wait


def _were_created_meanwhile(connection: Connection, books: Books, needed: Sequence[Needs]) -> bool:
    """Say whether a card exists now that did not when the cards were locked.

    An order may have created its cards after that, and have ended before the busy batches were
    read: then neither shows that the card exists.
    """
    keys = {key for needs in needed if not needs.makes_cards for key in needs.cards}
    absent = [key for key in keys if key not in books.cards and not books.busy_with(key)]
    return bool(find(connection, cards, ("id",), _rows(_CARD, absent))())


def _were_replaced_meanwhile(books: Books, needed: Sequence[Needs]) -> bool:
    """Say whether a card that takes refunds was replaced before it was locked, by a card that is
    not locked."""
    ids = {id for needs in needed if needs.successor for _, id in needs.transactions}
    cards = [books.card_by_id(books.named[id].card) for id in ids if id in books.named]
    return not all(books.has_successors_of(card) for card in cards)


OfCard = TypeVar("OfCard", Token, Transaction)


def _of_cards(books: Books, rows: Iterable[OfCard]) -> Iterator[OfCard]:
    """Yield the rows whose cards are in the books. Another commit may have inserted others after
    the cards were locked; for this commit they don't exist yet."""
    return (row for row in rows if row.card in books.card_keys)


def _load_tokens(books: Books, tokens: Iterable[Token]) -> None:
    for token in _of_cards(books, tokens):
        books.load_token(token)


def _taken(connection: Connection, needed: Sequence[Needs]) -> dict[BatchKey, Sequence[str]]:
    """Return which card_ids of new orders are taken."""
    taken = defaultdict[BatchKey, list[str]](list)
    for order in (needs.order for needs in needed if needs.order is not None):
        # A group may have several orders with the same batch_id, such as a dry run before another.
        taken[order.account_id, order.called] += taken_card_ids(
            connection,
            order.account_id,
            Pattern.known(order.card_id_pattern or ""),
            min(order.requested, CARDS_PER_ORDER_MAX),
        )
    return {**taken}


def _load_rows_of_cards(
    connection: Connection, books: Books, needed: Sequence[Needs], now: datetime
) -> None:
    """Load the rows that belong to the cards in the books."""
    held, refs, attempted = set[UUID](), set[tuple[UUID, str]](), set[UUID]()
    successors = set[UUID]()
    # Most cards have no open hold, and so none that has expired.
    locking = {card.id for card in books.cards.values() if card.amount_reserved}
    # No command of the group is later. The rules check each hold again at the time of the command.
    latest = max([now, *[card.time(now) for card in books.cards.values()]]) if locking else now
    for needs, ids in _card_ids(books, needed):
        if needs.holds and (locking or needs.tokens):
            held.update(ids if needs.tokens else locking.intersection(ids))
        if needs.ref_id is not None and ids:
            refs.add((ids[0], needs.ref_id))
        if needs.pin_attempts:
            attempted.update(ids)
        if needs.is_successor:
            successors.update(ids)
    due_rows = [{"card": id} for id in held]
    due = send_with_rows(connection, _select_due_holds, holds, due_rows, now=latest)
    named = find_rows(connection, holds, Hold, [{"id": id} for id in books.named])
    parents = [{"parent_id": id} for id in books.named]
    refunded = send_with_rows(connection, _select_refunded, transactions, parents)
    by_successor = [{"replaced_by": id} for id in successors]
    replaced = find(connection, cards, ("replaced_by", "id"), by_successor)
    refs_rows = _rows(("card", "ref_id"), refs)
    used = find(connection, transactions, ("card", "ref_id", "id"), refs_rows)
    absent = {key for needs in needed for key in needs.cards if key not in books.cards}
    reserved = find_reserved(connection, absent, books.orders)
    load_codes = _find_codes(connection, books, needed)
    load_pin_attempts = _find_pin_attempts(connection, needed, attempted)
    for hold in map(Hold._make, due()):
        books.holds.load(hold)
        books.due[hold.card] = (*books.due.get(hold.card, ()), hold.id)
    for hold in named():
        books.holds.load(hold)
    books.refunded = {parent_id: int(amount) for parent_id, amount in refunded()}
    books.refs = {(card, ref_id): id for card, ref_id, id in used()}
    books.replaced = dict(map(tuple, replaced()))
    books.reserved = reserved()
    load_codes(books)
    load_pin_attempts(books)


def _card_ids(books: Books, needed: Sequence[Needs]) -> Iterator[tuple[Needs, Sequence[UUID]]]:
    """Yield each need with the ids of its cards that exist."""
    made = dict[UUID, UUID]()
    for needs in needed:
        ids = [card.id for card in books.cards_for(needs)]
        if not ids:
            ids = [made[id] for _, id in needs.transactions if id in made]
        if needs.makes is not None and ids:
            made[needs.makes] = ids[0]
        if needs.tokens and not ids:
            ids = [NO_CARD]
        yield needs, ids


def _find_codes(
    connection: Connection, books: Books, needed: Sequence[Needs]
) -> Callable[[Books], None]:
    """Find the usable tokens of the cards, the tokens that are named, and the PINs."""
    card_ids = [card.id for card in books.cards.values() if card.has_codes]
    card_ids += [NO_CARD] * any(needs.tokens for needs in needed)
    by_card = [{"card": id} for id in card_ids]
    usable = find_rows(connection, tokens, Token, by_card, where=token_is_usable)
    named_ids = {needs.token_id for needs in needed if needs.token_id is not None}
    named = find_rows(connection, tokens, Token, [{"id": id} for id in named_ids])
    stored_pins = find_rows(connection, pins, Pin, [{"id": id} for id in card_ids])

    def load(books: Books) -> None:
        _load_tokens(books, [*usable(), *named()])
        for pin in stored_pins():
            books.pins.load(pin)

    return load


def _find_pin_attempts(
    connection: Connection, needed: Sequence[Needs], card_ids: Collection[UUID]
) -> Callable[[Books], None]:
    """Find the PIN attempts to check, and all that count on these cards."""
    ids = {needs.pin_attempt for needs in needed if needs.pin_attempt is not None}
    # Locked, because one without a card is deleted with its query, which may come twice.
    by_id = [{"id": id} for id in ids]
    checked = find_rows(connection, pin_attempts, PinAttempt, by_id, lock=True)
    by_card = [{"card": id} for id in card_ids]
    counting = find_rows(connection, pin_attempts, PinAttempt, by_card, where=attempt_counts)

    def load(books: Books) -> None:
        for attempt in chain(checked(), counting()):
            books.load_pin_attempt(attempt)

    return load


def _rows(names: tuple[str, ...], keys: Iterable[tuple[Any, ...]]) -> list[Row]:
    return [dict(zip(names, key, strict=True)) for key in keys]


def lock_cards(
    connection: Connection,
    keys: Collection[CardKey],
    named: Collection[TransactionKey] = (),
    given_tokens: Collection[TokenKey] = (),
) -> Pending[list[Card]]:
    """Find cards, also by their transactions and tokens; lock them in the order of their ids."""
    dialect, by_key = connection.dialect.name, _rows(_CARD, keys)
    if not named and not given_tokens:
        return find_rows(connection, cards, Card, by_key, lock=True)
    values = parameters(dialect, columns_named(cards, _CARD), by_key)
    columns = columns_named(transactions, _TRANSACTION)
    values |= parameters(dialect, columns, _rows(_TRANSACTION, named), "named")
    columns = columns_named(tokens, ("digest",))
    by_digest = [{"digest": digest} for _, digest in given_tokens]
    values |= parameters(dialect, columns, by_digest, "shown")
    rows = send(connection, _select_cards(dialect), values)
    return lambda: [Card._make(row) for row in rows()]


@cache
def _select_cards(dialect: str) -> Select[Any]:
    by_card = json_table(dialect, columns_named(cards, _CARD))
    by_transaction = json_table(dialect, columns_named(transactions, _TRANSACTION), "named")
    by_token = json_table(dialect, columns_named(tokens, ("digest",)), "shown")
    ids = union(
        select(cards.c.id).join(by_card, matching(cards, by_card)),
        select(cards_of_transactions(by_transaction).c.card),
        select(tokens.c.card).join(by_token, matching(tokens, by_token)),
    )
    statement = select(*columns_named(cards, Card._fields)).where(cards.c.id.in_(ids))
    return statement.order_by(cards.c.id).with_for_update(of=cards)


def cards_of_transactions(source: FromClause) -> CTE:
    """Return the `card` of each transaction in `source`, and all cards that have replaced it.

    With the columns of the source, `account_id` and `id` of the transaction.
    """
    key = transactions.c.account_id, transactions.c.id
    first = select(*key, transactions.c.card).join(source, matching(transactions, source))
    chain = first.cte("cards_of_transactions", recursive=True)
    replaced = chain.c.card == cards.c.id
    following = select(chain.c.account_id, chain.c.id, cards.c.replaced_by).join(cards, replaced)
    return chain.union_all(following.where(cards.c.replaced_by.is_not(None)))


def _select_due_holds(source: FromClause) -> Select[Any]:
    due = holds.c.expires_at <= bindparam("now", type_=UtcTime())
    statement = select(*columns_named(holds, Hold._fields)).join(source, matching(holds, source))
    return statement.where(hold_is_open, due).order_by(holds.c.expires_at, holds.c.id)


def _select_refunded(source: FromClause) -> Select[Any]:
    statement = select(transactions.c.parent_id, func.sum(transactions.c.amount))
    statement = statement.join(source, matching(transactions, source))
    statement = statement.where(transactions.c.type == TransactionType.FUND)
    return statement.group_by(transactions.c.parent_id)
