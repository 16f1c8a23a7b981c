"""Which commands of a group need a card that another session has locked, and which don't."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from sqlalchemy import Connection, Select, select

from card_worker.domain.needs import Needs
from card_worker.storage.json_rows import columns_named, find, json_table, matching, parameters
from card_worker.storage.pipeline import send
from card_worker.storage.tables import cards, tokens, transactions

Name: TypeAlias = tuple[str, str, object]
"""How a command names a row: its kind, the account, and its name there."""
Row: TypeAlias = Name | UUID
"""A row by its name, or a card by its id."""


class Contention(NamedTuple):
    """What the names of a group of commands stand for, and what is locked of that."""

    cards: dict[Name, UUID]
    """The names of cards that exist: by card_id, by a transaction, by a token."""
    locked: frozenset[UUID]
    """Those of the cards that another session has locked."""

    def rows(self, needed: Iterable[Needs]) -> set[Row]:
        """Return the names of the rows that commands need, and the ids of the cards among them."""
        names = {name for needs in needed for name in _names(needs)}
        return names | {self.cards[name] for name in names & self.cards.keys()}


def find_contention(connection: Connection, needed: Sequence[Needs]) -> Contention:
    """Look which of the needed cards other sessions have locked, without waiting for them.

    The other cards are locked until the end of the commit.
    """
    by_card = [{"account_id": a, "card_id": id} for n in needed for a, id in n.cards]
    by_row = [{"account_id": a, "id": id} for n in needed for a, id in n.transactions]
    accounts = {digest: account for needs in needed for account, digest in needs.tokens}
    by_digest = [{"digest": digest} for digest in accounts]
    found_cards = find(connection, cards, ("account_id", "card_id", "id"), by_card)
    found_rows = find(connection, transactions, ("account_id", "id", "card"), by_row)
    found_tokens = find(connection, tokens, ("digest", "card"), by_digest)
    known: dict[Name, UUID] = {("card", a, name): id for a, name, id in found_cards()}
    known |= {("transaction", a, id): card for a, id, card in found_rows()}
    known |= {("token", accounts[digest], digest): card for digest, card in found_tokens()}
    ids = set(known.values())
    return Contention(known, frozenset(ids - _lock_free(connection, ids)))


def _lock_free(connection: Connection, ids: set[UUID]) -> set[UUID]:
    if not ids:
        return set()
    dialect, columns = connection.dialect.name, columns_named(cards, ("id",))
    values = parameters(dialect, columns, [{"id": id} for id in ids])
    return {id for (id,) in send(connection, _select_free(dialect), values)()}


@cache
def _select_free(dialect: str) -> Select[Any]:
    source = json_table(dialect, columns_named(cards, ("id",)))
    statement = select(cards.c.id).join(source, matching(cards, source)).order_by(cards.c.id)
    return statement.with_for_update(of=cards, skip_locked=True)


def _names(needs: Needs) -> Iterable[Name]:
    for account_id, card_id in needs.cards:
        yield "card", account_id, card_id
    for account_id, id in needs.transactions:
        yield "transaction", account_id, id
        if needs.makes is not None:
            yield "transaction", account_id, needs.makes
    for account_id, digest in needs.tokens:
        yield "token", account_id, digest
    for account_id, batch_id in needs.batches:
        yield "batch", account_id, batch_id
