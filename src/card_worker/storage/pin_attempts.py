"""PIN attempts, stored before a PIN is compared."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TypeAlias, get_args
from uuid import UUID

from sqlalchemy import Connection, FromClause, Select, func, select

from card_worker.contracts.commands import Command, event_id
from card_worker.contracts.queries import CardQuery
from card_worker.contracts.transactions import CreateTransaction
from card_worker.domain.needs import Needs, needs_access
from card_worker.domain.rows import Card, Outcome
from card_worker.storage.json_rows import (
    delete_rows,
    find,
    insert_absent,
    matching,
    send_with_rows,
)
from card_worker.storage.loading import NO_CARD, lock_cards
from card_worker.storage.tables import idempotency_keys, pin_attempts, tokens

PinRequest: TypeAlias = CreateTransaction | CardQuery
"""A command or query that may have a PIN."""
_KINDS = frozenset(get_args(PinRequest))


def requests_with_pin(requests: Sequence[Command | CardQuery]) -> list[PinRequest]:
    """Return the requests with a PIN; of those with the same key, only the first."""
    if not any(type(request) in _KINDS for request in requests):
        return []  # faster than `isinstance` with pydantic classes
    firsts: dict[tuple[str, str], PinRequest] = {}
    for request in requests:
        if isinstance(request, PinRequest) and request.pin is not None:
            firsts.setdefault((request.account_id, request.key), request)
    return list(firsts.values())


def store_pin_attempts(
    connection: Connection, requests: Sequence[Command | CardQuery], now: datetime
) -> None:
    """Store the PIN attempts of requests, in a commit that must end before the PINs are compared.

    The attempts on a card are numbered in the order in which they are stored. Attempts that are
    stored, or whose command has an answer, are not stored again.
    """
    given = requests_with_pin(requests)
    keys = [{"account_id": request.account_id, "key": request.key} for request in given]
    answered = set(find(connection, idempotency_keys, ("account_id", "key"), keys)())
    given = [request for request in given if (request.account_id, request.key) not in answered]
    if not given:
        return
    # The cards are locked, so that attempts with lower numbers were visible earlier.
    found = _lock_cards(connection, given)
    card_rows = [{"card": id} for id in {NO_CARD if card is None else card.id for card in found}]
    highest = send_with_rows(connection, _highest_numbers, pin_attempts, card_rows)()
    numbers = Counter[UUID](dict(highest))
    rows = []
    for request, card in zip(given, found, strict=True):
        if card is not None:
            numbers[card.id] += 1
        rows.append(
            {
                "id": event_id(request.account_id, request.key),
                "account_id": request.account_id,
                "card": None if card is None else card.id,
                "number": 0 if card is None else numbers[card.id],
                "outcome": Outcome.OPEN,
                "created_at": now if card is None else card.time(now),
            }
        )
    insert_absent(connection, pin_attempts, sorted(rows, key=lambda row: str(row["id"])))


def delete_attempt_on_nothing(connection: Connection, query: CardQuery) -> None:
    """Delete the PIN attempt of a query whose token or card_id was unknown when it was stored."""
    id = event_id(query.account_id, query.key)
    delete_rows(connection, pin_attempts, [{"id": id, "number": 0}])


def delete_open_attempts(connection: Connection, needed: Iterable[Needs]) -> None:
    """Delete the PIN attempts of requests that are refused for their senders, by their needs.

    Their keys stay free: the PIN of a later command with such a key is to be compared.
    """
    ids = {needs.pin_attempt for needs in needed if needs.pin_attempt is not None}
    _delete(connection, ids, Outcome.OPEN)


def delete_unused_attempts(connection: Connection, ids: Iterable[UUID]) -> None:
    """Delete cleared PIN attempts of new commands without a PIN: their copies had one."""
    _delete(connection, ids, Outcome.CLEARED)


def _delete(connection: Connection, ids: Iterable[UUID], outcome: Outcome) -> None:
    delete_rows(connection, pin_attempts, [{"id": id, "outcome": outcome} for id in ids])


def _lock_cards(connection: Connection, requests: Sequence[PinRequest]) -> list[Card | None]:
    """Return the card of each request, locked; None where there is none."""
    needed = [needs_access(request) for request in requests]
    token_keys = {key for needs in needed for key in needs.tokens}
    card_keys = {key for needs in needed for key in needs.cards}
    cards = lock_cards(connection, card_keys, given_tokens=token_keys)()
    by_id, by_key = {card.id: card for card in cards}, {card.key: card for card in cards}
    digests = [{"digest": digest} for _, digest in token_keys]
    rows: Sequence[tuple[Any, ...]] = find(connection, tokens, ("digest", "card"), digests)()
    by_digest = {digest: by_id.get(card) for digest, card in rows}

    def card_of(request: PinRequest) -> Card | None:
        if request.given_token is None:
            return by_key.get((request.account_id, request.card_id or ""))
        found = (by_digest.get(hash.digest) for hash in request.given_token.hashes)
        return next((card for card in found if card is not None), None)

    return [card_of(request) for request in requests]


def _highest_numbers(source: FromClause) -> Select[Any]:
    statement = select(pin_attempts.c.card, func.max(pin_attempts.c.number))
    return statement.join(source, matching(pin_attempts, source)).group_by(pin_attempts.c.card)
