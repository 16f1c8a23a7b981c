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

    AWAITING_APPROVAL = "awaiting_approval"
    RUNNING = "running"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


class Action(StrEnum):
    """What is done to the cards of a batch, piece by piece."""

    MAKE = "make"
    REMOVE = "remove"
    """Of an order that was cancelled before it was complete."""
    CANCEL = "cancel"
    """Of one that was complete: close what isn't active."""
    BLOCK = "block"
    UNBLOCK = "unblock"
    CLOSE = "close"
    EXTEND = "extend"


class Expiry(StrEnum):
    """What becomes of the money on a card that expires."""

    KEEP = "keep"
    BREAKAGE = "breakage"


class TransactionType(StrEnum):
    """What moved a card's money."""

    FUND = "fund"
    DRAWDOWN = "drawdown"
    PENDING_CAPTURE = "pending_capture"
    VOIDED = "voided"
    REVERSAL = "reversal"
    ADJUSTMENT = "adjustment"
    TRANSFER = "transfer"
    CASH_OUT = "cash_out"
    BREAKAGE = "breakage"


class Side(StrEnum):
    """The two ends of a transaction: money leaves `debit` and arrives at `credit`."""

    ISSUER = "issuer"
    CARD = "card"
    MERCHANT = "merchant"
    OTHER_CARD = "other_card"
    CUSTOMER = "customer"
    BREAKAGE = "breakage"
    # Both on the card: what may be spent, and what is locked.
    AVAILABLE = "available"
    RESERVED = "reserved"


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
    CARD_NOT_STARTED = "card_not_started"
    CARD_NOT_USABLE = "card_not_usable"
    TOKEN_SPENT = "token_spent"
    PIN_REQUIRED = "pin_required"
    TOKEN_NOT_FOUND = "token_not_found"
    FORMAT_INVALID = "format_invalid"
    CURRENCY_MISMATCH = "currency_mismatch"
    EXCEEDS_AVAILABLE = "exceeds_available"
    LIMIT_EXCEEDED = "limit_exceeded"
    HOLD_NOT_FOUND = "hold_not_found"
    HOLD_CLOSED = "hold_closed"
    EXCEEDS_HOLD = "exceeds_hold"
    TRANSACTION_NOT_FOUND = "transaction_not_found"
    EXCEEDS_DRAWDOWN = "exceeds_drawdown"
    NOT_REVERSIBLE = "not_reversible"
    BATCH_NOT_FOUND = "batch_not_found"
    BATCH_STATE = "batch_state"
    BATCH_TOO_LARGE = "batch_too_large"
    TOO_MANY_WAITING = "too_many_waiting"
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
    Reason.CARD_NOT_STARTED: "The card's active_from has not come.",
    Reason.CARD_NOT_USABLE: "No card can be used with this token and PIN.",
    Reason.TOKEN_SPENT: "The token has been used, and serves once.",
    Reason.PIN_REQUIRED: "The card has a PIN; give it with the token.",
    Reason.TOKEN_NOT_FOUND: "The card has no token with this id.",
    Reason.FORMAT_INVALID: "Values of this format could be guessed, or none is left; see problems.",
    Reason.CURRENCY_MISMATCH: "The currency is not the card's, or not one of the account's.",
    Reason.EXCEEDS_AVAILABLE: "Less is available on the card than that.",
    Reason.LIMIT_EXCEEDED: "The card would hold, or be loaded with, more than the account allows.",
    Reason.HOLD_NOT_FOUND: "There is no pending transaction with this id.",
    Reason.HOLD_CLOSED: "Nothing of the pending transaction is locked any more.",
    Reason.EXCEEDS_HOLD: "Less is still locked than that.",
    Reason.TRANSACTION_NOT_FOUND: "There is no drawdown with this id.",
    Reason.EXCEEDS_DRAWDOWN: "Less of the drawdown is left to be refunded than that.",
    Reason.NOT_REVERSIBLE: "There is nothing to be undone, or no longer.",
    Reason.BATCH_NOT_FOUND: "There is no batch with this batch_id.",
    Reason.BATCH_STATE: "The batch exists already, or isn't as far, or too far, for that.",
    Reason.BATCH_TOO_LARGE: "A list has at most 1,000 cards, an order 10,000,000.",
    Reason.TOO_MANY_WAITING: "Too many orders of the account wait for approval.",
    Reason.DUPLICATE_IN_BATCH: "A card_id stands twice in the batch; see problems.",
    Reason.NOT_DUE: "Its time has not passed.",
}
"""What each reason says to a person."""


class EventType(StrEnum):
    """What can have happened."""

    CARD_CREATED = "card.created"
    CARD_ACTIVATED = "card.activated"
    CARD_ACTIVATION_REVERSED = "card.activation_reversed"
    CARD_UPDATED = "card.updated"
    CARD_FUNDED = "card.funded"
    CARD_DRAWN_DOWN = "card.drawn_down"
    CARD_REFUNDED = "card.refunded"
    CARD_ADJUSTED = "card.adjusted"
    CARD_TRANSFERRED_OUT = "card.transferred_out"
    CARD_TRANSFERRED_IN = "card.transferred_in"
    CARD_BLOCKED = "card.blocked"
    CARD_UNBLOCKED = "card.unblocked"
    CARD_REPLACED = "card.replaced"
    CARD_CLOSED = "card.closed"
    CARD_EXPIRED = "card.expired"
    CARD_PIN_ROTATED = "card.pin_rotated"
    TOKEN_CREATED = "token.created"
    TOKEN_REVOKED = "token.revoked"
    HOLD_PLACED = "hold.placed"
    HOLD_CAPTURED = "hold.captured"
    HOLD_VOIDED = "hold.voided"
    HOLD_EXPIRED = "hold.expired"
    BATCH_ACCEPTED = "batch.accepted"
    BATCH_AWAITING_APPROVAL = "batch.awaiting_approval"
    BATCH_APPROVED = "batch.approved"
    BATCH_PROGRESSED = "batch.progressed"
    BATCH_COMPLETED = "batch.completed"
    BATCH_CANCELLED = "batch.cancelled"
    BATCH_RECALLING = "batch.recalling"
    BATCH_RECALLED = "batch.recalled"
    BATCH_CONFIRMED = "batch.confirmed"
    COMMAND_REJECTED = "command.rejected"


HAPPENED: dict[EventType, str] = {
    EventType.CARD_CREATED: "A card was made, active at once.",
    EventType.CARD_ACTIVATED: "An inactive card got its currency, its money and its dates.",
    EventType.CARD_ACTIVATION_REVERSED: "A load was taken back; the card is inactive again.",
    EventType.CARD_UPDATED: "Its name, owner or metadata changed, or its end was put off.",
    EventType.CARD_FUNDED: "Money came onto the card.",
    EventType.CARD_DRAWN_DOWN: "Money was spent.",
    EventType.CARD_REFUNDED: "Money that had been spent came back.",
    EventType.CARD_ADJUSTED: "The balance was corrected.",
    EventType.CARD_TRANSFERRED_OUT: "Money went to another card.",
    EventType.CARD_TRANSFERRED_IN: "Money came from another card.",
    EventType.CARD_BLOCKED: "The card was frozen.",
    EventType.CARD_UNBLOCKED: "The card was thawed.",
    EventType.CARD_REPLACED: "Another card took its place; this one is closed.",
    EventType.CARD_CLOSED: "The card was ended, and what was left on it paid out.",
    EventType.CARD_EXPIRED: "Its time has passed. With breakage: what was left is the account's.",
    EventType.CARD_PIN_ROTATED: "The card got a new PIN.",
    EventType.TOKEN_CREATED: "The card got one more token.",
    EventType.TOKEN_REVOKED: "A token of the card serves no longer.",
    EventType.HOLD_PLACED: "Some of the balance was locked by a pending transaction.",
    EventType.HOLD_CAPTURED: "All or a part of what was locked was spent.",
    EventType.HOLD_VOIDED: "What was still locked was released.",
    EventType.HOLD_EXPIRED: "What was still locked was released, its time being up.",
    EventType.BATCH_ACCEPTED: "An order of cards was taken, and is being made.",
    EventType.BATCH_AWAITING_APPROVAL: "An order of cards was taken, and waits for approval.",
    EventType.BATCH_APPROVED: "Somebody else approved an order; it is being made.",
    EventType.BATCH_PROGRESSED: "Some more cards were made, or recalled; once a second at most.",
    EventType.BATCH_COMPLETED: "All cards of a batch were made.",
    EventType.BATCH_CANCELLED: "A batch was let go: what was made is removed, or closed if unused.",
    EventType.BATCH_RECALLING: "What was asked for all cards of a batch has begun.",
    EventType.BATCH_RECALLED: "What was asked for all cards of a batch was done, card by card.",
    EventType.BATCH_CONFIRMED: "The files of a batch have arrived; its secrets are deleted here.",
    EventType.COMMAND_REJECTED: "A command was refused, and nothing else came of it.",
}
"""What each event tells, in a sentence."""
