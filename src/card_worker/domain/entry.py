"""How a caller gets at a card: by its name, or as its holder does, by a token and the PIN.

Who names a card by a token learns one thing of all that can't be used: `card_not_usable`. A PIN is
compared only when it was noted before, in a commit of its own, and when fewer than five that were
noted earlier still count. So not more than five wrong ones are ever compared, however many come at
once, until a right one or an unblock.
"""

from datetime import datetime
from typing import NamedTuple, TypeAlias

from card_worker.contracts import keys
from card_worker.contracts.commands import event_id
from card_worker.contracts.enums import Reason, Status
from card_worker.contracts.queries import CardQuery
from card_worker.contracts.transactions import CreateTransaction
from card_worker.domain.allowed import reason_against
from card_worker.domain.books import Books
from card_worker.domain.events import CardBlocked, Judged
from card_worker.domain.refusal import Refused
from card_worker.domain.rows import Card, Outcome, Token
from card_worker.secrets.peppers import Hash

WRONG_MAX = 5

Entering: TypeAlias = CreateTransaction | CardQuery
"""What may name its card by a token, and bring a PIN."""


class Entry(NamedTuple):
    """A card that its caller may go on with."""

    card: Card
    judged: Judged | None = None


class NotLetIn(Refused):
    """The caller can't get at the card. `judged` is what became of the PIN, if it came to that."""

    def __init__(self, reason: Reason, judged: Judged | None = None) -> None:
        super().__init__(reason)
        self.judged = judged


def enter(books: Books, asked: Entering, now: datetime) -> Entry:
    """Return the card that `asked` names, if token and PIN lead to it. Raises NotLetIn."""
    if asked.given_token is None:
        key = asked.account_id, asked.card_id or ""
        card = books.cards.get(key)
        if books.busy_with(key) is not None:
            raise NotLetIn(Reason.BATCH_STATE)
        if reason := _reason(asked, card.status(now) if card else None):
            raise NotLetIn(reason)
        assert card is not None
    else:
        token = books.token(asked.given_token)
        card = _card_of(books, token, now)
        if asked.given_pin is None and card.id in books.pins:
            raise NotLetIn(Reason.PIN_REQUIRED)
    judged = None if asked.given_pin is None else _judge(books, asked, card, now)
    if judged is not None and not judged.is_right:
        raise NotLetIn(Reason.CARD_NOT_USABLE, judged)
    return Entry(card, judged)


def _reason(asked: Entering, status: Status | None) -> Reason | None:
    if isinstance(asked, CreateTransaction):
        return reason_against(asked, status)
    return Reason.CARD_NOT_FOUND if status is None else None


def _card_of(books: Books, token: Token | None, now: datetime) -> Card:
    if token is None or token.revoked_at is not None:
        raise NotLetIn(Reason.CARD_NOT_USABLE)
    if token.spent_at is not None:
        raise NotLetIn(Reason.TOKEN_SPENT)
    card = books.cards[books.ids[token.card]]
    # Whoever looks, or brings money, is let in as one who would spend.
    if not token.serves(now) or reason_against(CreateTransaction, card.status(now)) is not None:
        raise NotLetIn(Reason.CARD_NOT_USABLE)
    return card


def _judge(books: Books, asked: Entering, card: Card, now: datetime) -> Judged:
    assert asked.given_pin is not None
    noted, pin = books.pin_attempts[event_id(asked.account_id, asked.key)], books.pins.get(card.id)
    counting = [
        attempt for attempt in books.pin_attempts_of(card.id) if attempt.number < noted.number
    ]
    was_noted = noted.card == card.id and noted.outcome is Outcome.OPEN
    if not was_noted or pin is None or len(counting) >= WRONG_MAX:
        return Judged(noted._replace(outcome=Outcome.SETTLED))
    if asked.given_pin.opens(card.id, Hash(pin.kid, pin.digest)):
        return Judged(noted._replace(outcome=Outcome.SETTLED), is_right=True)
    wrong = sum(attempt.outcome is Outcome.WRONG for attempt in books.pin_attempts_of(card.id)) + 1
    guard = None
    if wrong >= WRONG_MAX:
        guard = CardBlocked(asked, now, card.key, key=keys.guard(noted.id))
    return Judged(noted._replace(outcome=Outcome.WRONG), guard=guard)


def settle(books: Books, asked: Entering, judged: Judged | None, now: datetime) -> None:
    """Write down what became of a PIN. None: it didn't come to a look at it."""
    if judged is not None:
        books.put_pin_attempt(judged.pin_attempt)
        if judged.is_right and judged.pin_attempt.card is not None:
            books.forgive(judged.pin_attempt.card, now)
        return
    noted = books.pin_attempts.get(event_id(asked.account_id, asked.key))
    if noted is not None and noted.outcome is Outcome.OPEN:
        books.put_pin_attempt(noted._replace(outcome=Outcome.SETTLED))
