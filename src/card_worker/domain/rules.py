"""The rules: what each command needs, when it is allowed, and why it is refused. Pure functions."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple, TypeAlias, assert_never

from card_worker.contracts.commands import (
    CARDS_PER_BATCH_MAX,
    ActivateCard,
    Command,
    CreateBatch,
    CreateCard,
    ExpireCard,
    InvalidCommand,
)
from card_worker.contracts.events import PROBLEMS_MAX, Problem
from card_worker.contracts.kinds import MESSAGES, Reason, Status
from card_worker.domain.books import BatchKey, Books, CardKey, State
from card_worker.domain.events import (
    BatchCompleted,
    CardActivated,
    CardCreated,
    CardExpired,
    CommandRejected,
    Event,
)

CardCommand: TypeAlias = CreateCard | ActivateCard | ExpireCard

# For each command that names a card: what it is told when the card shows this; None: it may go on.
# The first column, None, is a card that doesn't exist.
ALLOWED: Mapping[type[CardCommand], Mapping[Status | None, Reason | None]] = {
    CreateCard: dict.fromkeys(Status, Reason.CARD_EXISTS) | {None: None},
    ActivateCard: {
        None: Reason.CARD_NOT_FOUND,
        Status.INACTIVE: None,
        Status.CLOSED: Reason.CARD_CLOSED,
        Status.EXPIRED: Reason.CARD_EXPIRED,
        Status.BLOCKED: Reason.CARD_ALREADY_ACTIVE,
        Status.UNUSED: Reason.CARD_ALREADY_ACTIVE,
        Status.USED: Reason.CARD_ALREADY_ACTIVE,
        Status.PARTIALLY_USED: Reason.CARD_ALREADY_ACTIVE,
    },
    ExpireCard: {
        None: Reason.CARD_NOT_FOUND,
        Status.INACTIVE: Reason.CARD_INACTIVE,
        Status.CLOSED: Reason.CARD_CLOSED,
        Status.EXPIRED: None,
        Status.BLOCKED: Reason.NOT_DUE,
        Status.UNUSED: Reason.NOT_DUE,
        Status.USED: Reason.NOT_DUE,
        Status.PARTIALLY_USED: Reason.NOT_DUE,
    },
}


class Needs(NamedTuple):
    """The rows that must be in the books before a command is decided."""

    cards: tuple[CardKey, ...] = ()
    batches: tuple[BatchKey, ...] = ()


def needs(command: Command) -> Needs:
    """Return the rows that `decide` and `evolve` will look at, whether they exist or not."""
    match command:
        case CreateCard() | ActivateCard() | ExpireCard():
            return Needs(cards=((command.account_id, command.card_id),))
        case CreateBatch():
            return Needs(
                cards=tuple((command.account_id, card.card_id) for card in command.cards),
                batches=((command.account_id, batch_id(command)),),
            )
        case InvalidCommand():
            return Needs()
    assert_never(command)


def batch_id(command: CreateBatch) -> str:
    """Return what the batch is called: what its order says, else the id of the order."""
    return command.batch_id if command.batch_id is not None else command.command_id


def decide(books: Books, command: Command, now: datetime) -> Event:
    """Say what happens: the event that `command` leads to at `now`. Changes nothing."""
    if isinstance(command, InvalidCommand):
        return CommandRejected(command, now, Reason.INVALID, command.problems)
    if isinstance(command, CreateCard | ActivateCard) and (problems := _dates(command, now)):
        return CommandRejected(command, now, Reason.INVALID, problems)
    if command.not_after is not None and command.not_after < now:
        return CommandRejected(command, now, Reason.STALE_COMMAND)
    match command:
        case CreateBatch():
            return _decide_batch(books, command, now)
        case CreateCard() | ActivateCard() | ExpireCard():
            return _decide_card(books, command, now)
    assert_never(command)


def _decide_card(books: Books, command: CardCommand, now: datetime) -> Event:
    card = books.cards.get((command.account_id, command.card_id))
    reason = ALLOWED[type(command)][card.status(now) if card else None]
    if reason is not None:
        return CommandRejected(command, now, reason)
    match command:
        case CreateCard():
            return CardCreated(command, now)
        case ActivateCard():
            if card is not None and card.blocked:
                return CommandRejected(command, now, Reason.CARD_BLOCKED)
            return CardActivated(command, now)
        case ExpireCard():
            if card is not None and card.state is State.EXPIRED:
                return CommandRejected(command, now, Reason.CARD_EXPIRED)
            return CardExpired(command, now)
    assert_never(command)


def _dates(command: CreateCard | ActivateCard, now: datetime) -> tuple[Problem, ...]:
    if command.expires_at is None:
        return ()
    if command.expires_at <= now:
        return (Problem(field="expires_at", message="must be in the future"),)
    if command.active_from is not None and command.expires_at <= command.active_from:
        return (Problem(field="expires_at", message="must be after active_from"),)
    return ()


def _decide_batch(books: Books, command: CreateBatch, now: datetime) -> Event:
    account_id, asked = command.account_id, [card.card_id for card in command.cards]
    taken = [card_id for card_id in asked if (account_id, card_id) in books.cards]
    if taken:
        problems = _naming(Reason.CARD_EXISTS, asked, taken)
        return CommandRejected(command, now, Reason.CARD_EXISTS, problems)
    if (account_id, batch_id(command)) in books.batches:
        return CommandRejected(command, now, Reason.BATCH_STATE)
    if len(asked) > CARDS_PER_BATCH_MAX:
        return CommandRejected(command, now, Reason.BATCH_TOO_LARGE)
    twice = [card_id for card_id, times in Counter(asked).items() if times > 1]
    if twice:
        problems = _naming(Reason.DUPLICATE_IN_BATCH, asked, twice)
        return CommandRejected(command, now, Reason.DUPLICATE_IN_BATCH, problems)
    return BatchCompleted(command, now)


def _naming(reason: Reason, asked: list[str], wrong: Iterable[str]) -> tuple[Problem, ...]:
    """Return up to 20 problems that name cards by their place in the list and their card_id."""
    message = MESSAGES[reason].split(";")[0].rstrip(".")
    places = {card_id: place for place, card_id in reversed(list(enumerate(asked)))}
    return tuple(
        Problem(field=f"cards.{places[card_id]}.card_id", message=f"{card_id}: {message}")
        for card_id in list(dict.fromkeys(wrong))[:PROBLEMS_MAX]
    )
