"""A command beside the card it is about, and what the rules ask of the two."""

from datetime import datetime
from typing import NamedTuple

from card_worker.contracts.cards import MovesMoney
from card_worker.contracts.enums import Expiry, Reason, TransactionType
from card_worker.contracts.events import Problem
from card_worker.contracts.transactions import CreateTransaction, RefundTransaction
from card_worker.domain.allowed import ByTransaction, OnCard, is_by_transaction, reason_against
from card_worker.domain.books import Books
from card_worker.domain.entry import enter
from card_worker.domain.events import Judged
from card_worker.domain.refusal import Refused
from card_worker.domain.rows import Account, Card, CardKey, Hold, Transaction
from card_worker.money import AMOUNT_MAX, Currency


class Case(NamedTuple):
    """A card that exists and shows what it may show for its command."""

    books: Books
    now: datetime
    card: Card
    parent: Transaction | None = None
    """The transaction that the command names."""
    judged: Judged | None = None
    """What the command's PIN turned out to be."""

    @classmethod
    def of(cls, books: Books, command: OnCard | ByTransaction, now: datetime) -> "Case":
        """Find what `command` is about. Raises Refused."""
        if isinstance(command, CreateTransaction):
            card, judged = enter(books, command, now)
            return cls(books, now, card, judged=judged)
        if is_by_transaction(command):
            parent = _parent(books, command)
            found: Card | None = books.cards[books.ids[parent.card]]
        else:
            parent = None
            key = command.account_id, command.card_id
            found = books.cards.get(key)
            if books.busy_with(key) is not None:
                raise Refused(Reason.BATCH_STATE)
        reason = reason_against(command, found.status(now) if found else None)
        if reason is not None:
            raise Refused(reason)
        assert found is not None
        return cls(books, now, found, parent)

    @property
    def key(self) -> CardKey:
        return self.card.key

    @property
    def account(self) -> Account:
        return self.books.account(self.card.account_id)

    @property
    def takes_rest(self) -> bool:
        """Say whether what is left on the card when it expires is the account's."""
        return self.account.expiry is Expiry.BREAKAGE

    @property
    def available(self) -> int:
        """Return what may be spent: a hold whose time is up locks nothing, noted or not."""
        due = self.books.due_holds(self.card, self.now)
        return self.card.amount_available + sum(hold.amount_open for hold in due)

    @property
    def open_hold(self) -> Hold:
        """Return the hold that the command names. Raises Refused when nothing is locked by it."""
        assert self.parent is not None
        hold = self.books.holds[self.parent.id]
        if not hold.amount_open or hold.is_due(self.now):
            raise Refused(Reason.HOLD_CLOSED)
        return hold

    def check_reference(self, command: OnCard | ByTransaction) -> None:
        # The same command once more is known by its key, and doesn't come here.
        if isinstance(command, MovesMoney) and (self.card.id, command.ref_id) in self.books.refs:
            raise Refused(Reason.IDEMPOTENCY_CONFLICT)

    def check_currency(self, currency: Currency | None) -> None:
        if currency is not self.card.currency:
            raise Refused(Reason.CURRENCY_MISMATCH)

    def check_available(self, amount: int) -> None:
        if amount > self.available:
            raise Refused(Reason.EXCEEDS_AVAILABLE)

    def check_nothing_locked(self) -> None:
        # All of it has to go, so all of it has to be available.
        self.check_available(self.card.amount_balance)

    def check_room(self, amount: int, *, on: Card | None = None, funds: int = 0) -> None:
        """Look whether `amount` more, of which `funds` as funds, have room on a card."""
        card, limit = on or self.card, self.account.balance_max
        balance_max = AMOUNT_MAX if limit is None else limit
        if card.amount_balance + amount > balance_max or card.amount_funds + funds > AMOUNT_MAX:
            raise Refused(Reason.LIMIT_EXCEEDED)


def recipients(account: Account, seal_to: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return who may open what is sealed. Raises Refused when nobody was named."""
    named = seal_to or account.recipients
    if named is None:
        message = "say who may open the secrets: the account has no recipients of its own"
        raise Refused(Reason.INVALID, Problem(field="seal_to", message=message))
    return named


def _parent(books: Books, command: ByTransaction) -> Transaction:
    is_refund = isinstance(command, RefundTransaction)
    wanted = TransactionType.DRAWDOWN if is_refund else TransactionType.PENDING_CAPTURE
    parent = books.named.get(command.transaction_id)
    if parent is None or (parent.account_id, parent.type) != (command.account_id, wanted):
        raise Refused(Reason.TRANSACTION_NOT_FOUND if is_refund else Reason.HOLD_NOT_FOUND)
    return parent
