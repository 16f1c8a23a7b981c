"""The table of contents of the core: the rule of each command, the effect of each event.

The tables are those of the phases of a card's life. They are checked when this module is imported:
a command or event without an entry stops the start, and the error names its class.
"""

from datetime import datetime
from functools import cache

from card_worker.contracts.commands import Command, InvalidCommand
from card_worker.contracts.enums import Reason
from card_worker.domain import codes, ending, issuing, orders, spending
from card_worker.domain.access import AccessDenied
from card_worker.domain.books import Books
from card_worker.domain.events import CommandRejected, Decision, Event
from card_worker.domain.needs import Needs
from card_worker.domain.posting import Posted
from card_worker.domain.refusal import Refused
from card_worker.domain.rules import (
    Effects,
    Rule,
    Rules,
    effect,
    rejection,
    rule,
    table,
    with_pin_check,
)
from card_worker.domain.states import check_complete


def decide(books: Books, command: Command, now: datetime) -> Decision:
    """Return the events that `command` leads to at `now`. Changes nothing."""
    try:
        found = _rule_of(type(command))
        if found.check is not None:
            found.check(command, books, now)
        _check_deadline(command, now)
        return found.decide(command, books, now)
    except AccessDenied as refusal:
        rejected = rejection(command, now, refusal)._replace(is_wrong=refusal.is_wrong)
        return with_pin_check(rejected, refusal.pin_check)
    except Refused as refusal:
        return rejection(command, now, refusal)


def needs(command: Command) -> Needs:
    """Return the rows that `decide` and `apply` look at, whether they exist or not."""
    return _rule_of(type(command)).needs(command)


def apply(event: Event, books: Books) -> Posted:
    """Do to the books what an event says; return the transaction it posted, if it moved money."""
    return EFFECTS[type(event)](event, books)


def _check_deadline(command: Command, now: datetime) -> None:
    if command.not_after is not None and command.not_after < now:
        raise Refused(Reason.STALE_COMMAND)


@cache
def _rule_of(kind: type[Command]) -> Rule:
    """Return the rule of a class; that of its base class for a command that workers make."""
    return next(RULES[base] for base in kind.__mro__ if base in RULES)


def _needs_nothing(_command: InvalidCommand) -> Needs:
    return Needs()


def _refuse_invalid(command: InvalidCommand, _books: Books, _now: datetime) -> Decision:
    raise Refused(Reason.INVALID, *command.problems)


def _apply_rejected(_event: CommandRejected, _books: Books) -> None:
    return None


RULES: Rules = {
    **issuing.RULES,
    **spending.RULES,
    **ending.RULES,
    **codes.RULES,
    **orders.RULES,
    **table(rule(InvalidCommand, _needs_nothing, _refuse_invalid)),
}
EFFECTS: Effects = {
    **issuing.EFFECTS,
    **spending.EFFECTS,
    **ending.EFFECTS,
    **codes.EFFECTS,
    **orders.EFFECTS,
    **table(effect(CommandRejected, _apply_rejected)),
}
check_complete("domain.decide.RULES", Command, RULES)
check_complete("domain.decide.EFFECTS", Event, EFFECTS)
