"""Which rows the commands of a group need, and which of them other sessions have locked."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from sqlalchemy import Connection, FromClause, Select, select

from card_worker.domain.needs import Needs
from card_worker.storage.json_rows import find, matching, send_with_rows
from card_worker.storage.loading import cards_of_transactions
from card_worker.storage.tables import cards, tokens, transactions

RowName: TypeAlias = tuple[str, str, object]
"""How a command names a row: the kind of row, the account, and its name there."""
Row: TypeAlias = RowName | UUID
"""A row by its name, or a card by its id."""


class Contention(NamedTuple):
    """The cards that a group of commands names, and which of them are locked."""

    cards: dict[RowName, set[UUID]]
    """The ids of cards that exist, by the names of the card, of a transaction or of a token. A
    transaction names its card and all that have replaced it: a refund locks these."""
    locked: frozenset[UUID]
    """The cards that other sessions have locked."""

    def rows(self, needed: Iterable[Needs]) -> set[Row]:
        """Return the names of the rows that commands need, and the ids of the cards among them."""
        names = {name for needs in needed for name in _names(needs)}
        return names.union(*(self.cards[name] for name in names & self.cards.keys()))


def find_contention(connection: Connection, needed: Sequence[Needs]) -> Contention:
    """Find the cards that commands need, without waiting for locks of other sessions.

    The cards that are not locked are locked until the end of the commit.
    """
    by_card = [{"account_id": a, "card_id": id} for n in needed for a, id in n.cards]
    by_row = [{"account_id": a, "id": id} for n in needed for a, id in n.transactions]
    accounts = {digest: account for needs in needed for account, digest in needs.tokens}
    by_digest = [{"digest": digest} for digest in accounts]
    found_cards = find(connection, cards, ("account_id", "card_id", "id"), by_card)
    found_rows = send_with_rows(connection, _select_chains, transactions, by_row)
    found_tokens = find(connection, tokens, ("digest", "card"), by_digest)
    known = defaultdict[RowName, set[UUID]](set)
    for account, name, card in found_cards():
        known["card", account, name].add(card)
    for account, id, card in found_rows():
        known["transaction", account, id].add(card)
    for digest, card in found_tokens():
        known["token", accounts[digest], digest].add(card)
    ids = set[UUID]().union(*known.values())
    free = send_with_rows(connection, _lock_free, cards, [{"id": id} for id in ids])
    return Contention(known, frozenset(ids - {id for (id,) in free()}))


def _select_chains(source: FromClause) -> Select[Any]:
    chain = cards_of_transactions(source)
    return select(chain.c.account_id, chain.c.id, chain.c.card)


def _lock_free(source: FromClause) -> Select[Any]:
    statement = select(cards.c.id).join(source, matching(cards, source)).order_by(cards.c.id)
    return statement.with_for_update(of=cards, skip_locked=True)


def _names(needs: Needs) -> Iterator[RowName]:
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
