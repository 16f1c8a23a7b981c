"""Commands that stop a card: block, unblock, close, withdraw, expire.

For each command: the rows it needs, its decision, and what its events do to the books.
"""

from datetime import datetime

from card_worker.contracts.cards import (
    ActivateCard,
    BlockCard,
    CloseCard,
    ExpireCard,
    UnblockCard,
    WithdrawCard,
)
from card_worker.contracts.enums import Reason, Side, TransactionType
from card_worker.domain.books import Books
from card_worker.domain.context import Context
from card_worker.domain.events import CardBlocked, CardClosed, CardExpired, CardUnblocked, Decision
from card_worker.domain.needs import Needs, card_key, needs_card
from card_worker.domain.posting import Movement, Posted, next_version, post_unless_zero
from card_worker.domain.refusal import Refused
from card_worker.domain.rows import State
from card_worker.domain.rules import effect, on_card, rule, table
from card_worker.domain.states import reason_against


def decide_block(command: BlockCard, context: Context) -> Decision:
    if context.card.blocked:
        raise Refused(Reason.CARD_BLOCKED)
    return Decision(CardBlocked(command, context.now, context.key))


def apply_blocked(event: CardBlocked, books: Books) -> None:
    books.put_card(next_version(books, event, blocked=True))


def needs_unblock(command: UnblockCard) -> Needs:
    return Needs(cards=(card_key(command),), holds=True, pin_attempts=True)


def decide_unblock(command: UnblockCard, context: Context) -> Decision:
    pin = context.books.pins.get(context.card.id)
    if not context.card.blocked and (pin is None or pin.locked_until is None):
        raise Refused(Reason.CARD_NOT_BLOCKED)
    return Decision(CardUnblocked(command, context.now, context.key))


def apply_unblocked(event: CardUnblocked, books: Books) -> None:
    card = next_version(books, event, blocked=False)
    books.put_card(card)
    books.unlock_pin(card.id, event.at)


def decide_close(command: CloseCard, context: Context) -> Decision:
    context.check_all_available()
    return Decision(CardClosed(command, context.now, context.key))


def needs_withdraw(command: WithdrawCard) -> Needs:
    return Needs(cards=(card_key(command),))


def decide_withdraw(command: WithdrawCard, books: Books, now: datetime) -> Decision:
    key = command.account_id, command.card_id
    card = books.cards.get(key)
    reason = reason_against(ActivateCard, card.status(now) if card else None)
    if reason is not None:
        raise Refused(reason)
    return Decision(CardClosed(command, now, key))


def apply_closed(event: CardClosed, books: Books) -> Posted:
    card = next_version(books, event, state=State.CLOSED)
    movement = Movement(TransactionType.CASH_OUT, card.amount_balance, Side.CARD, Side.CUSTOMER)
    return post_unless_zero(books, card, movement, event)


def decide_expire(command: ExpireCard, context: Context) -> Decision:
    if context.card.state is State.EXPIRED:
        raise Refused(Reason.CARD_EXPIRED)
    return Decision(CardExpired(command, context.now, context.key, context.forfeits_balance))


def apply_expired(event: CardExpired, books: Books) -> Posted:
    card = next_version(books, event, state=State.EXPIRED)
    breakage = card.amount_available if event.forfeits_balance else 0
    movement = Movement(TransactionType.BREAKAGE, breakage, Side.CARD, Side.BREAKAGE)
    return post_unless_zero(books, card, movement, event)


RULES = table(
    on_card(BlockCard, needs_card, decide_block),
    on_card(UnblockCard, needs_unblock, decide_unblock),
    on_card(CloseCard, needs_card, decide_close),
    rule(WithdrawCard, needs_withdraw, decide_withdraw),
    on_card(ExpireCard, needs_card, decide_expire),
)
EFFECTS = table(
    effect(CardBlocked, apply_blocked),
    effect(CardUnblocked, apply_unblocked),
    effect(CardClosed, apply_closed),
    effect(CardExpired, apply_expired),
)
