"""The closed sets of values that commands and events share. Each value has a text of its own."""

from enum import StrEnum
from typing import Any


class TextEnum(StrEnum):
    """Values with a text each, which the generated reference repeats."""

    text: str
    _value_: str

    def __new__(cls, value: str, text: str = "") -> "TextEnum":
        member = str.__new__(cls, value)
        member._value_, member.text = value, text
        return member

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        """Return the JSON Schema, with all values and their texts in its description."""
        described: dict[str, Any] = handler.resolve_ref_schema(handler(schema))
        values = "\n".join(f"- `{member}`: {member.text}" for member in cls)
        described["description"] = f"{cls.__doc__}\n\n{values}"
        return described


class CardType(TextEnum):
    """What a card is."""

    GIFT_CARD = "gift_card", "Sold or given away."
    CREDIT_NOTE = "credit_note", "Given for goods that were returned."


class Status(TextEnum):
    """The status of a card: the first of these that applies, in this order."""

    INACTIVE = "inactive", "Not activated yet. The card has no money and no currency."
    CLOSED = "closed", "Closed or replaced. This is final."
    EXPIRED = "expired", "`expires_at` has passed. A later `expires_at` makes it usable again."
    BLOCKED = "blocked", "Blocked by a command. Nothing can be spent."
    UNUSED = "unused", "Active, and nothing has been spent: `amount_drawdown` is 0."
    USED = "used", "Active, with drawdowns, and nothing is left: `amount_balance` is 0."
    PARTIALLY_USED = "partially_used", "Active, with drawdowns, and some money is left."


class BatchState(TextEnum):
    """The state of a batch."""

    AWAITING_APPROVAL = "awaiting_approval", "Accepted. Another person must approve it."
    RUNNING = "running", "Its cards are being made, and can't be used yet."
    COMPLETED = "completed", "All cards exist."
    CANCELLED = "cancelled", "Cancelled. Its cards are removed, or closed if they were inactive."


class Action(TextEnum):
    """What is done to the cards of a batch, in chunks."""

    MAKE = "make", "Make the cards of an order."
    REMOVE = "remove", "Remove the cards of an order that was cancelled before it was complete."
    CANCEL = "cancel", "Close the inactive cards of a batch that was cancelled when complete."
    BLOCK = "block", "Block the cards."
    UNBLOCK = "unblock", "Unblock the cards."
    CLOSE = "close", "Close the cards."
    EXTEND = "extend", "Give the cards a later expiry date."


class Expiry(TextEnum):
    """What happens to the money on a card that expires."""

    KEEP = "keep", "It stays on the card."
    BREAKAGE = "breakage", "It goes to the account, as a transaction of type `breakage`."


class TransactionType(TextEnum):
    """Why money moved, or was reserved."""

    FUND = "fund", "Money was loaded, or a drawdown, `parent_id`, was refunded."
    DRAWDOWN = "drawdown", "Money was spent, at once or by a capture."
    PENDING_CAPTURE = "pending_capture", "An amount was reserved by a hold."
    VOIDED = "voided", "A reserved amount was released: the hold was voided or has expired."
    REVERSAL = "reversal", "An activation was reversed: its load was taken back."
    ADJUSTMENT = "adjustment", "The balance was corrected."
    TRANSFER = "transfer", "Money moved to, or from, another card."
    CASH_OUT = "cash_out", "The balance was paid out when the card was closed."
    BREAKAGE = "breakage", "The balance of an expired card went to the account."


class Funding(TextEnum):
    """Why money was put onto a card."""

    SOLD = "sold", "The customer paid for it."
    PROMOTIONAL = "promotional", "It was given away."
    COMPENSATION = "compensation", "It makes up for something, such as a late delivery."


class Side(TextEnum):
    """The two sides of a transaction. Money leaves `debit` and arrives at `credit`."""

    ISSUER = "issuer", "The account that issued the card."
    CARD = "card", "The balance of this card."
    MERCHANT = "merchant", "The merchant who was paid."
    OTHER_CARD = "other_card", "The balance of another card of the account."
    CUSTOMER = "customer", "The customer to whom the balance was paid out."
    BREAKAGE = "breakage", "The account's income from expired cards."
    AVAILABLE = "available", "The part of the card's balance that can be spent."
    RESERVED = "reserved", "The part of the card's balance that is reserved by holds."


class Reason(TextEnum):
    """Why a command or a query is refused. If several reasons apply, the first of them is given.

    First what is wrong with the command itself, then the batch or card, its state, the amount. A
    key that was used for another command is refused before anything else is checked.
    """

    INVALID = "invalid", "A field is missing, unknown or invalid; see problems."
    STALE_COMMAND = "stale_command", "The not_after of the command has passed."
    IDEMPOTENCY_CONFLICT = (
        "idempotency_conflict",
        "This idempotency key was used before, for a command with different content.",
    )
    NOT_PERMITTED = (
        "not_permitted",
        "The key of the signature does not allow this command, or this account.",
    )
    SIGNATURE_STALE = "signature_stale", "The signature is too old; sign the command again."
    SIGNATURE_FROM_THE_FUTURE = (
        "signature_from_the_future",
        "The time of the signature is more than 10 minutes ahead.",
    )
    TOO_MANY_ATTEMPTS = (
        "too_many_attempts",
        "Too many PINs and tokens of the producer were wrong; sign it again after 10 minutes.",
    )
    BATCH_TOO_LARGE = (
        "batch_too_large",
        "A list has at most 1,000 cards, an order at most 10,000,000.",
    )
    DUPLICATE_IN_BATCH = "duplicate_in_batch", "A card_id is in the list twice; see problems."
    BATCH_NOT_FOUND = "batch_not_found", "There is no batch with this batch_id."
    BATCH_STATE = "batch_state", "The batch is not in a state that allows this."
    CARD_EXISTS = "card_exists", "A card with this card_id exists."
    CARD_NOT_FOUND = "card_not_found", "There is no card with this card_id."
    HOLD_NOT_FOUND = "hold_not_found", "There is no pending transaction with this id."
    TRANSACTION_NOT_FOUND = "transaction_not_found", "There is no drawdown with this id."
    CARD_INACTIVE = "card_inactive", "The card is not activated."
    CARD_ALREADY_ACTIVE = "card_already_active", "The card is already activated."
    CARD_CLOSED = "card_closed", "The card is closed."
    CARD_EXPIRED = "card_expired", "The card has expired."
    CARD_BLOCKED = "card_blocked", "The card is blocked."
    CARD_NOT_BLOCKED = "card_not_blocked", "The card is not blocked, and its PIN is not locked."
    CARD_NOT_STARTED = "card_not_started", "The active_from of the card is in the future."
    TOKEN_SPENT = "token_spent", "The token can be used only once, and has been used."
    CARD_NOT_USABLE = "card_not_usable", "No card can be used with this token and PIN."
    PIN_REQUIRED = "pin_required", "The card has a PIN; send it with the token."
    TOKEN_NOT_FOUND = "token_not_found", "The card has no token with this id."
    HOLD_CLOSED = "hold_closed", "Nothing is reserved by this pending transaction any more."
    NOT_REVERSIBLE = (
        "not_reversible",
        "The activation can't be reversed: the card's money has moved since, or it is too late.",
    )
    NOT_DUE = "not_due", "The expiry time has not been reached."
    EXPIRY_NOT_LATER = (
        "expiry_not_later",
        "The new expires_at must be after the present one; a card without one never expires.",
    )
    EXPIRY_MISMATCH = (
        "expiry_mismatch",
        "The other card expires later, and the account does not allow such transfers.",
    )
    FORMAT_INVALID = (
        "format_invalid",
        "Values of this format are too easy to guess, or almost all are in use; see problems.",
    )
    CURRENCY_MISMATCH = (
        "currency_mismatch",
        "The currency differs from the card's, or the account doesn't allow it.",
    )
    EXCEEDS_HOLD = "exceeds_hold", "The amount is larger than the amount still reserved."
    EXCEEDS_DRAWDOWN = (
        "exceeds_drawdown",
        "The amount is larger than what can still be refunded of the drawdown.",
    )
    EXCEEDS_AVAILABLE = "exceeds_available", "The amount is larger than the available amount."
    LIMIT_EXCEEDED = (
        "limit_exceeded",
        "An amount or number exceeds a limit of the account, or of the signature's key.",
    )
    TOO_MANY_WAITING = (
        "too_many_waiting",
        "Too many orders of the account are waiting for approval.",
    )


class EventType(TextEnum):
    """What has happened."""

    CARD_CREATED = "card.created", "A card was created, active at once."
    CARD_ACTIVATED = "card.activated", "A card was activated: it got currency, money and dates."
    CARD_ACTIVATION_REVERSED = (
        "card.activation_reversed",
        "An activation was reversed. The card is inactive again, without money.",
    )
    CARD_UPDATED = (
        "card.updated",
        "The card's name, customer, metadata or expiry date was changed.",
    )
    CARD_FUNDED = "card.funded", "Money was loaded onto the card."
    CARD_DRAWN_DOWN = "card.drawn_down", "Money was spent."
    CARD_REFUNDED = "card.refunded", "Money that had been spent was put back."
    CARD_ADJUSTED = "card.adjusted", "The balance was corrected."
    CARD_TRANSFERRED_OUT = "card.transferred_out", "Money was moved to another card."
    CARD_TRANSFERRED_IN = "card.transferred_in", "Money was moved from another card to this one."
    CARD_BLOCKED = "card.blocked", "The card was blocked."
    CARD_UNBLOCKED = "card.unblocked", "The card was unblocked, and its PIN unlocked."
    CARD_REPLACED = "card.replaced", "The card was replaced by another one, and is closed."
    CARD_CLOSED = "card.closed", "The card was closed, and its balance paid out."
    CARD_EXPIRED = (
        "card.expired",
        "The card has expired. With the rule `breakage`, its balance went to the account.",
    )
    CARD_PIN_ROTATED = "card.pin_rotated", "The card got a new PIN."
    CARD_PIN_LOCKED = (
        "card.pin_locked",
        "After wrong PINs, the card can't be used by a token or the PIN until `pin.locked_until`.",
    )
    TOKEN_CREATED = "token.created", "The card got one more token."
    TOKEN_REVOKED = "token.revoked", "A token was revoked. It can't be used any more."
    HOLD_PLACED = "hold.placed", "An amount was reserved by a pending transaction."
    HOLD_CAPTURED = "hold.captured", "All or part of a reserved amount was spent."
    HOLD_VOIDED = "hold.voided", "The amount that was still reserved was released."
    HOLD_EXPIRED = "hold.expired", "A hold has expired. What was still reserved was released."
    BATCH_ACCEPTED = "batch.accepted", "An order was accepted. Its cards are being made."
    BATCH_AWAITING_APPROVAL = (
        "batch.awaiting_approval",
        "An order was accepted. It waits for approval.",
    )
    BATCH_APPROVED = "batch.approved", "An order was approved. Its cards are being made."
    BATCH_PROGRESSED = (
        "batch.progressed",
        "More cards of the batch were made or changed. Sent at most once a second.",
    )
    BATCH_COMPLETED = "batch.completed", "All cards of a batch were made."
    BATCH_CANCELLED = (
        "batch.cancelled",
        "A batch was cancelled. Its cards are removed, or closed if they were inactive.",
    )
    BATCH_RECALLING = "batch.recalling", "A command on all cards of a batch has begun."
    BATCH_RECALLED = "batch.recalled", "A command on all cards of a batch is done, card by card."
    BATCH_CONFIRMED = (
        "batch.confirmed",
        "The arrival of a batch's files was confirmed. The secrets were deleted here.",
    )
    COMMAND_REJECTED = "command.rejected", "A command was refused. It changed nothing."
    COMMAND_REPEATED = (
        "command.repeated",
        "A command was answered before, under another command_id or long ago. The field `event`"
        " holds that answer, if it is still stored; it may be a refusal.",
    )
