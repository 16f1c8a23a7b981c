"""Access to a card: by its card_id, or as its holder has it, by a token and the PIN.

A caller with a token learns one reason for every card that can't be used: `card_not_usable`.

A PIN is compared only after its attempt was stored in a commit of its own, and only when fewer than
five wrong attempts count, with the earlier ones that are not decided. The fifth wrong PIN locks the
PIN: until the lock ends, whoever brings the PIN or a token is refused. Then one PIN is compared; if
it is wrong too, the next lock is twice as long. So at most five wrong PINs and one for each lock
are compared, however many come at the same time, until a right one, an unblock or a new PIN.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple, TypeAlias

from card_worker.contracts import keys
from card_worker.contracts.base import Request
from card_worker.contracts.cards import MovesMoney
from card_worker.contracts.commands import event_id
from card_worker.contracts.enums import Reason, Status, TransactionType
from card_worker.contracts.queries import CardQuery
from card_worker.contracts.transactions import CreateTransaction
from card_worker.domain.books import CHECKED_WITHIN, Books
from card_worker.domain.events import PinCheck, PinLocked
from card_worker.domain.refusal import Refused
from card_worker.domain.rows import Card, Outcome, PinAttempt
from card_worker.domain.states import reason_against
from card_worker.secrets.peppers import Hash

WRONG_MAX = 5
LOCK_FIRST, LOCK_MAX = timedelta(minutes=15), timedelta(hours=24)
DOUBLINGS_MAX = 7
"""After so many, a lock is longer than LOCK_MAX."""

AccessRequest: TypeAlias = CreateTransaction | CardQuery
"""The command and the queries that may name their card by a token and have a PIN."""


class Access(NamedTuple):
    """A card that the caller may use."""

    card: Card
    pin_check: PinCheck | None = None


class AccessDenied(Refused):
    """The caller may not use the card. `pin_check` is the check of the PIN, if there was one.

    `is_wrong`: the PIN was wrong, or a short token is unknown.
    """

    def __init__(
        self, reason: Reason, pin_check: PinCheck | None = None, *, is_wrong: bool = False
    ) -> None:
        super().__init__(reason)
        self.pin_check, self.is_wrong = pin_check, is_wrong


def check_reference(books: Books, command: Request, card: Card | None) -> None:
    """Check that a movement's `ref_id` is not in use on the card. Raises Refused.

    The same command delivered again is known by its key, and is answered before this.
    """
    if card is None or not isinstance(command, MovesMoney):
        return
    if (card.id, command.ref_id) in books.refs:
        raise Refused(Reason.IDEMPOTENCY_CONFLICT)


def grant_access(books: Books, request: AccessRequest, now: datetime) -> Access:
    """Return the card that `request` names, if its token and PIN allow it. Raises AccessDenied."""
    if request.given_token is None:
        key = request.account_id, request.card_id or ""
        card = books.cards.get(key)
        if books.busy_with(key) is not None:
            raise AccessDenied(Reason.BATCH_STATE)
        check_reference(books, request, card)
        if reason := _reason(request, card.status(now) if card else None):
            raise AccessDenied(reason)
        assert card is not None
        if not _has_started(request, card, now):
            raise AccessDenied(Reason.CARD_NOT_STARTED)
    else:
        card = _card_of(books, request, now)
        if request.given_pin is None and card.id in books.pins:
            raise AccessDenied(Reason.PIN_REQUIRED)
    if request.given_pin is None:
        return Access(card)
    return Access(card, _check_pin(books, request, card, now))


def _reason(request: AccessRequest, status: Status | None) -> Reason | None:
    if isinstance(request, CreateTransaction):
        return reason_against(request, status)
    return Reason.CARD_NOT_FOUND if status is None else None


def _has_started(request: AccessRequest, card: Card, now: datetime) -> bool:
    """Say whether the card may be used for this already. Loading it and queries need no start."""
    if not isinstance(request, CreateTransaction) or request.type is TransactionType.FUND:
        return True
    return card.active_from is None or card.active_from <= now


def _card_of(books: Books, request: AccessRequest, now: datetime) -> Card:
    assert request.given_token is not None
    token = books.token(request.given_token)
    if token is None:
        raise AccessDenied(Reason.CARD_NOT_USABLE, is_wrong=request.given_token.is_short)
    if token.revoked_at is not None:
        raise AccessDenied(Reason.CARD_NOT_USABLE)
    if token.spent_at is not None:
        raise AccessDenied(Reason.TOKEN_SPENT)
    card = books.card_by_id(token.card)
    # Queries and funds need a card that can be spent from, as drawdowns do.
    reason = reason_against(CreateTransaction, card.status(now))
    if not token.serves(now) or reason is not None or not _has_started(request, card, now):
        raise AccessDenied(Reason.CARD_NOT_USABLE)
    if card.id in books.pins and books.pins[card.id].is_locked(books.now):
        raise AccessDenied(Reason.CARD_NOT_USABLE)
    return card


def _check_pin(books: Books, request: AccessRequest, card: Card, now: datetime) -> PinCheck:
    """Return the check of a right PIN. Raises AccessDenied."""
    assert request.given_pin is not None
    attempt = books.pin_attempts.get(event_id(request.account_id, request.key))
    pin, counting = books.pins.get(card.id), books.pin_attempts_of(card.id)
    wrong = sum(other.outcome is Outcome.WRONG for other in counting)
    if (
        pin is None
        or attempt is None
        or attempt.card != card.id
        or attempt.outcome is not Outcome.OPEN
        or pin.is_locked(books.now)
        or _undecided(counting, attempt, books.now) >= max(WRONG_MAX - wrong, 1)
    ):
        raise AccessDenied(Reason.CARD_NOT_USABLE)
    if request.given_pin.opens(card.id, Hash(pin.kid, pin.digest)):
        return PinCheck(attempt._replace(outcome=Outcome.CLEARED), is_right=True)
    lock = None
    if wrong + 1 >= WRONG_MAX:
        doublings = min(wrong + 1 - WRONG_MAX, DOUBLINGS_MAX)
        until = books.now + min(LOCK_FIRST * 2**doublings, LOCK_MAX)
        lock = PinLocked(request, now, card.key, until, key=keys.guard(attempt.id))
    pin_check = PinCheck(attempt._replace(outcome=Outcome.WRONG), lock=lock)
    raise AccessDenied(Reason.CARD_NOT_USABLE, pin_check, is_wrong=True)


def _undecided(counting: Iterable[PinAttempt], attempt: PinAttempt, now: datetime) -> int:
    """Return how many earlier attempts have no outcome: a commit that failed may have compared
    them."""
    return sum(
        other.outcome is Outcome.OPEN
        and other.number < attempt.number
        and other.created_at + CHECKED_WITHIN >= now
        for other in counting
    )


def record_attempt(
    books: Books, request: AccessRequest, pin_check: PinCheck | None, now: datetime
) -> None:
    """Store the outcome of a PIN attempt. `pin_check` is None when the PIN was not compared."""
    if pin_check is not None:
        attempt = pin_check.attempt
        books.pin_attempts.put(attempt)
        if pin_check.is_right and attempt.card is not None:
            books.reset_pin_attempts(attempt.card, now)
        return
    stored = books.pin_attempts.get(event_id(request.account_id, request.key))
    if stored is not None and stored.outcome is Outcome.OPEN:
        books.pin_attempts.put(stored._replace(outcome=Outcome.CLEARED))
