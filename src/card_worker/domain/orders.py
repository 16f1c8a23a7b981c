"""Commands on batches: order cards, approve, cancel, and recall them.

For each command: the rows it needs, its decision, and what its events do to the books.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
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
from card_worker.contracts.enums import Action, BatchState, CardType, Reason
from card_worker.contracts.patterns import Pattern
from card_worker.contracts.secrets import BatchOptions
from card_worker.contracts.views import PROBLEMS_MAX, Problem
from card_worker.domain.books import Books
from card_worker.domain.codes import add_codes, request_secrets
from card_worker.domain.context import check_expiry, check_recipients, recipients
from card_worker.domain.events import (
    BatchAccepted,
    BatchApproved,
    BatchAwaitsApproval,
    BatchCancelled,
    BatchCompleted,
    Decision,
    RecallBegun,
)
from card_worker.domain.ids import card_uuid
from card_worker.domain.needs import Needs
from card_worker.domain.refusal import Refused
from card_worker.domain.rows import (
    CARDS_PER_CHUNK,
    CARDS_PER_RECALL,
    Account,
    Batch,
    Card,
    EventUuid,
    Job,
    State,
)
from card_worker.domain.rules import effect, rule, table


def needs_create_batch(command: CreateBatch) -> Needs:
    account_id = command.account_id
    return Needs(
        cards=tuple((account_id, card.card_id) for card in command.cards or ()),
        makes_cards=True,
        batches=((account_id, command.called),),
        order=command if command.card_id_pattern is not None else None,
    )


def decide_create_batch(command: CreateBatch, books: Books, now: datetime) -> Decision:
    account_id = command.account_id
    account = books.account(account_id)
    _check_size(command)
    if (account_id, command.called) in books.batches:
        raise Refused(Reason.BATCH_STATE)
    _check_names(books, command)
    cards = command.cards or ()
    request = request_secrets(
        account,
        tuple(((account_id, card.card_id), card.type or command.type) for card in cards),
        command.options or BatchOptions(),
        command.seal_to,
        file=command.called,
        seal_pins_to=command.seal_pins_to,
    )
    recipients = None if request is None else request.recipients
    if _needs_approval(command, account):
        orders = books.orders.get(account_id, {}).values()
        waiting = sum(order.state is BatchState.AWAITING_APPROVAL for order in orders)
        if waiting >= WAITING_ORDERS_MAX:
            raise Refused(Reason.TOO_MANY_WAITING)
        return Decision(BatchAwaitsApproval(command, now, recipients))
    if command.cards is None:
        return Decision(BatchAccepted(command, now, recipients))
    return Decision(BatchCompleted(command, now, request))


def check_create_batch(command: CreateBatch, books: Books, _now: datetime) -> None:
    account = books.account(command.account_id)
    if command.options is not None and (command.options.card_token or command.options.pin):
        recipients(account, command.seal_to)
        check_recipients(account, "seal_pins_to", command.seal_pins_to)
    if command.created_by is None and _needs_approval(command, account):
        message = "say who orders: somebody else has to approve it"
        raise Refused(Reason.INVALID, Problem(field="created_by", message=message))


def _needs_approval(command: CreateBatch, account: Account) -> bool:
    limit = account.approve_from
    return command.needs_approval or (limit is not None and command.requested >= limit)


def _check_names(books: Books, command: CreateBatch) -> None:
    if command.cards is None:
        taken = _taken_of_pattern(books, command)
        if taken:
            raise Refused(Reason.CARD_EXISTS, *_pattern_problems(taken))
        return
    card_ids = [card.card_id for card in command.cards]
    taken = [card_id for card_id in card_ids if books.is_taken((command.account_id, card_id))]
    if taken:
        raise Refused(Reason.CARD_EXISTS, *_list_problems(Reason.CARD_EXISTS, card_ids, taken))


def _taken_of_pattern(books: Books, command: CreateBatch) -> list[str]:
    """Return the first few card_ids of the pattern that a card has, or will have."""
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
    card_ids = [card.card_id for card in command.cards]
    if len(card_ids) > CARDS_PER_BATCH_MAX:
        raise Refused(Reason.BATCH_TOO_LARGE)
    duplicates = [card_id for card_id, times in Counter(card_ids).items() if times > 1]
    if duplicates:
        problems = _list_problems(Reason.DUPLICATE_IN_BATCH, card_ids, duplicates)
        raise Refused(Reason.DUPLICATE_IN_BATCH, *problems)


def _list_problems(
    reason: Reason, card_ids: list[str], wrong: Iterable[str]
) -> tuple[Problem, ...]:
    """Return up to 20 problems that name cards by their place in the list and their card_id."""
    message = reason.text.split(";")[0].rstrip(".")
    places = {card_id: place for place, card_id in reversed(list(enumerate(card_ids)))}
    return tuple(
        Problem(field=f"cards.{places[card_id]}.card_id", message=f"{card_id}: {message}")
        for card_id in list(dict.fromkeys(wrong))[:PROBLEMS_MAX]
    )


def _pattern_problems(taken: Sequence[str]) -> tuple[Problem, ...]:
    message = Reason.CARD_EXISTS.text.rstrip(".")
    return tuple(
        Problem(field="card_id_pattern", message=f"{card_id}: {message}") for card_id in taken
    )


def apply_batch_completed(event: BatchCompleted, books: Books) -> None:
    command = event.command
    batch = _batch(event, BatchState.COMPLETED)
    books.put_batch(batch._replace(created=batch.requested, completed_at=event.at))
    for file, part in event.issued.files:
        books.add_file(file, part)
    for listed in command.cards or ():
        type, has_codes = listed.type or command.type, event.request is not None
        books.put_card(batch_card(batch, listed.card_id, type, has_codes=has_codes))
    if event.request is not None and command.options is not None:
        add_codes(books, event, event.request, command.options.card_token)


def apply_batch_accepted(event: BatchAccepted, books: Books) -> None:
    _begin(books, _order(event, BatchState.RUNNING), Action.MAKE, event)


def apply_batch_awaits_approval(event: BatchAwaitsApproval, books: Books) -> None:
    books.put_batch(_order(event, BatchState.AWAITING_APPROVAL))


def _order(event: BatchAccepted | BatchAwaitsApproval, state: BatchState) -> Batch:
    batch = _batch(event, state)._replace(busy=True)
    if event.recipients is None:
        return batch
    pin_recipients = event.command.seal_pins_to
    return batch._replace(
        recipients=list(event.recipients),
        pin_recipients=None if pin_recipients is None else list(pin_recipients),
    )


def _batch(event: BatchCompleted | BatchAccepted | BatchAwaitsApproval, state: BatchState) -> Batch:
    command = event.command
    cards, options = command.cards, command.options
    return Batch(
        account_id=command.account_id,
        batch_id=command.called,
        state=state,
        type=command.type,
        requested=command.requested,
        created=0,
        created_at=event.at,
        created_by=command.created_by,
        originated_by=command.originated_by,
        producer=command.producer,
        name=command.name,
        metadata=command.metadata,
        command_id=command.command_id,
        pattern=command.card_id_pattern,
        card_list=None
        if cards is None
        else [card.model_dump(mode="json", exclude_none=True) for card in cards],
        options=None
        if options is None
        else options.model_dump(mode="json", exclude_defaults=True) or None,
    )


def batch_card(batch: Batch, card_id: str, type: CardType, *, has_codes: bool) -> Card:
    """Return a card as its batch creates it. It is as old as the batch."""
    return Card(
        id=card_uuid(batch.account_id, card_id),
        account_id=batch.account_id,
        card_id=card_id,
        type=type,
        state=State.INACTIVE,
        batch_id=batch.batch_id,
        created_at=batch.created_at,
        created_by=batch.created_by,
        originated_by=batch.originated_by,
        has_codes=has_codes,
    )


def needs_batch(command: OnBatch) -> Needs:
    return Needs(batches=((command.account_id, command.batch_id),))


def check_approve(command: ApproveBatch, books: Books, _now: datetime) -> None:
    batch = _named(books, command)
    ordered_by = None if batch is None else batch.created_by
    if batch is not None and batch.producer is not None and command.producer is None:
        message = "must be a producer that signs, since the order is signed"
        raise Refused(Reason.INVALID, Problem(field="created_by", message=message))
    if batch is not None:
        account = books.account(command.account_id)
        for field in ("recipients", "pin_recipients"):
            check_recipients(account, field, getattr(batch, field))
    if command.created_by in (None, ordered_by):
        message = "must be somebody else than who ordered"
        raise Refused(Reason.INVALID, Problem(field="created_by", message=message))


def decide_approve(command: ApproveBatch, books: Books, now: datetime) -> Decision:
    batch = _existing(books, command)
    if batch.state is not BatchState.AWAITING_APPROVAL or batch.has_lapsed(now):
        raise Refused(Reason.BATCH_STATE)
    return Decision(BatchApproved(command, now))


def apply_batch_approved(event: BatchApproved, books: Books) -> None:
    batch = _existing(books, event.command)
    batch = batch._replace(state=BatchState.RUNNING, approved_by=event.command.created_by)
    _begin(books, batch, Action.MAKE, event)


def decide_cancel(command: CancelBatch, books: Books, now: datetime) -> Decision:
    if _existing(books, command).state is BatchState.CANCELLED:
        raise Refused(Reason.BATCH_STATE)
    return Decision(BatchCancelled(command, now))


def decide_lapse(command: LapseBatch, books: Books, now: datetime) -> Decision:
    if not _existing(books, command).has_lapsed(now):
        raise Refused(Reason.NOT_DUE)
    return Decision(BatchCancelled(command, now))


def apply_batch_cancelled(event: BatchCancelled, books: Books) -> None:
    batch = _existing(books, event.command)
    is_complete = batch.completed_at is not None
    batch = batch._replace(state=BatchState.CANCELLED, busy=is_complete or batch.created > 0)
    if batch.busy:
        _begin(books, batch, Action.CANCEL if is_complete else Action.REMOVE, event)
    else:
        books.put_batch(batch)


def check_recall(command: Recall, books: Books, _now: datetime) -> None:
    batch = _named(books, command)
    if batch is not None and max(command.first, command.last or 0) > batch.requested:
        field = "last" if command.last is not None else "first"
        message = f"must be at most {batch.requested}, the number of cards"
        raise Refused(Reason.INVALID, Problem(field=field, message=message))


def decide_recall(command: Recall, books: Books, now: datetime) -> Decision:
    batch = _existing(books, command)
    last = batch.requested if command.last is None else command.last
    if batch.completed_at is None or batch.busy:
        raise Refused(Reason.BATCH_STATE)
    return Decision(RecallBegun(command, now, last))


def check_extend(command: ExtendBatch, books: Books, now: datetime) -> None:
    check_expiry(command.expires_at, now)
    check_recall(command, books, now)


def apply_recall_begun(event: RecallBegun, books: Books) -> None:
    command = event.command
    action = Action(command.command.removeprefix("batches."))
    batch = _existing(books, command)
    _begin(books, batch, action, event, first=command.first, last=event.last)


def _existing(books: Books, command: OnBatch) -> Batch:
    """Return the batch that a command names. Raises Refused."""
    batch = _named(books, command)
    if batch is None:
        raise Refused(Reason.BATCH_NOT_FOUND)
    return batch


def _named(books: Books, command: OnBatch) -> Batch | None:
    return books.batches.get((command.account_id, command.batch_id))


def _begin(
    books: Books,
    batch: Batch,
    action: Action,
    event: BatchAccepted | BatchApproved | BatchCancelled | RecallBegun,
    *,
    first: int = 1,
    last: int | None = None,
) -> None:
    """Begin a job on the batch's cards."""
    command = event.command
    batch = batch._replace(job_count=batch.job_count + 1)
    books.put_batch(batch)
    last = batch.requested if last is None else last
    job = new_job(batch, action, first=first, last=last, id=event.id, cause=command, at=event.at)
    books.add_job(
        job._replace(
            created_by=command.created_by,
            originated_by=command.originated_by,
            reason=None if isinstance(command, CreateBatch | ExtendBatch) else command.reason,
            expires_at=command.expires_at if isinstance(command, ExtendBatch) else None,
        )
    )


def new_job(
    batch: Batch,
    action: Action,
    *,
    first: int = 1,
    last: int,
    id: EventUuid,
    cause: CreateBatch | OnBatch | Job,
    at: datetime,
) -> Job:
    """Return a new job. `job_count` of the batch includes it already."""
    job = Job(
        id=id,
        account_id=batch.account_id,
        batch_id=batch.batch_id,
        action=action,
        sequence=batch.job_count,
        first=first,
        last=last,
        chunk_cards=CARDS_PER_CHUNK.get(action, CARDS_PER_RECALL),
        open_chunks=0,
        command=cause.command,
        command_id=cause.command_id,
        created_at=at,
        last_activity_at=at,
        last_progress_at=at,
    )
    return job._replace(open_chunks=job.chunks)


RULES = table(
    rule(CreateBatch, needs_create_batch, decide_create_batch, check=check_create_batch),
    rule(ApproveBatch, needs_batch, decide_approve, check=check_approve),
    rule(CancelBatch, needs_batch, decide_cancel),
    rule(LapseBatch, needs_batch, decide_lapse),
    rule(BlockBatch, needs_batch, decide_recall, check=check_recall),
    rule(UnblockBatch, needs_batch, decide_recall, check=check_recall),
    rule(CloseBatch, needs_batch, decide_recall, check=check_recall),
    rule(ExtendBatch, needs_batch, decide_recall, check=check_extend),
)
EFFECTS = table(
    effect(BatchCompleted, apply_batch_completed),
    effect(BatchAccepted, apply_batch_accepted),
    effect(BatchAwaitsApproval, apply_batch_awaits_approval),
    effect(BatchApproved, apply_batch_approved),
    effect(BatchCancelled, apply_batch_cancelled),
    effect(RecallBegun, apply_recall_begun),
)
