"""Tokens, PINs and PIN attempts beside the cards they are about."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select

from card_worker.contracts.enums import EventType, Reason
from card_worker.domain.ids import token_uuids
from card_worker.domain.rows import Card, Outcome, Pin, PinAttempt, Token
from card_worker.storage.reconcile.reading import Books
from card_worker.storage.reconcile.report import Difference, Wrong, difference, report, unequal
from card_worker.storage.tables import cards, outbox, pin_attempts, pins, tokens, transactions

_OWNER = ("id", "account_id", "card_id", "has_codes")
_EVENT = ("id", "account_id", "type", "subject", "event", "created_at")


def tokens_have_their_card(books: Books) -> Iterator[Difference]:
    """Prove that each token is of a card of its account that has codes, and was made with the card
    or by an event; and that one that was spent serves once, and wasn't revoked as well."""
    for found, wrong in books.slices(tokens, Token, "id"):
        owners = _by_id(books, cards, _OWNER, {token.card for token in found})
        made_later = {token.id for token in found if token.id != _made_with_card(token)}
        events = _by_id(books, outbox, _EVENT, made_later)
        used = _used(books, found)
        yield from wrong
        for token in found:
            owner, made_by = owners.get(token.card), events.get(token.id)
            yield from report(
                "tokens_have_their_card",
                token.account_id,
                f"token {token.id}",
                _of_its_card("token", token.account_id, owner),
                _made(token, owner, made_by, by_event=token.id in made_later),
                _spent(token, used),
                _hashed("token", token),
            )


def pins_have_their_card(books: Books) -> Iterator[Difference]:
    """Prove that each PIN is of a card of its account that has codes."""
    for found, wrong in books.slices(pins, Pin, "id"):
        owners = _by_id(books, cards, _OWNER, {pin.id for pin in found})
        yield from wrong
        for pin in found:
            owned = _of_its_card("PIN", pin.account_id, owners.get(pin.id))
            subject = f"PIN {pin.id}"
            yield from report(
                "pins_have_their_card", pin.account_id, subject, owned, _hashed("PIN", pin)
            )


def pin_attempts_are_settled(books: Books) -> Iterator[Difference]:
    """Prove that a PIN attempt is of a card of its account, and that none is open, or counts,
    whose command was answered otherwise."""
    for found, wrong in books.slices(pin_attempts, PinAttempt, "id"):
        named = {attempt.card for attempt in found if attempt.card is not None}
        owners = _by_id(books, cards, _OWNER, named)
        events = _by_id(books, outbox, _EVENT, {attempt.id for attempt in found})
        yield from wrong
        for attempt in found:
            proofs = [_settled(attempt, events.get(attempt.id))]
            if attempt.card is not None:
                owner = owners.get(attempt.card)
                proofs.append(_of_its_card("PIN attempt", attempt.account_id, owner))
            subject = f"PIN attempt {attempt.id}"
            yield from report("pin_attempts_are_settled", attempt.account_id, subject, *proofs)


def pin_attempts_are_numbered(books: Books) -> Iterator[Difference]:
    """Prove that no two PIN attempts of a card have the same number."""
    times = func.count()
    statement = select(pin_attempts.c.card, pin_attempts.c.number, times).where(
        pin_attempts.c.card.is_not(None)
    )
    statement = statement.group_by(pin_attempts.c.card, pin_attempts.c.number).having(times > 1)
    for card, number, count in books.stream(statement):
        wrong = Wrong(f"PIN attempts with number {number}", count, 1)
        yield difference("pin_attempts_are_numbered", "", f"card {card}", wrong)


def coded_cards_have_codes(books: Books) -> Iterator[Difference]:
    """Prove that a card which is said to have codes has a token or a PIN."""
    there = select(cards.c.id).where(cards.c.has_codes)
    missing = there.except_(select(tokens.c.card), select(pins.c.id))
    for (id,) in books.stream(missing):
        for card in books.rows(cards, Card._fields, [{"id": id}]):
            wrong = Wrong("has_codes", True, "false: it has neither a token nor a PIN")
            yield difference("coded_cards_have_codes", card.account_id, card.card_id, wrong)


def _by_id(
    books: Books, table: Any, names: tuple[str, ...], ids: Iterable[UUID]
) -> dict[UUID | None, Any]:
    return {row.id: row for row in books.rows(table, names, [{"id": id} for id in ids])}


def _of_its_card(what: str, account_id: str, owner: Any) -> Iterator[Wrong]:
    if owner is None:
        yield Wrong(f"{what}'s card", None, "one card")
        return
    yield from unequal(f"{what}: account_id", account_id, owner.account_id)
    if what != "PIN attempt":
        yield from unequal(f"has_codes of card {owner.card_id}", owner.has_codes, True)


def _made_with_card(token: Token) -> UUID:
    """Return the id that a token has which was made together with its card."""
    return UUID(bytes=token_uuids([token.card.bytes], token.created_at)[0])


def _made(token: Token, owner: Any, event: Any, *, by_event: bool) -> Iterator[Wrong]:
    if not by_event:
        # What comes with a card has no reference of its own.
        yield from unequal("ref_id", token.ref_id, None)
        yield from unequal("metadata", token.metadata, None)
    elif owner is None:
        return
    elif event is None or event.type is not EventType.TOKEN_CREATED:
        proven = "that of an event, or of the card and created_at"
        yield Wrong("id", token.id, proven)
    elif event.subject != owner.card_id:
        yield Wrong("token's card", owner.card_id, event.subject)


def _used(books: Books, found: Sequence[Token]) -> set[tuple[UUID, datetime]]:
    """Return the cards and the times of the transactions at which tokens were spent."""
    wanted = [{"card": one.card, "created_at": one.spent_at} for one in found if one.spent_at]
    return {tuple(row) for row in books.rows(transactions, ("card", "created_at"), wanted)}


def _spent(token: Token, used: set[tuple[UUID, datetime]]) -> Iterator[Wrong]:
    if token.spent_at is not None and (token.card, token.spent_at) not in used:
        yield Wrong("spent_at", token.spent_at, "the time of a transaction of its card")
    if token.spent_at is not None and not token.expires_after_transaction:
        yield Wrong("spent_at", token.spent_at, "none: it serves more than once")
    if token.spent_at is not None and token.revoked_at is not None:
        yield Wrong("revoked_at", token.revoked_at, "none: it was spent")


def _hashed(what: str, kept: Token | Pin) -> Iterator[Wrong]:
    if not kept.kid:
        yield Wrong(f"{what}: kid", kept.kid, "the name of a pepper")
    if len(kept.digest) < 32:
        yield Wrong(f"{what}: digest", kept.digest, "a digest")


def _settled(attempt: PinAttempt, event: Any) -> Iterator[Wrong]:
    if event is None:
        return
    wrong_pin = f'"reason":"{Reason.CARD_NOT_USABLE}"' in event.event
    if attempt.outcome is Outcome.OPEN or (attempt.outcome is Outcome.WRONG and not wrong_pin):
        yield Wrong("outcome", attempt.outcome, "wrong or cleared" if wrong_pin else "cleared")
