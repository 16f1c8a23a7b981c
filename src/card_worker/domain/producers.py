"""Producers: their keys, and what messages that are signed with a key may do.

Whoever may write to the queues can send any message. The signature shows which producer has sent
it; the rights of its key say which accounts, commands and amounts are allowed.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from card_worker.contracts.batches import CreateBatch
from card_worker.contracts.cards import ActivateCard, AdjustBalance, CreateCard
from card_worker.contracts.commands import Command, is_invalid
from card_worker.contracts.enums import Reason, TransactionType
from card_worker.contracts.queries import Query
from card_worker.contracts.transactions import CreateTransaction
from card_worker.contracts.views import Problem
from card_worker.domain.refusal import Refused
from card_worker.domain.rows import Account
from card_worker.secrets.signing import Algorithm

WINDOW_S: int = Account._field_defaults["signature_window_s"]
QUERY_WINDOW_S = 60
"""How old the signature of a query may be."""
WRONG_MAX = 50
CLOCK_DIFFERENCE_MAX_S = 600
"""How far the clock of a producer may be ahead."""


class Issued(Counter[tuple[str, str, str]]):
    """What was loaded onto cards, in minor units, by producer, UTC day and currency."""


class ProducerKey(NamedTuple):
    """A key of a producer, and its rights. None: no limit."""

    key_id: str
    producer: str
    algorithm: Algorithm
    created_at: datetime
    valid_from: datetime
    public_key: str | None = None
    """Of an Ed25519 key: `whpk_…`."""
    pepper: str | None = None
    """Of an HMAC key: the name of the pepper from which its secret is derived."""
    accounts: list[str] | None = None
    tasks: list[str] | None = None
    """The commands and queries that may be sent."""
    amount_max: int | None = None
    """The largest amount in a command, in minor units."""
    cards_max: int | None = None
    """The largest number of cards in an order."""
    issued_max: dict[str, int] | None = None
    """How much may be loaded onto cards per UTC day, by currency; other currencies: nothing."""
    wrong_max: int = WRONG_MAX
    """How many wrong PINs and unknown short tokens are accepted of the producer in ten minutes,
    unless 5 % of its attempts are more."""
    valid_until: datetime | None = None
    revoked_at: datetime | None = None

    def is_valid(self, now: datetime) -> bool:
        ends = self.valid_until
        return self.revoked_at is None and self.valid_from <= now and (ends is None or now < ends)


class Sender(NamedTuple):
    """Who has signed a message, with which key and when."""

    key: ProducerKey
    signed_at: int
    """The unix time in the signature."""
    digest: str
    """The SHA-256 of what is signed."""
    windows_s: Mapping[str, int]
    """How old a signature may be, for accounts where that is not the default."""
    is_counted: bool = False
    """Whether what it issues is counted: a key of its producer has a limit for that."""

    def window_s(self, account_id: str) -> int:
        return self.windows_s.get(account_id, WINDOW_S)


def check_rights(request: Command | Query, sender: Sender) -> None:
    """Check that the key of the sender allows a command or a query. Raises Refused."""
    key = sender.key
    for allowed, value in ((key.accounts, request.account_id), (key.tasks, request.command)):
        if allowed is not None and value not in allowed:
            raise Refused(Reason.NOT_PERMITTED)
    if is_invalid(request):
        return
    amount: int | None = getattr(request, "amount", 0)
    if key.amount_max is not None and (amount is None or abs(amount) > key.amount_max):
        raise _too_much("amount", key.amount_max)
    cards = request.requested if type(request) is CreateBatch else 0
    if key.cards_max is not None and cards > key.cards_max:
        raise _too_much("count", key.cards_max)


def check_time(
    sender: Sender, now: datetime, *, window_s: int, ahead_s: int = CLOCK_DIFFERENCE_MAX_S
) -> None:
    """Check that a signature is neither too old nor from the future. Raises Refused."""
    age_s = now.timestamp() - sender.signed_at
    if age_s < -ahead_s:
        raise Refused(Reason.SIGNATURE_FROM_THE_FUTURE)
    if age_s > window_s:
        raise Refused(Reason.SIGNATURE_STALE)


def check_issued(command: Command, sender: Sender, issued: Issued, now: datetime) -> None:
    """Count what a command issues. Raises Refused if that is above the limit of its key."""
    if not sender.is_counted:
        return
    limits, (amount, currency) = sender.key.issued_max, issues(command)
    if not amount:
        return
    place = sender.key.producer, now.date().isoformat(), currency
    if limits is not None and issued[place] + amount > limits.get(currency, 0):
        raise _too_much("amount", limits.get(currency, 0), per=" per day")
    issued[place] += amount


def issues(command: Command) -> tuple[int, str]:
    """Return the amount that a command loads onto cards, and its currency; 0 for none."""
    if command.dry_run:
        return 0, ""
    match command:
        case ActivateCard() | CreateCard() | AdjustBalance():
            return max(command.amount, 0), command.currency
        case CreateTransaction(type=TransactionType.FUND):
            return command.amount, command.currency
    return 0, ""


def _too_much(field: str, limit: int, per: str = "") -> Refused:
    message = f"the key of the signature allows at most {limit}{per}"
    return Refused(Reason.LIMIT_EXCEEDED, Problem(field=field, message=message))
