"""PINs that were given, noted before anybody compares them."""

from collections.abc import Iterable
from datetime import datetime
from functools import cache
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import Connection, Select, func, select

from card_worker.contracts.commands import Command, event_id
from card_worker.contracts.queries import CardQuery
from card_worker.contracts.transactions import CreateTransaction
from card_worker.domain.needs import needs_access
from card_worker.domain.rows import CardKey, Outcome
from card_worker.storage.books import lock_cards
from card_worker.storage.json_rows import (
    columns_named,
    find,
    insert_absent,
    json_table,
    matching,
    parameters,
)
from card_worker.storage.pipeline import send
from card_worker.storage.tables import idempotency_keys, pin_attempts, tokens

MayGivePin: TypeAlias = CreateTransaction | CardQuery
"""What has brought a PIN."""


def with_pins(asked: Iterable[Command | CardQuery]) -> list[MayGivePin]:
    """Return those whose PINs are to be noted: only the first with a key is looked at."""
    firsts: dict[tuple[str, str], Command | CardQuery] = {}
    for one in asked:
        firsts.setdefault((one.account_id, one.key), one)
    return [one for one in firsts.values() if isinstance(one, MayGivePin) and one.pin is not None]


def note_pin_attempts(
    connection: Connection, asked: Iterable[Command | CardQuery], now: datetime
) -> None:
    """Note which PINs were given, in a commit that must be over before they are compared.

    The attempts on a card get numbers in the order in which they are noted. One that is known, or
    whose command has had its answer, is not noted again.
    """
    given = with_pins(asked)
    wanted = [{"account_id": one.account_id, "key": one.key} for one in given]
    answered = set(find(connection, idempotency_keys, ("account_id", "key"), wanted)())
    fresh = [one for one in given if (one.account_id, one.key) not in answered]
    if not fresh:
        return
    # Whoever notes has the card to itself, so a lower number was visible earlier.
    needed = [needs_access(one) for one in fresh]
    token_keys = {key for one in needed for key in one.tokens}
    card_keys = {key for one in needed for key in one.cards}
    waiting = lock_cards(connection, card_keys, given_tokens=token_keys)
    found_cards = waiting()
    by_name = {card.key: card.id for card in found_cards}
    times = {card.id: card.time(now) for card in found_cards}
    digests = [{"digest": digest} for _, digest in token_keys]
    named = find(connection, tokens, ("digest", "card"), digests)()
    locked = set(by_name.values())
    by_digest: dict[str, UUID] = {digest: card for digest, card in named if card in locked}
    found = [_card(one, by_name, by_digest) for one in fresh]
    numbers = _numbers(connection, {card for card in found if card is not None})
    rows = []
    for one, card in zip(fresh, found, strict=True):
        number = 0 if card is None else numbers.get(card, 0) + 1
        if card is not None:
            numbers[card] = number
        rows.append(
            {
                "id": event_id(one.account_id, one.key),
                "account_id": one.account_id,
                "card": card,
                "number": number,
                "outcome": Outcome.OPEN,
                "created_at": now if card is None else times[card],
            }
        )
    insert_absent(connection, pin_attempts, sorted(rows, key=lambda row: str(row["id"])))


def _card(
    asked: MayGivePin, by_name: dict[CardKey, UUID], by_digest: dict[str, UUID]
) -> UUID | None:
    if asked.given_token is None:
        return by_name.get((asked.account_id, asked.card_id or ""))
    found = (by_digest.get(hash.digest) for hash in asked.given_token.hashes)
    return next((card for card in found if card is not None), None)


def _numbers(connection: Connection, cards: set[UUID]) -> dict[UUID, int]:
    """Return the highest number that each card has given."""
    dialect, by_card = connection.dialect.name, [{"card": card} for card in cards]
    values = parameters(dialect, columns_named(pin_attempts, ("card",)), by_card)
    return dict(send(connection, _select_numbers(dialect), values)())


@cache
def _select_numbers(dialect: str) -> Select[Any]:
    source = json_table(dialect, columns_named(pin_attempts, ("card",)))
    highest = select(pin_attempts.c.card, func.max(pin_attempts.c.number))
    return highest.join(source, matching(pin_attempts, source)).group_by(pin_attempts.c.card)
