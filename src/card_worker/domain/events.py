"""What a rule decides: an event carries the command that caused it, the time, and what was chosen.

Most have the id of their command: they are its answer. One that a command brings about besides has
a key of its own.
"""

from datetime import datetime
from typing import NamedTuple, TypeAlias
from uuid import UUID

from card_worker.contracts.batches import ApproveBatch, CancelBatch, CreateBatch, Recall
from card_worker.contracts.cards import (
    ActivateCard,
    AdjustBalance,
    BlockCard,
    CloseCard,
    CreateCard,
    ReplaceCard,
    ReverseActivation,
    TransferBalance,
    UnblockCard,
    UpdateCard,
    WithdrawCard,
)
from card_worker.contracts.commands import Command, event_id
from card_worker.contracts.enums import CardType, Reason
from card_worker.contracts.events import Problem
from card_worker.contracts.queries import CardQuery
from card_worker.contracts.tokens import CreateToken, RevokeToken, RotatePin
from card_worker.contracts.transactions import (
    CaptureTransaction,
    CreateTransaction,
    RefundTransaction,
    VoidTransaction,
)
from card_worker.domain.rows import CardKey, File, FilePart, PinAttempt
from card_worker.secrets.formats import PinFormat, TokenFormat
from card_worker.secrets.peppers import Hash


class Wanted(NamedTuple):
    """The secrets that an event brings into the world, for these cards, in this order."""

    account_id: str
    cards: tuple[tuple[CardKey, CardType], ...]
    recipients: tuple[str, ...]
    has_token: bool = False
    token: TokenFormat | None = None
    pin: PinFormat | None = None
    file: str | None = None
    """The batch whose file they stand in; None: in the answer."""
    pin_recipients: tuple[str, ...] | None = None
    """Who can open the PINs, in a file of their own; None: they stand with the tokens."""


class Made(NamedTuple):
    """What is kept of secrets, and how they reach their owner. An entry for each card."""

    tokens: tuple[tuple[Hash, str], ...] = ()
    """With their masked forms."""
    pins: tuple[Hash, ...] = ()
    sealed: str | None = None
    files: tuple[tuple[File, FilePart], ...] = ()


class CardCreated(NamedTuple):
    command: CreateCard
    at: datetime
    card: CardKey
    wanted: Wanted | None = None
    made: Made = Made()
    key: None = None


class CardActivated(NamedTuple):
    command: ActivateCard
    at: datetime
    card: CardKey
    key: None = None


class ActivationReversed(NamedTuple):
    command: ReverseActivation
    at: datetime
    card: CardKey
    key: None = None


class CardUpdated(NamedTuple):
    command: UpdateCard
    at: datetime
    card: CardKey
    key: None = None


class CardBlocked(NamedTuple):
    """Frozen: by a command, or by the guard, when PINs were guessed."""

    command: BlockCard | CreateTransaction | CardQuery
    at: datetime
    card: CardKey
    key: str | None = None


class CardUnblocked(NamedTuple):
    command: UnblockCard
    at: datetime
    card: CardKey
    key: None = None


class CardClosed(NamedTuple):
    """Ended for good: by a command, or because its batch was let go before it was activated."""

    command: CloseCard | WithdrawCard
    at: datetime
    card: CardKey
    key: None = None


class CardReplaced(NamedTuple):
    """The old card's end. What it held goes to the other one."""

    command: ReplaceCard
    at: datetime
    card: CardKey
    key: None = None


class CardTookOver(NamedTuple):
    """The new card's beginning, with what the old one was and had."""

    command: ReplaceCard
    at: datetime
    card: CardKey
    amount: int
    key: str


class CardFunded(NamedTuple):
    command: CreateTransaction
    at: datetime
    card: CardKey
    key: None = None


class CardDrawnDown(NamedTuple):
    command: CreateTransaction
    at: datetime
    card: CardKey
    key: None = None


class CardRefunded(NamedTuple):
    command: RefundTransaction
    at: datetime
    card: CardKey
    amount: int
    key: None = None


class CardAdjusted(NamedTuple):
    command: AdjustBalance
    at: datetime
    card: CardKey
    key: None = None


class TransferredOut(NamedTuple):
    command: TransferBalance
    at: datetime
    card: CardKey
    amount: int
    key: None = None


class TransferredIn(NamedTuple):
    command: TransferBalance
    at: datetime
    card: CardKey
    amount: int
    key: str


class CardExpired(NamedTuple):
    """`takes_rest` says whether what is available becomes breakage."""

    command: Command
    at: datetime
    card: CardKey
    takes_rest: bool
    key: str | None = None


class HoldPlaced(NamedTuple):
    command: CreateTransaction
    at: datetime
    card: CardKey
    expires_at: datetime | None
    key: None = None


class HoldCaptured(NamedTuple):
    command: CaptureTransaction
    at: datetime
    card: CardKey
    amount: int
    key: None = None


class HoldVoided(NamedTuple):
    command: VoidTransaction
    at: datetime
    card: CardKey
    hold: UUID
    key: None = None


class HoldExpired(NamedTuple):
    command: Command
    at: datetime
    card: CardKey
    hold: UUID
    key: str | None = None


class TokenCreated(NamedTuple):
    command: CreateToken
    at: datetime
    card: CardKey
    wanted: Wanted
    made: Made = Made()
    key: None = None


class TokenRevoked(NamedTuple):
    command: RevokeToken
    at: datetime
    card: CardKey
    token: UUID
    key: None = None


class PinRotated(NamedTuple):
    command: RotatePin
    at: datetime
    card: CardKey
    wanted: Wanted
    made: Made = Made()
    key: None = None


class BatchOrdered(NamedTuple):
    """Cards were ordered, to be made piece by piece, at once or when somebody has approved.

    None of the recipients: there are no secrets in it.
    """

    command: CreateBatch
    at: datetime
    waits: bool
    recipients: tuple[str, ...] | None
    key: None = None


class BatchApproved(NamedTuple):
    command: ApproveBatch
    at: datetime
    key: None = None


class BatchCancelled(NamedTuple):
    command: CancelBatch
    at: datetime
    key: None = None


class RecallBegun(NamedTuple):
    """`last` is the number of the last card."""

    command: Recall
    at: datetime
    last: int
    key: None = None


class BatchCompleted(NamedTuple):
    command: CreateBatch
    at: datetime
    wanted: Wanted | None = None
    made: Made = Made()
    key: None = None


class CommandRejected(NamedTuple):
    command: Command
    at: datetime
    reason: Reason
    problems: tuple[Problem, ...] = ()
    # Set when the key is another command's already: this refusal then has a key of its own.
    key: str | None = None


CardEvent: TypeAlias = (
    CardCreated
    | CardActivated
    | ActivationReversed
    | CardUpdated
    | CardBlocked
    | CardUnblocked
    | CardClosed
    | CardReplaced
    | CardTookOver
    | CardFunded
    | CardDrawnDown
    | CardRefunded
    | CardAdjusted
    | TransferredOut
    | TransferredIn
    | CardExpired
    | HoldPlaced
    | HoldCaptured
    | HoldVoided
    | HoldExpired
    | TokenCreated
    | TokenRevoked
    | PinRotated
)
Making: TypeAlias = CardCreated | BatchCompleted | TokenCreated | PinRotated
"""What may bring secrets into the world."""
BatchEvent: TypeAlias = BatchCompleted | BatchOrdered | BatchApproved | BatchCancelled | RecallBegun
Event: TypeAlias = CardEvent | BatchEvent | CommandRejected


class Judged(NamedTuple):
    """A PIN that was given, with its outcome. `guard` is what follows from one too many."""

    pin_attempt: PinAttempt
    is_right: bool = False
    guard: CardBlocked | None = None


class Decision(NamedTuple):
    """What a command leads to: its answer, and what else has to happen before and after that."""

    answer: Event
    before: tuple[CardEvent, ...] = ()
    after: tuple[CardEvent, ...] = ()
    pin_attempt: Judged | None = None
    """What the command's PIN turned out to be."""

    @property
    def events(self) -> tuple[Event, ...]:
        return *self.before, self.answer, *self.after


def id_of(event: Event) -> UUID:
    """Return the event's id: the same however often its command is delivered."""
    key = event.command.key if event.key is None else event.key
    return event_id(event.command.account_id, key)
