"""The table of contents: which functions belong to each command, and to each event.

The tables are checked when this module is imported: a command or event without an entry stops the
start, and the error names its class.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from functools import cache
from typing import NamedTuple, TypeAlias, TypeVar, cast

from card_worker.contracts import keys
from card_worker.contracts.batches import (
    ApproveBatch,
    BlockBatch,
    CancelBatch,
    CloseBatch,
    CreateBatch,
    ExtendBatch,
    LapseBatch,
    UnblockBatch,
)
from card_worker.contracts.cards import (
    ActivateCard,
    AdjustBalance,
    BlockCard,
    CloseCard,
    CreateCard,
    ExpireCard,
    MovesMoney,
    ReplaceCard,
    ReverseActivation,
    TransferBalance,
    UnblockCard,
    UpdateCard,
    WithdrawCard,
)
from card_worker.contracts.commands import Command, InvalidCommand
from card_worker.contracts.enums import Reason
from card_worker.contracts.tokens import CreateToken, RevokeToken, RotatePin
from card_worker.contracts.transactions import (
    CaptureTransaction,
    CreateTransaction,
    ExpireHold,
    RefundTransaction,
    VoidTransaction,
)
from card_worker.domain import codes, ending, events, issuing, orders, spending
from card_worker.domain.access import AccessDenied
from card_worker.domain.books import Books
from card_worker.domain.context import (
    Context,
    context_by_access,
    context_by_card,
    context_by_transaction,
)
from card_worker.domain.events import (
    CardEvent,
    CardEventBase,
    CardExpired,
    CardUpdated,
    CommandRejected,
    Decision,
    Event,
    HoldExpired,
    HoldVoided,
    PinCheck,
)
from card_worker.domain.needs import Needs, needs_card, needs_transaction
from card_worker.domain.posting import Posted
from card_worker.domain.refusal import Refused
from card_worker.domain.rows import State
from card_worker.domain.states import ByTransaction, OnCard, check_complete

C = TypeVar("C", bound=Command)
Named = TypeVar("Named", bound=OnCard)
Parented = TypeVar("Parented", bound=ByTransaction)
E = TypeVar("E", bound=Event)
NeedsOf: TypeAlias = Callable[[C], Needs]
Decide: TypeAlias = Callable[[C, Books, datetime], Decision]
DecideInContext: TypeAlias = Callable[[C, Context], Decision]
Effect: TypeAlias = Callable[[E, Books], Posted]


class Rule(NamedTuple):
    """What a command needs, and what it leads to."""

    needs: NeedsOf[Command]
    decide: Decide[Command]


def decide(books: Books, command: Command, now: datetime) -> Decision:
    """Return the events that `command` leads to at `now`. Changes nothing."""
    try:
        _check_times(command, now)
        return _rule_of(type(command)).decide(command, books, now)
    except AccessDenied as refusal:
        return _with_pin_check(_rejection(command, now, refusal), refusal.pin_check)
    except Refused as refusal:
        return _rejection(command, now, refusal)


def needs(command: Command) -> Needs:
    """Return the rows that `decide` and `apply` look at, whether they exist or not."""
    return _rule_of(type(command)).needs(command)


def apply(event: Event, books: Books) -> Posted:
    """Do to the books what an event says; return the transaction it posted, if it moved money."""
    return EFFECTS[type(event)](event, books)


def _check_times(command: Command, now: datetime) -> None:
    if type(command) is CreateCard or type(command) is ActivateCard:
        issuing.check_dates(command, now)
    if command.not_after is not None and command.not_after < now:
        raise Refused(Reason.STALE_COMMAND)


@cache
def _rule_of(kind: type[Command]) -> Rule:
    """Return the rule of a class; that of its base class for a command that workers make."""
    return next(RULES[base] for base in kind.__mro__ if base in RULES)


def _rejection(command: Command, now: datetime, refusal: Refused) -> Decision:
    return Decision(CommandRejected(command, now, refusal.reason, refusal.problems))


def _with_pin_check(decision: Decision, pin_check: PinCheck | None) -> Decision:
    if pin_check is None:
        return decision
    after = () if pin_check.block is None else (pin_check.block,)
    return decision._replace(pin_check=pin_check, after=decision.after + after)


# --- commands on a card -----------------------------------------------------------------------


def _check_reference(command: Command, context: Context) -> None:
    # The same command delivered again is known by its key, and doesn't come here.
    if isinstance(command, MovesMoney) and (context.card.id, command.ref_id) in context.books.refs:
        raise Refused(Reason.IDEMPOTENCY_CONFLICT)


def _with_released_holds(command: Command, context: Context, decision: Decision) -> Decision:
    """Add the release of expired holds, and the breakage that follows from what is unlocked."""
    answer = decision.answer
    assert isinstance(answer, CardEventBase)
    released = _release_due(command, context, answer, [answer, *decision.after])
    if not released and not isinstance(answer, HoldVoided | HoldExpired):
        return decision
    after = decision.after
    if _leaves_breakage(context, answer):
        now, key = context.now, keys.breakage(answer.id)
        breakage = CardExpired(command, now, context.key, forfeits_balance=True, key=key)
        after = (*after, breakage)
    return decision._replace(before=released, after=after)


def _release_due(
    command: Command, context: Context, answer: CardEvent, events: Iterable[CardEvent]
) -> tuple[HoldExpired, ...]:
    """Return the release of all expired holds on the cards of these events."""
    books, now = context.books, context.now
    if not books.due:  # by far the most common case
        return ()
    return tuple(
        HoldExpired(command, now, key, hold.id, key=keys.release(hold.id))
        for key in dict.fromkeys(event.card for event in events)
        if key in books.cards
        for hold in books.due_holds(books.cards[key], now)
        if not (isinstance(answer, HoldExpired) and answer.hold == hold.id)
    )


def _leaves_breakage(context: Context, answer: CardEvent) -> bool:
    """Say whether what is unlocked on the card goes to the account."""
    revives = isinstance(answer, CardUpdated) and answer.command.expires_at is not None
    return context.card.state is State.EXPIRED and context.forfeits_balance and not revives


# --- the table of commands --------------------------------------------------------------------


def _rule(kind: type[C], needs: NeedsOf[C], decide: Decide[C]) -> tuple[type, Rule]:
    # `decide` and `needs` give the functions of an entry no other command than those of its class.
    return kind, Rule(cast(NeedsOf[Command], needs), cast(Decide[Command], decide))


def _in_context(
    kind: type[C],
    find: Callable[[Books, C, datetime], Context],
    needs: NeedsOf[C],
    rule: DecideInContext[C],
) -> tuple[type, Rule]:
    def decide(command: C, books: Books, now: datetime) -> Decision:
        context = find(books, command, now)
        try:
            _check_reference(command, context)
            decision = _with_released_holds(command, context, rule(command, context))
        except Refused as refusal:
            decision = _rejection(command, now, refusal)
        return _with_pin_check(decision, context.pin_check)

    return _rule(kind, needs, decide)


def _on_card(
    kind: type[Named], needs: NeedsOf[Named], rule: DecideInContext[Named]
) -> tuple[type, Rule]:
    return _in_context(kind, context_by_card, needs, rule)


def _on_transaction(
    kind: type[Parented], needs: NeedsOf[Parented], rule: DecideInContext[Parented]
) -> tuple[type, Rule]:
    return _in_context(kind, context_by_transaction, needs, rule)


def _needs_nothing(_command: InvalidCommand) -> Needs:
    return Needs()


def _refuse_invalid(command: InvalidCommand, _books: Books, _now: datetime) -> Decision:
    raise Refused(Reason.INVALID, *command.problems)


RULES: dict[type, Rule] = dict(
    [
        _rule(InvalidCommand, _needs_nothing, _refuse_invalid),
        _rule(CreateCard, issuing.needs_create, issuing.decide_create),
        _rule(ActivateCard, issuing.needs_activate, issuing.decide_activate),
        _on_card(ReverseActivation, needs_card, issuing.decide_reverse_activation),
        _on_card(ReplaceCard, issuing.needs_replace, issuing.decide_replace),
        _on_card(UpdateCard, needs_card, issuing.decide_update),
        _in_context(
            CreateTransaction,
            context_by_access,
            spending.needs_create_transaction,
            spending.decide_create_transaction,
        ),
        _on_transaction(CaptureTransaction, needs_transaction, spending.decide_capture),
        _on_transaction(VoidTransaction, needs_transaction, spending.decide_void),
        _on_transaction(RefundTransaction, needs_transaction, spending.decide_refund),
        _on_transaction(ExpireHold, spending.needs_expire_hold, spending.decide_expire_hold),
        _on_card(AdjustBalance, spending.needs_adjust, spending.decide_adjust),
        _on_card(TransferBalance, spending.needs_transfer, spending.decide_transfer),
        _on_card(BlockCard, needs_card, ending.decide_block),
        _on_card(UnblockCard, ending.needs_unblock, ending.decide_unblock),
        _on_card(CloseCard, needs_card, ending.decide_close),
        _rule(WithdrawCard, ending.needs_withdraw, ending.decide_withdraw),
        _on_card(ExpireCard, needs_card, ending.decide_expire),
        _on_card(CreateToken, needs_card, codes.decide_create_token),
        _on_card(RevokeToken, codes.needs_revoke_token, codes.decide_revoke_token),
        _on_card(RotatePin, needs_card, codes.decide_rotate_pin),
        _rule(CreateBatch, orders.needs_create_batch, orders.decide_create_batch),
        _rule(ApproveBatch, orders.needs_batch, orders.decide_approve),
        _rule(CancelBatch, orders.needs_batch, orders.decide_cancel),
        _rule(LapseBatch, orders.needs_batch, orders.decide_lapse),
        _rule(BlockBatch, orders.needs_batch, orders.decide_recall),
        _rule(UnblockBatch, orders.needs_batch, orders.decide_recall),
        _rule(CloseBatch, orders.needs_batch, orders.decide_recall),
        _rule(ExtendBatch, orders.needs_batch, orders.decide_recall),
    ]
)
check_complete("domain.decide.RULES", Command, RULES)


# --- the table of events ----------------------------------------------------------------------


def _effect(kind: type[E], effect: Effect[E]) -> tuple[type, Effect[Event]]:
    # As for rules: `apply` gives an effect no other event than those of its class.
    return kind, cast(Effect[Event], effect)


def _apply_rejected(_event: events.CommandRejected, _books: Books) -> None:
    return None


EFFECTS: dict[type, Effect[Event]] = dict(
    [
        _effect(events.CommandRejected, _apply_rejected),
        _effect(events.CardCreated, issuing.apply_created),
        _effect(events.CardActivated, issuing.apply_activated),
        _effect(events.ActivationReversed, issuing.apply_activation_reversed),
        _effect(events.CardReplaced, issuing.apply_replaced),
        _effect(events.ReplacementCreated, issuing.apply_replacement_created),
        _effect(events.ReplacementActivated, issuing.apply_replacement_activated),
        _effect(events.CardUpdated, issuing.apply_updated),
        _effect(events.CardFunded, spending.apply_funded),
        _effect(events.CardDrawnDown, spending.apply_drawn_down),
        _effect(events.HoldPlaced, spending.apply_hold_placed),
        _effect(events.HoldCaptured, spending.apply_hold_captured),
        _effect(events.HoldVoided, spending.apply_hold_voided),
        _effect(events.HoldExpired, spending.apply_hold_expired),
        _effect(events.CardRefunded, spending.apply_refunded),
        _effect(events.CardAdjusted, spending.apply_adjusted),
        _effect(events.TransferredOut, spending.apply_transferred_out),
        _effect(events.TransferredIn, spending.apply_transferred_in),
        _effect(events.CardBlocked, ending.apply_blocked),
        _effect(events.CardUnblocked, ending.apply_unblocked),
        _effect(events.CardClosed, ending.apply_closed),
        _effect(events.CardExpired, ending.apply_expired),
        _effect(events.TokenCreated, codes.apply_token_created),
        _effect(events.TokenRevoked, codes.apply_token_revoked),
        _effect(events.PinRotated, codes.apply_pin_rotated),
        _effect(events.BatchCompleted, orders.apply_batch_completed),
        _effect(events.BatchAccepted, orders.apply_batch_accepted),
        _effect(events.BatchAwaitsApproval, orders.apply_batch_awaits_approval),
        _effect(events.BatchApproved, orders.apply_batch_approved),
        _effect(events.BatchCancelled, orders.apply_batch_cancelled),
        _effect(events.RecallBegun, orders.apply_recall_begun),
    ]
)
check_complete("domain.decide.EFFECTS", Event, EFFECTS)
