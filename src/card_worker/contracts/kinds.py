"""The closed sets of words that commands and events share."""

from enum import StrEnum


class CardType(StrEnum):
    """What a card is."""

    GIFT_CARD = "gift_card"
    CREDIT_NOTE = "credit_note"


class Status(StrEnum):
    """What a card shows; the first that is true, in this order."""

    INACTIVE = "inactive"
    CLOSED = "closed"
    EXPIRED = "expired"
    BLOCKED = "blocked"
    UNUSED = "unused"
    USED = "used"
    PARTIALLY_USED = "partially_used"


class BatchState(StrEnum):
    """How far an order of cards has come."""

    COMPLETED = "completed"


class TransactionType(StrEnum):
    """What moved a card's money."""

    FUND = "fund"


class Side(StrEnum):
    """The two ends of a transaction: money leaves `debit` and arrives at `credit`."""

    ISSUER = "issuer"
    CARD = "card"


class Reason(StrEnum):
    """Why a command is refused, in the order in which reasons are looked for."""

    INVALID = "invalid"
    STALE_COMMAND = "stale_command"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    CARD_EXISTS = "card_exists"
    CARD_NOT_FOUND = "card_not_found"
    CARD_INACTIVE = "card_inactive"
    CARD_ALREADY_ACTIVE = "card_already_active"
    CARD_CLOSED = "card_closed"
    CARD_EXPIRED = "card_expired"
    CARD_BLOCKED = "card_blocked"
    BATCH_STATE = "batch_state"
    BATCH_TOO_LARGE = "batch_too_large"
    DUPLICATE_IN_BATCH = "duplicate_in_batch"
    NOT_DUE = "not_due"


MESSAGES: dict[Reason, str] = {
    Reason.INVALID: "A field is missing, unknown or out of bounds; see problems.",
    Reason.STALE_COMMAND: "The command's not_after has passed.",
    Reason.IDEMPOTENCY_CONFLICT: "This key was used before for a command with other content.",
    Reason.CARD_EXISTS: "A card with this card_id exists.",
    Reason.CARD_NOT_FOUND: "There is no card with this card_id.",
    Reason.CARD_INACTIVE: "The card has not been activated.",
    Reason.CARD_ALREADY_ACTIVE: "The card has been activated before.",
    Reason.CARD_CLOSED: "The card is closed.",
    Reason.CARD_EXPIRED: "The card has expired.",
    Reason.CARD_BLOCKED: "The card is blocked.",
    Reason.BATCH_STATE: "A batch with this batch_id exists.",
    Reason.BATCH_TOO_LARGE: "A listed batch has at most 1,000 cards.",
    Reason.DUPLICATE_IN_BATCH: "A card_id stands twice in the batch; see problems.",
    Reason.NOT_DUE: "The card's time has not passed.",
}
"""What each reason says to a person."""


class EventType(StrEnum):
    """What can have happened."""

    CARD_CREATED = "card.created"
    CARD_ACTIVATED = "card.activated"
    CARD_EXPIRED = "card.expired"
    BATCH_COMPLETED = "batch.completed"
    COMMAND_REJECTED = "command.rejected"
