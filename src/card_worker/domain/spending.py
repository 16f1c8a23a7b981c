"""Commands that move a card's money: transactions, holds, refunds, adjustments, transfers.

For each command: the rows it needs, its decision, and what its events do to the books.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from uuid import UUID

from card_worker.contracts import keys
from card_worker.contracts.cards import AdjustBalance, TransferBalance
from card_worker.contracts.enums import Reason, Side, TransactionType
from card_worker.contracts.transactions import (
    CaptureTransaction,
    CreateTransaction,
    ExpireHold,
    RefundTransaction,
    VoidTransaction,
)
from card_worker.domain.access import check_reference
from card_worker.domain.books import Books
from card_worker.domain.codes import use_codes
from card_worker.domain.context import Context, context_by_access
from card_worker.domain.events import (
    CardAdjusted,
    CardDrawnDown,
    CardFunded,
    CardRefunded,
    Decision,
    HoldCaptured,
    HoldExpired,
    HoldPlaced,
    HoldVoided,
    TransferredIn,
    TransferredOut,
)
from card_worker.domain.needs import (
    Needs,
    card_key,
    made_transaction,
    needs_access,
    needs_transaction,
)
from card_worker.domain.posting import Movement, Posted, next_version, post
from card_worker.domain.refusal import Refused
from card_worker.domain.rows import Card, Hold
from card_worker.domain.rules import effect, in_context, on_card, on_transaction, table
from card_worker.domain.states import reason_against
from card_worker.money import AMOUNT_MAX


def needs_create_transaction(command: CreateTransaction) -> Needs:
    makes = made_transaction(command)
    return needs_access(command)._replace(ref_id=command.ref_id, holds=True, makes=makes)


def decide_create_transaction(command: CreateTransaction, context: Context) -> Decision:
    card, now = context.card, context.now
    if command.token is not None:  # before, its holder may not learn anything of the card
        check_reference(context.books, command, card)
    if command.type is TransactionType.FUND:
        context.check_currency(command.currency)
        context.check_limits(command.amount, funds=command.amount)
        return Decision(CardFunded(command, now, context.key))
    context.check_currency(command.currency)
    context.check_available(command.amount)
    if not command.pending:
        return Decision(CardDrawnDown(command, now, context.key))
    if card.amount_pending + command.amount > AMOUNT_MAX:
        raise Refused(Reason.LIMIT_EXCEEDED)
    lasts_s = command.hold_expires_in
    expires_at = None if lasts_s is None else now + timedelta(seconds=lasts_s)
    return Decision(HoldPlaced(command, now, context.key, expires_at))


def apply_funded(event: CardFunded, books: Books) -> Posted:
    command = event.command
    about = command.ref_id, None, command.metadata
    movement = Movement(TransactionType.FUND, command.amount, Side.ISSUER, Side.CARD, *about)
    movement = movement._replace(funding=command.funding)
    use_codes(books, event)
    return post(books, next_version(books, event), movement, event)


def apply_drawn_down(event: CardDrawnDown, books: Books) -> Posted:
    command = event.command
    use_codes(books, event)
    about = command.ref_id, None, command.metadata
    movement = Movement(TransactionType.DRAWDOWN, command.amount, Side.CARD, Side.MERCHANT, *about)
    return post(books, next_version(books, event), movement, event)


def apply_hold_placed(event: HoldPlaced, books: Books) -> Posted:
    command = event.command
    type, about = TransactionType.PENDING_CAPTURE, (command.ref_id, None, command.metadata)
    movement = Movement(type, command.amount, Side.AVAILABLE, Side.RESERVED, *about)
    use_codes(books, event)
    pending = post(books, next_version(books, event), movement, event)
    books.holds.put(
        Hold(
            id=pending.id,
            account_id=pending.account_id,
            card=pending.card,
            amount=pending.amount,
            created_at=event.at,
            expires_at=event.expires_at,
        )
    )
    return pending


def decide_capture(command: CaptureTransaction, context: Context) -> Decision:
    locked = context.open_hold.amount_open
    amount = locked if command.amount is None else command.amount
    if amount > locked:
        raise Refused(Reason.EXCEEDS_HOLD)
    captured = HoldCaptured(command, context.now, context.key, amount)
    if not command.final or amount == locked:
        return Decision(captured)
    hold, key = command.transaction_id, keys.rest(captured.id)
    rest = HoldVoided(command, context.now, context.key, hold, key=key)
    return Decision(captured, after=(rest,))


def apply_hold_captured(event: HoldCaptured, books: Books) -> Posted:
    command = event.command
    hold = books.holds[command.transaction_id]
    books.holds.put(hold._replace(captured=hold.captured + event.amount))
    type, about = TransactionType.DRAWDOWN, (command.ref_id, hold.id, command.metadata)
    movement = Movement(type, event.amount, Side.CARD, Side.MERCHANT, *about, captures=True)
    return post(books, next_version(books, event), movement, event)


def decide_void(command: VoidTransaction, context: Context) -> Decision:
    return Decision(HoldVoided(command, context.now, context.key, context.open_hold.id))


def apply_hold_voided(event: HoldVoided, books: Books) -> Posted:
    command, movement = event.command, _release(books, event.hold)
    if isinstance(command, VoidTransaction):  # those of a capture are on its own transaction
        movement = movement._replace(ref_id=command.ref_id, metadata=command.metadata)
    return post(books, next_version(books, event), movement, event)


def needs_expire_hold(command: ExpireHold) -> Needs:
    return Needs(transactions=((command.account_id, command.transaction_id),), holds=True)


def decide_expire_hold(command: ExpireHold, context: Context) -> Decision:
    assert context.parent is not None
    hold = context.books.holds[context.parent.id]
    if not hold.amount_open:
        raise Refused(Reason.HOLD_CLOSED)
    if not hold.is_due(context.now):
        raise Refused(Reason.NOT_DUE)
    return Decision(HoldExpired(command, context.now, context.key, hold.id))


def apply_hold_expired(event: HoldExpired, books: Books) -> Posted:
    return post(books, next_version(books, event), _release(books, event.hold), event)


def _release(books: Books, id: UUID) -> Movement:
    """Release what a hold still locks; return the movement for that."""
    hold = books.holds[id]
    books.holds.put(hold._replace(released=hold.released + hold.amount_open))
    return Movement(
        TransactionType.VOIDED, hold.amount_open, Side.RESERVED, Side.AVAILABLE, parent_id=id
    )


def needs_refund(command: RefundTransaction) -> Needs:
    return needs_transaction(command)._replace(successor=True)


def decide_refund(command: RefundTransaction, context: Context) -> Decision:
    assert context.parent is not None
    context.check_currency(context.parent.currency)  # a successor may once have been reversed
    left = context.parent.amount - context.books.refunded.get(context.parent.id, 0)
    amount = left if command.amount is None else command.amount
    if amount > left or left == 0:
        raise Refused(Reason.EXCEEDS_DRAWDOWN)
    # The account's limit doesn't stop it: it gives back what was on the card.
    context.check_limits(amount, funds=amount, limit=AMOUNT_MAX)
    return Decision(CardRefunded(command, context.now, context.key, amount))


def apply_refunded(event: CardRefunded, books: Books) -> Posted:
    command, parent_id = event.command, event.command.transaction_id
    books.refunded[parent_id] = books.refunded.get(parent_id, 0) + event.amount
    about = command.ref_id, parent_id, command.metadata
    movement = Movement(TransactionType.FUND, event.amount, Side.ISSUER, Side.CARD, *about)
    return post(books, next_version(books, event), movement, event)


def needs_adjust(command: AdjustBalance) -> Needs:
    makes = made_transaction(command)
    return Needs(cards=(card_key(command),), ref_id=command.ref_id, holds=True, makes=makes)


def decide_adjust(command: AdjustBalance, context: Context) -> Decision:
    context.check_currency(command.currency)
    if command.amount < 0:
        context.check_available(-command.amount)
    else:
        context.check_limits(command.amount)
    return Decision(CardAdjusted(command, context.now, context.key))


def apply_adjusted(event: CardAdjusted, books: Books) -> Posted:
    amount, ref_id = event.command.amount, event.command.ref_id
    debit, credit = (Side.ISSUER, Side.CARD) if amount > 0 else (Side.CARD, Side.ISSUER)
    movement = Movement(TransactionType.ADJUSTMENT, abs(amount), debit, credit, ref_id=ref_id)
    if amount > 0:
        movement = movement._replace(funding=event.command.funding)
    return post(books, next_version(books, event), movement, event)


def needs_transfer(command: TransferBalance) -> Needs:
    cards = card_key(command), (command.account_id, command.to_card_id)
    return Needs(cards=cards, ref_id=command.ref_id, holds=True)


def reasons_against_transfer(
    books: Books, command: TransferBalance, now: datetime
) -> Iterator[Reason]:
    card = books.cards.get(card_key(command))
    if card is not None and card.active_from is not None and card.active_from > now:
        yield Reason.CARD_NOT_STARTED
    to_key = command.account_id, command.to_card_id
    to = books.cards.get(to_key)
    if books.busy_with(to_key) is not None:
        yield Reason.BATCH_STATE
    reason = reason_against(TransferBalance, to.status(now) if to else None)
    if reason is not None:
        yield reason


def decide_transfer(command: TransferBalance, context: Context) -> Decision:
    card, to = context.card, context.books.cards[command.account_id, command.to_card_id]
    if not context.account.transfers_extend_expiry and _expires_later(to, card):
        raise Refused(Reason.EXPIRY_MISMATCH)
    context.check_currency(to.currency)
    amount = context.available if command.amount is None else command.amount
    context.check_available(max(amount, 1))  # with nothing available, "all" is refused too
    context.check_limits(amount, on=to)
    out = TransferredOut(command, context.now, context.key, amount)
    key = keys.arrival(out.id)
    return Decision(out, after=(TransferredIn(command, context.now, to.key, amount, key=key),))


def _expires_later(card: Card, other: Card) -> bool:
    if other.expires_at is None:
        return False
    return card.expires_at is None or card.expires_at > other.expires_at


def apply_transferred_out(event: TransferredOut, books: Books) -> Posted:
    ref_id = event.command.ref_id
    movement = Movement(
        TransactionType.TRANSFER, event.amount, Side.CARD, Side.OTHER_CARD, ref_id=ref_id
    )
    return post(books, next_version(books, event), movement, event)


def apply_transferred_in(event: TransferredIn, books: Books) -> Posted:
    # Without the ref_id: it belongs to the other card; on this one it may be of another command.
    movement = Movement(TransactionType.TRANSFER, event.amount, Side.OTHER_CARD, Side.CARD)
    return post(books, next_version(books, event), movement, event)


RULES = table(
    in_context(
        CreateTransaction,
        context_by_access,
        needs_create_transaction,
        decide_create_transaction,
    ),
    on_transaction(CaptureTransaction, needs_transaction, decide_capture),
    on_transaction(VoidTransaction, needs_transaction, decide_void),
    on_transaction(RefundTransaction, needs_refund, decide_refund),
    on_transaction(ExpireHold, needs_expire_hold, decide_expire_hold),
    on_card(AdjustBalance, needs_adjust, decide_adjust),
    on_card(TransferBalance, needs_transfer, decide_transfer, reasons=reasons_against_transfer),
)
EFFECTS = table(
    effect(CardFunded, apply_funded),
    effect(CardDrawnDown, apply_drawn_down),
    effect(HoldPlaced, apply_hold_placed),
    effect(HoldCaptured, apply_hold_captured),
    effect(HoldVoided, apply_hold_voided),
    effect(HoldExpired, apply_hold_expired),
    effect(CardRefunded, apply_refunded),
    effect(CardAdjusted, apply_adjusted),
    effect(TransferredOut, apply_transferred_out),
    effect(TransferredIn, apply_transferred_in),
)
