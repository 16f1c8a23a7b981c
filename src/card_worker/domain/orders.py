"""The rules about batches: what may be ordered, approved, let go, and called back."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import singledispatch
from itertools import chain

from card_worker.contracts.batches import (
    CARDS_PER_BATCH_MAX,
    CARDS_PER_ORDER_MAX,
    WAITING_ORDERS_MAX,
    ApproveBatch,
    BlockBatch,
    CancelBatch,
    CloseBatch,
    CreateBatch,
    ExtendBatch,
    LapseBatch,
    OnBatch,
    Recall,
    UnblockBatch,
)
from card_worker.contracts.enums import BatchState, Reason
from card_worker.contracts.events import PROBLEMS_MAX, Problem
from card_worker.contracts.patterns import Pattern
from card_worker.contracts.secrets import BatchOptions
from card_worker.domain.books import Books
from card_worker.domain.events import (
    BatchApproved,
    BatchCancelled,
    BatchCompleted,
    BatchEvent,
    BatchOrdered,
    RecallBegun,
)
from card_worker.domain.making import secrets_wanted
from card_worker.domain.refusal import Refused
from card_worker.domain.rows import Batch


def _create_batch(
    books: Books, command: CreateBatch, now: datetime
) -> BatchCompleted | BatchOrdered:
    """Decide about cards that are ordered: made at once, or piece by piece. Raises Refused."""
    account_id = command.account_id
    account = books.account(account_id)
    _check_names(books, command)
    if (account_id, command.called) in books.batches:
        raise Refused(Reason.BATCH_STATE)
    _check_size(command)
    cards = command.cards or ()
    wanted = secrets_wanted(
        account,
        tuple(((account_id, card.card_id), card.type or command.type) for card in cards),
        command.options or BatchOptions(),
        command.seal_to,
        file=command.called,
        seal_pins_to=command.seal_pins_to,
    )
    limit = account.approve_from
    waits = command.needs_approval or (limit is not None and command.requested >= limit)
    if waits and command.created_by is None:
        message = "say who orders: somebody else has to approve it"
        raise Refused(Reason.INVALID, Problem(field="created_by", message=message))
    if waits and _waiting(books, account_id) >= WAITING_ORDERS_MAX:
        raise Refused(Reason.TOO_MANY_WAITING)
    if waits or command.cards is None:
        return BatchOrdered(command, now, waits, None if wanted is None else wanted.recipients)
    return BatchCompleted(command, now, wanted)


def _waiting(books: Books, account_id: str) -> int:
    """Return how many orders of an account wait for approval."""
    orders = books.orders.get(account_id, {}).values()
    return sum(order.state is BatchState.AWAITING_APPROVAL for order in orders)


def _check_names(books: Books, command: CreateBatch) -> None:
    if command.cards is None:
        taken = _taken_of_pattern(books, command)
        if taken:
            raise Refused(Reason.CARD_EXISTS, *_naming_of_pattern(taken))
        return
    asked = [card.card_id for card in command.cards]
    listed = [card_id for card_id in asked if books.is_taken((command.account_id, card_id))]
    if listed:
        raise Refused(Reason.CARD_EXISTS, *_naming(Reason.CARD_EXISTS, asked, listed))


def _taken_of_pattern(books: Books, command: CreateBatch) -> list[str]:
    """Return the first few names of the pattern that a card has, or will have."""
    account_id, text = command.account_id, command.card_id_pattern
    assert text is not None
    pattern = Pattern.known(text)
    taken = list(books.taken.get((account_id, command.called), ()))
    for order in books.orders.get(account_id, {}).values():
        if order.pattern == text:
            taken += pattern.card_ids(1, min(command.requested, order.requested, PROBLEMS_MAX))
    here = (key for key in chain(books.cards, books.reserved) if key[0] == account_id)
    taken += [card_id for _, card_id in here if books.is_taken((account_id, card_id))]
    numbers = {pattern.number_of(card_id) for card_id in taken}
    known = sorted(number for number in numbers if number and number <= command.requested)
    return [pattern.card_id(number) for number in known[:PROBLEMS_MAX]]


def _check_size(command: CreateBatch) -> None:
    if command.cards is None:
        if command.requested > CARDS_PER_ORDER_MAX:
            raise Refused(Reason.BATCH_TOO_LARGE)
        return
    asked = [card.card_id for card in command.cards]
    if len(asked) > CARDS_PER_BATCH_MAX:
        raise Refused(Reason.BATCH_TOO_LARGE)
    twice = [card_id for card_id, times in Counter(asked).items() if times > 1]
    if twice:
        problems = _naming(Reason.DUPLICATE_IN_BATCH, asked, twice)
        raise Refused(Reason.DUPLICATE_IN_BATCH, *problems)


def _naming(reason: Reason, asked: list[str], wrong: Iterable[str]) -> tuple[Problem, ...]:
    """Return up to 20 problems that name cards by their place in the list and their card_id."""
    message = reason.text.split(";")[0].rstrip(".")
    places = {card_id: place for place, card_id in reversed(list(enumerate(asked)))}
    return tuple(
        Problem(field=f"cards.{places[card_id]}.card_id", message=f"{card_id}: {message}")
        for card_id in list(dict.fromkeys(wrong))[:PROBLEMS_MAX]
    )


def _naming_of_pattern(taken: Sequence[str]) -> tuple[Problem, ...]:
    message = Reason.CARD_EXISTS.text.rstrip(".")
    return tuple(
        Problem(field="card_id_pattern", message=f"{card_id}: {message}") for card_id in taken
    )


def decide_on_batch(books: Books, command: CreateBatch | OnBatch, now: datetime) -> BatchEvent:
    """Decide about a batch: one that is wanted, or one that exists. Raises Refused."""
    if isinstance(command, CreateBatch):
        return _create_batch(books, command, now)
    batch = books.batches.get((command.account_id, command.batch_id))
    if batch is None:
        raise Refused(Reason.BATCH_NOT_FOUND)
    return _rule(command, batch, now)


@singledispatch
def _rule(command: OnBatch, batch: Batch, now: datetime) -> BatchEvent:
    raise AssertionError(f"no rule for {command.command}")


@_rule.register
def _(command: ApproveBatch, batch: Batch, now: datetime) -> BatchEvent:
    if batch.state is not BatchState.AWAITING_APPROVAL or batch.has_lapsed(now):
        raise Refused(Reason.BATCH_STATE)
    if command.created_by is None or command.created_by == batch.created_by:
        message = "must be somebody else than who ordered"
        raise Refused(Reason.INVALID, Problem(field="created_by", message=message))
    return BatchApproved(command, now)


@_rule.register
def _(command: CancelBatch, batch: Batch, now: datetime) -> BatchEvent:
    if batch.state is BatchState.CANCELLED:
        raise Refused(Reason.BATCH_STATE)
    return BatchCancelled(command, now)


@_rule.register
def _(command: LapseBatch, batch: Batch, now: datetime) -> BatchEvent:
    if not batch.has_lapsed(now):
        raise Refused(Reason.NOT_DUE)
    return BatchCancelled(command, now)


@_rule.register(BlockBatch)
@_rule.register(UnblockBatch)
@_rule.register(CloseBatch)
@_rule.register(ExtendBatch)
def _(command: Recall, batch: Batch, now: datetime) -> BatchEvent:
    if batch.completed_at is None or batch.busy:
        raise Refused(Reason.BATCH_STATE)
    last = batch.requested if command.last is None else command.last
    if last > batch.requested or command.first > last:
        field = "last" if command.last is not None else "first"
        message = f"the batch has {batch.requested} cards"
        raise Refused(Reason.INVALID, Problem(field=field, message=message))
    if isinstance(command, ExtendBatch) and command.expires_at <= now:
        problem = Problem(field="expires_at", message="must be in the future")
        raise Refused(Reason.INVALID, problem)
    return RecallBegun(command, now, last)
