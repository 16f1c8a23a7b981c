"""What the rule of a command on an existing card looks at, and checks that rules share."""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from card_worker.contracts.cards import ActivateCard
from card_worker.contracts.enums import Expiry, Reason, TransactionType
from card_worker.contracts.transactions import CreateTransaction, RefundTransaction
from card_worker.contracts.views import Problem
from card_worker.domain.access import check_reference, grant_access
from card_worker.domain.books import Books
from card_worker.domain.events import PinCheck
from card_worker.domain.refusal import Refused
from card_worker.domain.rows import Account, Card, CardKey, Hold, Transaction
from card_worker.domain.states import ByTransaction, OnExistingCard, reason_against
from card_worker.money import AMOUNT_MAX, Currency


class Context(NamedTuple):
    """The card of a command, whose status allows the command."""

    books: Books
    now: datetime
    card: Card
    parent: Transaction | None = None
    """The transaction that the command names."""
    pin_check: PinCheck | None = None

    @property
    def key(self) -> CardKey:
        return self.card.key

    @property
    def account(self) -> Account:
        return self.books.account(self.card.account_id)

    @property
    def forfeits_balance(self) -> bool:
        """Say whether the balance goes to the account when the card expires."""
        return self.account.expiry is Expiry.BREAKAGE

    @property
    def available(self) -> int:
        return self.books.available(self.card, self.now)

    @property
    def open_hold(self) -> Hold:
        """Return the hold that the command names. Raises Refused when it locks nothing."""
        assert self.parent is not None
        hold = self.books.holds[self.parent.id]
        if not hold.amount_open or hold.is_due(self.now):
            raise Refused(Reason.HOLD_CLOSED)
        return hold

    def check_currency(self, currency: Currency | None) -> None:
        if currency is not self.card.currency:
            raise Refused(Reason.CURRENCY_MISMATCH)

    def check_available(self, amount: int) -> None:
        if amount > self.available:
            raise Refused(Reason.EXCEEDS_AVAILABLE)

    def check_all_available(self) -> None:
        # The whole balance has to go, so all of it has to be available.
        self.check_available(self.card.amount_balance)

    def check_limits(
        self, amount: int, *, on: Card | None = None, funds: int = 0, limit: int | None = None
    ) -> None:
        """Check that a card may hold `amount` more, of which `funds` are funds.

        `limit`: the account's by default.
        """
        card, limit = on or self.card, limit or self.account.balance_max
        balance_max = AMOUNT_MAX if limit is None else limit
        if card.amount_balance + amount > balance_max or card.amount_funds + funds > AMOUNT_MAX:
            raise Refused(Reason.LIMIT_EXCEEDED)


def context_by_access(books: Books, command: CreateTransaction, now: datetime) -> Context:
    """Return the context of a command that may have a token and a PIN. Raises AccessDenied."""
    card, pin_check = grant_access(books, command, now)
    return Context(books, now, card, pin_check=pin_check)


def context_by_card(
    books: Books, command: OnExistingCard, now: datetime, reasons: Iterable[Reason] = ()
) -> Context:
    """Return the context of a command that has a card_id. Raises Refused, see `named_card`."""
    return Context(books, now, named_card(books, command, now, reasons))


def named_card(
    books: Books,
    command: OnExistingCard | ActivateCard,
    now: datetime,
    reasons: Iterable[Reason] = (),
) -> Card:
    """Return the card with the command's card_id.

    Raises Refused if its status forbids that, or for one of the other `reasons` against the
    command, whichever is the first in the order of reasons.
    """
    key = command.account_id, command.card_id or ""
    card = books.cards.get(key)
    if books.busy_with(key) is not None:
        raise Refused(Reason.BATCH_STATE)
    check_reference(books, command, card)
    reason = reason_against(command, card.status(now) if card else None)
    against = [*reasons] if reason is None else [reason, *reasons]
    if against:
        raise Refused(min(against, key=[*Reason].index))
    assert card is not None
    return card


def context_by_transaction(books: Books, command: ByTransaction, now: datetime) -> Context:
    """Return the context of a command that has a transaction_id. Raises Refused."""
    is_refund = isinstance(command, RefundTransaction)
    type = TransactionType.DRAWDOWN if is_refund else TransactionType.PENDING_CAPTURE
    parent = books.named.get(command.transaction_id)
    if parent is None or (parent.account_id, parent.type) != (command.account_id, type):
        raise Refused(Reason.TRANSACTION_NOT_FOUND if is_refund else Reason.HOLD_NOT_FOUND)
    card = books.card_by_id(parent.card)
    if is_refund:
        card = books.successor_of(card)
    check_reference(books, command, card)
    reason = reason_against(command, card.status(now))
    if reason is not None:
        raise Refused(reason)
    return Context(books, now, card, parent)


def check_expiry(expires_at: datetime | None, now: datetime) -> None:
    """Check that an expiry time is in the future. Raises Refused."""
    if expires_at is not None and expires_at <= now:
        raise Refused(Reason.INVALID, Problem(field="expires_at", message="must be in the future"))


def check_recipients(account: Account, field: str, named: tuple[str, ...] | None) -> None:
    """Check that the account allows recipients that a command names. Raises Refused."""
    if account.only_own_recipients and not set(named or ()) <= set(account.recipients or ()):
        message = "must be recipients of the account"
        raise Refused(Reason.INVALID, Problem(field=field, message=message))


def recipients(account: Account, seal_to: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the recipients of sealed secrets. Raises Refused when there are none."""
    check_recipients(account, "seal_to", seal_to)
    named = seal_to or account.recipients
    if named is None:
        message = "say who may open the secrets: the account has no recipients of its own"
        raise Refused(Reason.INVALID, Problem(field="seal_to", message=message))
    return named
