"""The rules: what happens when a command meets its card, or why nothing does. Pure functions."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import singledispatch
from typing import TypeAlias, get_args

from typing_extensions import TypeIs

from card_worker.contracts import keys
from card_worker.contracts.batches import is_about_batch
from card_worker.contracts.cards import (
    ActivateCard,
    AdjustBalance,
    BlockCard,
    CloseCard,
    CreateCard,
    ExpireCard,
    ReplaceCard,
    ReverseActivation,
    TransferBalance,
    UnblockCard,
    UpdateCard,
    WithdrawCard,
)
from card_worker.contracts.commands import Command, is_invalid
from card_worker.contracts.enums import Reason, TransactionType
from card_worker.contracts.events import Problem
from card_worker.contracts.secrets import BatchOptions
from card_worker.contracts.tokens import CreateToken, RevokeToken, RotatePin
from card_worker.contracts.transactions import (
    CaptureTransaction,
    CreateTransaction,
    ExpireHold,
    RefundTransaction,
    VoidTransaction,
)
from card_worker.domain.allowed import ByTransaction, Fund, OnCard, reason_against
from card_worker.domain.books import Books
from card_worker.domain.case import Case, recipients
from card_worker.domain.entry import NotLetIn
from card_worker.domain.events import (
    ActivationReversed,
    CardActivated,
    CardAdjusted,
    CardBlocked,
    CardClosed,
    CardCreated,
    CardDrawnDown,
    CardEvent,
    CardExpired,
    CardFunded,
    CardRefunded,
    CardReplaced,
    CardTookOver,
    CardUnblocked,
    CardUpdated,
    CommandRejected,
    Decision,
    HoldCaptured,
    HoldExpired,
    HoldPlaced,
    HoldVoided,
    Judged,
    PinRotated,
    TokenCreated,
    TokenRevoked,
    TransferredIn,
    TransferredOut,
    Wanted,
    id_of,
)
from card_worker.domain.making import (
    check_pin_format,
    check_token_format,
    pin_format,
    secrets_wanted,
)
from card_worker.domain.orders import decide_on_batch
from card_worker.domain.refusal import Refused
from card_worker.domain.rows import State
from card_worker.money import AMOUNT_MAX
from card_worker.secrets.formats import FORMULA, is_formula

TOKENS_PER_CARD_MAX = 100
"""Tokens that serve at one time. All of them stand in each event of the card."""

Beginning: TypeAlias = CreateCard | ActivateCard | WithdrawCard
"""What may be about a card that doesn't exist yet."""
_BEGINNINGS = frozenset(get_args(Beginning))

Events = tuple[CardEvent, ...]


def decide(books: Books, command: Command, now: datetime) -> Decision:
    """Say what happens: the events that `command` leads to at `now`. Changes nothing."""
    try:
        return _decide(books, command, now)
    except NotLetIn as refusal:
        return _judged(Decision(CommandRejected(command, now, refusal.reason)), refusal.judged)
    except Refused as refusal:
        return Decision(CommandRejected(command, now, refusal.reason, refusal.problems))


def _judged(decision: Decision, judged: Judged | None) -> Decision:
    """Return the decision with what the command's PIN turned out to be."""
    if judged is None:
        return decision
    guard = () if judged.guard is None else (judged.guard,)
    return decision._replace(pin_attempt=judged, after=decision.after + guard)


def _decide(books: Books, command: Command, now: datetime) -> Decision:
    if is_invalid(command):
        raise Refused(Reason.INVALID, *command.problems)
    if _begins(command) and not isinstance(command, WithdrawCard):
        _check_dates(command, now)
    if command.not_after is not None and command.not_after < now:
        raise Refused(Reason.STALE_COMMAND)
    if is_about_batch(command):
        return Decision(decide_on_batch(books, command, now))
    if _begins(command):
        match command:
            case ActivateCard():
                return Decision(_activate(books, command, now))
            case CreateCard():
                return Decision(_create(books, command, now))
            case WithdrawCard():
                return Decision(_withdraw(books, command, now))
    case = Case.of(books, command, now)
    try:
        case.check_reference(command)
        decision = _with_tidying(case, command)
    except Refused as refusal:
        decision = Decision(CommandRejected(command, now, refusal.reason, refusal.problems))
    return _judged(decision, case.judged)


# --- a card's beginning -----------------------------------------------------------------------


def _begins(command: Command) -> TypeIs[Beginning]:
    """Say whether a command is about a beginning: by its type, as each is asked."""
    return type(command) in _BEGINNINGS


def _create(books: Books, command: CreateCard, now: datetime) -> CardCreated:
    key = command.account_id, command.card_id
    if (command.card_token or command.pin) is not None and is_formula(command.card_id):
        raise Refused(Reason.INVALID, Problem(field="card_id", message=FORMULA))
    if books.is_taken(key):
        raise Refused(Reason.CARD_EXISTS)
    _check_load(books, command)
    wanted = secrets_wanted(
        books.account(command.account_id),
        ((key, command.type),),
        BatchOptions(card_token=command.card_token, pin=command.pin),
        command.seal_to,
    )
    return CardCreated(command, now, key, wanted)


def _activate(books: Books, command: ActivateCard, now: datetime) -> CardActivated:
    key = command.account_id, command.card_id
    card = books.cards.get(key)
    if books.busy_with(key) is not None:
        raise Refused(Reason.BATCH_STATE)
    reason = reason_against(ActivateCard, card.status(now) if card else None)
    if reason is not None:
        raise Refused(reason)
    if card is not None and card.blocked:
        raise Refused(Reason.CARD_BLOCKED)
    _check_load(books, command)
    return CardActivated(command, now, key)


def _withdraw(books: Books, command: WithdrawCard, now: datetime) -> CardClosed:
    key = command.account_id, command.card_id
    card = books.cards.get(key)
    reason = reason_against(ActivateCard, card.status(now) if card else None)
    if reason is not None:
        raise Refused(reason)
    return CardClosed(command, now, key)


def _check_load(books: Books, command: CreateCard | ActivateCard) -> None:
    account = books.account(command.account_id)
    if account.currencies is not None and command.currency not in account.currencies:
        raise Refused(Reason.CURRENCY_MISMATCH)
    for limit in (account.load_max, account.balance_max):
        if limit is not None and command.amount > limit:
            raise Refused(Reason.LIMIT_EXCEEDED)


def _check_dates(command: CreateCard | ActivateCard, now: datetime) -> None:
    if command.expires_at is None:
        return
    if command.expires_at <= now:
        raise Refused(Reason.INVALID, Problem(field="expires_at", message="must be in the future"))
    if command.active_from is not None and command.expires_at <= command.active_from:
        raise Refused(
            Reason.INVALID, Problem(field="expires_at", message="must be after active_from")
        )


# --- what time has done to a card's holds -----------------------------------------------------


def _with_tidying(case: Case, command: OnCard | ByTransaction) -> Decision:
    """Decide about a card, its due holds released before anything else happens to it."""
    answer, *after = _rule(command, case)
    released = _release_due(case, command, [answer, *after])
    unlocks = bool(released) or isinstance(answer, HoldVoided | HoldExpired)
    if unlocks and _leaves_breakage(case, answer):
        key = keys.breakage(id_of(answer))
        after.append(CardExpired(command, case.now, case.key, takes_rest=True, key=key))
    return Decision(answer, released, tuple(after))


def _release_due(
    case: Case, command: OnCard | ByTransaction, events: Sequence[CardEvent]
) -> tuple[HoldExpired, ...]:
    books, now, told = case.books, case.now, events[0]
    if not books.due:  # as hardly ever there is one
        return ()
    return tuple(
        HoldExpired(command, now, key, hold.id, key=keys.release(hold.id))
        for key in dict.fromkeys(event.card for event in events)
        if key in books.cards
        for hold in books.due_holds(books.cards[key], now)
        if not (isinstance(told, HoldExpired) and told.hold == hold.id)
    )


def _leaves_breakage(case: Case, answer: CardEvent) -> bool:
    """Say whether what is unlocked on the card isn't the customer's any more."""
    revives = isinstance(answer, CardUpdated) and answer.command.expires_at is not None
    return case.card.state is State.EXPIRED and case.takes_rest and not revives


# --- one rule for each command: its answer first, and what follows from that ------------------


@singledispatch
def _rule(command: OnCard | ByTransaction, case: Case) -> Events:
    raise AssertionError(f"no rule for {command.command}")


@_rule.register
def _(command: CreateTransaction, case: Case) -> Events:
    card, now = case.card, case.now
    if command.type is TransactionType.FUND:
        case.check_currency(command.currency)
        case.check_room(command.amount, funds=command.amount)
        return (CardFunded(command, now, case.key),)
    if card.active_from is not None and card.active_from > now:
        by_token = command.token is not None
        raise Refused(Reason.CARD_NOT_USABLE if by_token else Reason.CARD_NOT_STARTED)
    case.check_currency(command.currency)
    case.check_available(command.amount)
    if not command.pending:
        return (CardDrawnDown(command, now, case.key),)
    if card.amount_pending + command.amount > AMOUNT_MAX:
        raise Refused(Reason.LIMIT_EXCEEDED)
    lasts_s = command.hold_expires_in
    until = None if lasts_s is None else now + timedelta(seconds=lasts_s)
    return (HoldPlaced(command, now, case.key, until),)


@_rule.register
def _(command: CaptureTransaction, case: Case) -> Events:
    locked = case.open_hold.amount_open
    amount = locked if command.amount is None else command.amount
    if amount > locked:
        raise Refused(Reason.EXCEEDS_HOLD)
    return (HoldCaptured(command, case.now, case.key, amount),)


@_rule.register
def _(command: VoidTransaction, case: Case) -> Events:
    return (HoldVoided(command, case.now, case.key, case.open_hold.id),)


@_rule.register
def _(command: RefundTransaction, case: Case) -> Events:
    assert case.parent is not None
    left = case.parent.amount - case.books.refunded.get(case.parent.id, 0)
    amount = left if command.amount is None else command.amount
    if amount > left or left == 0:
        raise Refused(Reason.EXCEEDS_DRAWDOWN)
    case.check_room(amount, funds=amount)
    return (CardRefunded(command, case.now, case.key, amount),)


@_rule.register
def _(command: AdjustBalance, case: Case) -> Events:
    case.check_currency(command.currency)
    if command.amount < 0:
        case.check_available(-command.amount)
    else:
        case.check_room(command.amount)
    return (CardAdjusted(command, case.now, case.key),)


@_rule.register
def _(command: TransferBalance, case: Case) -> Events:
    to = case.books.cards.get((command.account_id, command.to_card_id))
    reason = reason_against(Fund, to.status(case.now) if to else None)
    if reason is not None:
        raise Refused(reason)
    assert to is not None
    case.check_currency(to.currency)
    amount = case.available if command.amount is None else command.amount
    case.check_available(max(amount, 1))  # all of nothing isn't available either
    case.check_room(amount, on=to)
    out = TransferredOut(command, case.now, case.key, amount)
    return out, TransferredIn(command, case.now, to.key, amount, key=keys.arrival(id_of(out)))


@_rule.register
def _(command: ReplaceCard, case: Case) -> Events:
    new_key = command.account_id, command.new_card_id
    new = case.books.cards.get(new_key)
    if case.books.busy_with(new_key) is not None:
        raise Refused(Reason.BATCH_STATE)
    if new is not None:
        reason = reason_against(ActivateCard, new.status(case.now))
        if reason is not None or new.blocked:
            raise Refused(reason or Reason.CARD_BLOCKED)
    case.check_nothing_locked()
    out, amount = CardReplaced(command, case.now, case.key), case.card.amount_balance
    return out, CardTookOver(command, case.now, new_key, amount, key=keys.arrival(id_of(out)))


@_rule.register
def _(command: ReverseActivation, case: Case) -> Events:
    card = case.card
    is_touched = card.amount_pending or card.amount_drawdown
    if is_touched or not card.amount == card.amount_funds == card.amount_balance:
        raise Refused(Reason.NOT_REVERSIBLE)
    assert card.activated_at is not None
    if case.now > card.activated_at + timedelta(seconds=case.account.reversal_window_s):
        raise Refused(Reason.NOT_REVERSIBLE)
    return (ActivationReversed(command, case.now, case.key),)


@_rule.register
def _(command: UpdateCard, case: Case) -> Events:
    if "expires_at" in command.model_fields_set:
        wanted, stands = command.expires_at, case.card.expires_at
        if wanted is None or wanted <= case.now or stands is None or wanted <= stands:
            problem = Problem(field="expires_at", message="must be later than now, and than it is")
            raise Refused(Reason.INVALID, problem)
    return (CardUpdated(command, case.now, case.key),)


@_rule.register
def _(command: BlockCard, case: Case) -> Events:
    if case.card.blocked:
        raise Refused(Reason.CARD_BLOCKED)
    return (CardBlocked(command, case.now, case.key),)


@_rule.register
def _(command: UnblockCard, case: Case) -> Events:
    if not case.card.blocked:
        raise Refused(Reason.CARD_NOT_BLOCKED)
    return (CardUnblocked(command, case.now, case.key),)


@_rule.register
def _(command: CloseCard, case: Case) -> Events:
    case.check_nothing_locked()
    return (CardClosed(command, case.now, case.key),)


@_rule.register
def _(command: RotatePin, case: Case) -> Events:
    check_pin_format("pin.format", command.pin)
    wanted = Wanted(
        account_id=case.card.account_id,
        cards=((case.key, case.card.type),),
        recipients=recipients(case.account, command.seal_to),
        pin=pin_format(command.pin),
    )
    return (PinRotated(command, case.now, case.key, wanted),)


@_rule.register
def _(command: CreateToken, case: Case) -> Events:
    has_pin = case.card.id in case.books.pins
    check_token_format("format", command.format, with_pin=has_pin)
    if len(case.books.tokens_of(case.card, case.now)) >= TOKENS_PER_CARD_MAX:
        raise Refused(Reason.LIMIT_EXCEEDED)
    wanted = Wanted(
        account_id=case.card.account_id,
        cards=((case.key, case.card.type),),
        recipients=recipients(case.account, command.seal_to),
        has_token=True,
        token=command.format,
    )
    return (TokenCreated(command, case.now, case.key, wanted),)


@_rule.register
def _(command: RevokeToken, case: Case) -> Events:
    token = case.books.tokens.get(command.token_id)
    if token is None or token.card != case.card.id or token.revoked_at is not None:
        raise Refused(Reason.TOKEN_NOT_FOUND)
    if token.spent_at is not None:
        raise Refused(Reason.TOKEN_SPENT)
    return (TokenRevoked(command, case.now, case.key, token.id),)


@_rule.register
def _(command: ExpireCard, case: Case) -> Events:
    if case.card.state is State.EXPIRED:
        raise Refused(Reason.CARD_EXPIRED)
    return (CardExpired(command, case.now, case.key, case.takes_rest),)


@_rule.register
def _(command: ExpireHold, case: Case) -> Events:
    assert case.parent is not None
    hold = case.books.holds[case.parent.id]
    if not hold.amount_open:
        raise Refused(Reason.HOLD_CLOSED)
    if not hold.is_due(case.now):
        raise Refused(Reason.NOT_DUE)
    return (HoldExpired(command, case.now, case.key, hold.id),)
