"""The events that a command leads to. Each has the command that caused it, the time, and what was
decided.

Most have the id of their command, since they are its answer. An event beside the answer has a key
of its own.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Generic, NamedTuple, TypeAlias, TypeVar
from uuid import UUID

from card_worker.contracts.base import InternalCommand
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
from card_worker.contracts.enums import CardType, EventType, Reason
from card_worker.contracts.queries import CardQuery
from card_worker.contracts.tokens import CreateToken, RevokeToken, RotatePin
from card_worker.contracts.transactions import (
    CaptureTransaction,
    CreateTransaction,
    RefundTransaction,
    VoidTransaction,
)
from card_worker.contracts.views import Problem
from card_worker.domain.rows import CardKey, File, FilePart, PinAttempt
from card_worker.secrets.formats import PinFormat, TokenFormat
from card_worker.secrets.peppers import Hash

Cause = TypeVar("Cause", bound=Command | CardQuery)


class SecretRequest(NamedTuple):
    """The tokens and PINs to issue with an event: for these cards, in this order."""

    account_id: str
    cards: tuple[tuple[CardKey, CardType], ...]
    recipients: tuple[str, ...]
    has_token: bool = False
    token: TokenFormat | None = None
    pin: PinFormat | None = None
    file: str | None = None
    """The batch whose file has the secrets; None: the answer has them."""
    pin_recipients: tuple[str, ...] | None = None
    """The recipients of a separate file with the PINs; None: the PINs are with the tokens."""


class IssuedSecrets(NamedTuple):
    """What is stored of new secrets, one entry for each card, and their sealed values."""

    tokens: tuple[tuple[Hash, str], ...] = ()
    """With their masked forms."""
    pins: tuple[Hash, ...] = ()
    sealed: str | None = None
    files: tuple[tuple[File, FilePart], ...] = ()


NOTHING_ISSUED = IssuedSecrets()


@dataclass(frozen=True, slots=True)
class EventBase(Generic[Cause]):
    """What all events have."""

    type: ClassVar[EventType]
    """Its name in public."""

    command: Cause
    at: datetime
    key: str | None = field(default=None, kw_only=True)
    """None: that of the command."""

    @property
    def id(self) -> UUID:
        """Return the event's id: the same each time that its command is delivered."""
        return event_id(self.command.account_id, self.command.key if self.key is None else self.key)

    @property
    def is_answer(self) -> bool:
        """Say whether the event answers its command, rather than being another effect of it."""
        return self.key is None and not isinstance(self.command, InternalCommand)


@dataclass(frozen=True, slots=True)
class CardEventBase(EventBase[Cause]):
    """What all events of a card have."""

    card: CardKey


@dataclass(frozen=True, slots=True)
class CardCreated(CardEventBase[CreateCard]):
    type = EventType.CARD_CREATED
    request: SecretRequest | None = None
    issued: IssuedSecrets = NOTHING_ISSUED


class CardActivated(CardEventBase[ActivateCard]):
    type = EventType.CARD_ACTIVATED


class ActivationReversed(CardEventBase[ReverseActivation]):
    type = EventType.CARD_ACTIVATION_REVERSED


class CardUpdated(CardEventBase[UpdateCard]):
    type = EventType.CARD_UPDATED


class CardBlocked(CardEventBase[BlockCard]):
    type = EventType.CARD_BLOCKED


class CardUnblocked(CardEventBase[UnblockCard]):
    type = EventType.CARD_UNBLOCKED


class CardClosed(CardEventBase[CloseCard | WithdrawCard]):
    """The card is closed: by a command, or because its batch was cancelled."""

    type = EventType.CARD_CLOSED


class CardReplaced(CardEventBase[ReplaceCard]):
    """The old card is closed. Its balance goes to the new one."""

    type = EventType.CARD_REPLACED


@dataclass(frozen=True, slots=True)
class ReplacementCreated(CardEventBase[ReplaceCard]):
    """A new card takes over the old one's balance, owner and dates."""

    type = EventType.CARD_CREATED
    amount: int


@dataclass(frozen=True, slots=True)
class ReplacementActivated(CardEventBase[ReplaceCard]):
    """A card that was inactive takes over the old one's balance, owner and dates."""

    type = EventType.CARD_ACTIVATED
    amount: int


class CardFunded(CardEventBase[CreateTransaction]):
    type = EventType.CARD_FUNDED


class CardDrawnDown(CardEventBase[CreateTransaction]):
    type = EventType.CARD_DRAWN_DOWN


@dataclass(frozen=True, slots=True)
class CardRefunded(CardEventBase[RefundTransaction]):
    type = EventType.CARD_REFUNDED
    amount: int


class CardAdjusted(CardEventBase[AdjustBalance]):
    type = EventType.CARD_ADJUSTED


@dataclass(frozen=True, slots=True)
class TransferredOut(CardEventBase[TransferBalance]):
    type = EventType.CARD_TRANSFERRED_OUT
    amount: int


@dataclass(frozen=True, slots=True)
class TransferredIn(CardEventBase[TransferBalance]):
    type = EventType.CARD_TRANSFERRED_IN
    amount: int


@dataclass(frozen=True, slots=True)
class CardExpired(CardEventBase[Command]):
    """`forfeits_balance` says whether the available balance becomes breakage."""

    type = EventType.CARD_EXPIRED
    forfeits_balance: bool


@dataclass(frozen=True, slots=True)
class HoldPlaced(CardEventBase[CreateTransaction]):
    type = EventType.HOLD_PLACED
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class HoldCaptured(CardEventBase[CaptureTransaction]):
    type = EventType.HOLD_CAPTURED
    amount: int


@dataclass(frozen=True, slots=True)
class HoldVoided(CardEventBase[VoidTransaction | CaptureTransaction]):
    """The rest of a hold is released: by a command, or after a final capture."""

    type = EventType.HOLD_VOIDED
    hold: UUID


@dataclass(frozen=True, slots=True)
class HoldExpired(CardEventBase[Command]):
    type = EventType.HOLD_EXPIRED
    hold: UUID


@dataclass(frozen=True, slots=True)
class TokenCreated(CardEventBase[CreateToken]):
    type = EventType.TOKEN_CREATED
    request: SecretRequest
    issued: IssuedSecrets = NOTHING_ISSUED


@dataclass(frozen=True, slots=True)
class TokenRevoked(CardEventBase[RevokeToken]):
    type = EventType.TOKEN_REVOKED
    token: UUID


@dataclass(frozen=True, slots=True)
class PinRotated(CardEventBase[RotatePin]):
    type = EventType.CARD_PIN_ROTATED
    request: SecretRequest
    issued: IssuedSecrets = NOTHING_ISSUED


@dataclass(frozen=True, slots=True)
class PinLocked(CardEventBase[CreateTransaction | CardQuery]):
    """The PIN is locked after wrong ones, until a time of the database's clock."""

    type = EventType.CARD_PIN_LOCKED
    until: datetime


class BatchEventBase(EventBase[Cause]):
    """What all events of a batch have."""


@dataclass(frozen=True, slots=True)
class BatchAccepted(BatchEventBase[CreateBatch]):
    """An order was accepted. Its cards are created in chunks. `recipients`: None if no secrets."""

    type = EventType.BATCH_ACCEPTED
    recipients: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class BatchAwaitsApproval(BatchEventBase[CreateBatch]):
    """An order was stored. Its cards are created when it is approved."""

    type = EventType.BATCH_AWAITING_APPROVAL
    recipients: tuple[str, ...] | None


class BatchApproved(BatchEventBase[ApproveBatch]):
    type = EventType.BATCH_APPROVED


class BatchCancelled(BatchEventBase[CancelBatch]):
    type = EventType.BATCH_CANCELLED


@dataclass(frozen=True, slots=True)
class RecallBegun(BatchEventBase[Recall]):
    """`last` is the number of the last card."""

    type = EventType.BATCH_RECALLING
    last: int


@dataclass(frozen=True, slots=True)
class BatchCompleted(BatchEventBase[CreateBatch]):
    type = EventType.BATCH_COMPLETED
    request: SecretRequest | None = None
    issued: IssuedSecrets = NOTHING_ISSUED


@dataclass(frozen=True, slots=True)
class CommandRejected(EventBase[Command]):
    """`key` is set when the command's own key belongs to another command."""

    type = EventType.COMMAND_REJECTED
    reason: Reason
    problems: tuple[Problem, ...] = ()
    key_id: str | None = None
    """The key of the signature, if the command is refused by the rules for its sender."""

    @property
    def is_answer(self) -> bool:
        return True


CardEvent: TypeAlias = (
    CardCreated
    | CardActivated
    | ActivationReversed
    | CardUpdated
    | CardBlocked
    | CardUnblocked
    | CardClosed
    | CardReplaced
    | ReplacementCreated
    | ReplacementActivated
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
    | PinLocked
)
BatchEvent: TypeAlias = (
    BatchCompleted
    | BatchAccepted
    | BatchAwaitsApproval
    | BatchApproved
    | BatchCancelled
    | RecallBegun
)
Event: TypeAlias = CardEvent | BatchEvent | CommandRejected
IssuingEvent: TypeAlias = CardCreated | BatchCompleted | TokenCreated | PinRotated
"""The events that secrets may be issued with."""


class PinCheck(NamedTuple):
    """A PIN that was compared, with the outcome. `lock` is the event after too many wrong ones."""

    attempt: PinAttempt
    is_right: bool = False
    lock: PinLocked | None = None


class Decision(NamedTuple):
    """The events that a command leads to: its answer, and those before and after that."""

    answer: Event
    before: tuple[CardEvent, ...] = ()
    after: tuple[CardEvent, ...] = ()
    pin_check: PinCheck | None = None
    """The check of the PIN that the command had, if it had one."""
    is_wrong: bool = False
    """Whether its PIN was wrong, or its short token is unknown."""

    @property
    def events(self) -> tuple[Event, ...]:
        return *self.before, self.answer, *self.after
