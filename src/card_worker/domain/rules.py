"""How the entry of a command or event is made: its functions, and what commands on cards share.

The module of each phase has two tables at its end, RULES and EFFECTS. `decide` joins them.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import NamedTuple, TypeAlias, TypeVar, cast

from card_worker.contracts import keys
from card_worker.contracts.commands import Command
from card_worker.contracts.enums import Reason
from card_worker.domain.books import Books
from card_worker.domain.context import Context, context_by_card, context_by_transaction
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
from card_worker.domain.needs import Needs
from card_worker.domain.posting import Posted
from card_worker.domain.refusal import Refused
from card_worker.domain.rows import State
from card_worker.domain.states import ByTransaction, OnExistingCard

C = TypeVar("C", bound=Command)
Named = TypeVar("Named", bound=OnExistingCard)
Parented = TypeVar("Parented", bound=ByTransaction)
E = TypeVar("E", bound=Event)
V = TypeVar("V")
NeedsOf: TypeAlias = Callable[[C], Needs]
Decide: TypeAlias = Callable[[C, Books, datetime], Decision]
Check: TypeAlias = Callable[[C, Books, datetime], None]
ReasonsAgainst: TypeAlias = Callable[[Books, C, datetime], Iterable[Reason]]
DecideInContext: TypeAlias = Callable[[C, Context], Decision]
Effect: TypeAlias = Callable[[E, Books], Posted]


class Rule(NamedTuple):
    """What a command needs, and what it leads to."""

    needs: NeedsOf[Command]
    decide: Decide[Command]
    check: Check[Command] | None = None
    """Refuses what is wrong with the command whatever its card or batch is."""


Entry: TypeAlias = tuple[type, Rule]
Rules: TypeAlias = dict[type, Rule]
Effects: TypeAlias = dict[type, Effect[Event]]


def rule(
    kind: type[C], needs: NeedsOf[C], decide: Decide[C], *, check: Check[C] | None = None
) -> Entry:
    # `decide` and `needs` give the functions of an entry no other command than those of its class.
    return kind, Rule(
        cast(NeedsOf[Command], needs),
        cast(Decide[Command], decide),
        cast(Check[Command] | None, check),
    )


def in_context(
    kind: type[C],
    find: Callable[[Books, C, datetime], Context],
    needs: NeedsOf[C],
    decide: DecideInContext[C],
    *,
    check: Check[C] | None = None,
) -> Entry:
    def found(command: C, books: Books, now: datetime) -> Decision:
        context = find(books, command, now)
        try:
            decision = _with_released_holds(command, context, decide(command, context))
        except Refused as refusal:
            decision = rejection(command, now, refusal)
        return with_pin_check(decision, context.pin_check)

    return rule(kind, needs, found, check=check)


def on_card(
    kind: type[Named],
    needs: NeedsOf[Named],
    decide: DecideInContext[Named],
    *,
    check: Check[Named] | None = None,
    reasons: ReasonsAgainst[Named] | None = None,
) -> Entry:
    """Return the entry of a command on a card; `reasons` are those that its other card gives."""

    def find(books: Books, command: Named, now: datetime) -> Context:
        return context_by_card(books, command, now, reasons(books, command, now) if reasons else ())

    return in_context(kind, find, needs, decide, check=check)


def on_transaction(
    kind: type[Parented], needs: NeedsOf[Parented], decide: DecideInContext[Parented]
) -> Entry:
    return in_context(kind, context_by_transaction, needs, decide)


def effect(kind: type[E], effect: Effect[E]) -> tuple[type, Effect[Event]]:
    # As for rules: `apply` gives an effect no other event than those of its class.
    return kind, cast(Effect[Event], effect)


def table(*entries: tuple[type, V]) -> dict[type, V]:
    return dict(entries)


def rejection(command: Command, now: datetime, refusal: Refused) -> Decision:
    return Decision(CommandRejected(command, now, refusal.reason, refusal.problems))


def with_pin_check(decision: Decision, pin_check: PinCheck | None) -> Decision:
    if pin_check is None:
        return decision
    after = () if pin_check.lock is None else (pin_check.lock,)
    return decision._replace(pin_check=pin_check, after=decision.after + after)


def _with_released_holds(command: Command, context: Context, decision: Decision) -> Decision:
    """Add the release of expired holds, and the breakage that follows from what is unlocked."""
    answer = decision.answer
    assert isinstance(answer, CardEventBase)
    events = [answer, *decision.after]
    released = _release_due(command, context, answer, events)
    if not released and not any(isinstance(event, HoldVoided | HoldExpired) for event in events):
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
