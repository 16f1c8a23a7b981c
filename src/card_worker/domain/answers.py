"""The answer to a command: its event in the public language, frozen to bytes."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from card_worker.contracts import keys
from card_worker.contracts.batches import CreateBatch, OnBatch
from card_worker.contracts.commands import Command, event_id
from card_worker.contracts.enums import Action, EventType, Reason
from card_worker.contracts.events import (
    SOURCE_PREFIX,
    BatchData,
    CardData,
    CommandInfo,
    Envelope,
    RejectionData,
    RepeatData,
    is_pruned,
    write,
)
from card_worker.contracts.json_text import write_json
from card_worker.contracts.traces import Trace
from card_worker.contracts.transactions import (
    CaptureTransaction,
    ExpireHold,
    RefundTransaction,
    VoidTransaction,
)
from card_worker.contracts.views import RecallView
from card_worker.domain.books import Books
from card_worker.domain.events import (
    ActivationReversed,
    BatchCompleted,
    BatchEvent,
    BatchEventBase,
    CardAdjusted,
    CardBlocked,
    CardClosed,
    CardEvent,
    CardReplaced,
    CardUnblocked,
    CommandRejected,
    Event,
    HoldCaptured,
    HoldExpired,
    HoldPlaced,
    HoldVoided,
    IssuingEvent,
    RecallBegun,
    ReplacementActivated,
    ReplacementCreated,
    TokenCreated,
    TokenRevoked,
    TransferredIn,
    TransferredOut,
)
from card_worker.domain.rows import Batch, File, FileKind, Job, Transaction
from card_worker.domain.views import (
    batch_card_views,
    card_view,
    file_view,
    hold_view,
    token_view,
    transaction_view,
)

SEQUENCE_DIGITS = 20


class Answer(NamedTuple):
    """An event as it is stored and published: `event` is its JSON, and never changes again."""

    id: UUID
    account_id: str
    type: EventType
    subject: str
    partition_key: str
    event: str
    created_at: datetime
    reason: Reason | None = None


def refusal_of(answer: Answer) -> str | None:
    """Return the reason of an answer that is a refusal; a stored one has it only in its JSON."""
    if answer.type is not EventType.COMMAND_REJECTED:
        return None
    return answer.reason or str(json.loads(answer.event)["data"]["reason"])


def answer(books: Books, event: Event, transaction: Transaction | None) -> Answer:
    """Return the public form of `event`. The books are as the event left them."""
    if isinstance(event, CommandRejected):
        return _rejection(books, event)
    if isinstance(event, BatchEventBase):
        return _about_batch(books, event)
    return _about_card(books, event, transaction)


def _about_card(books: Books, event: CardEvent, transaction: Transaction | None) -> Answer:
    card, command = books.cards[event.card], event.command
    # Most cards have no tokens and no PIN.
    tokens = books.tokens_of(card, event.at) if card.has_codes else ()
    pin = books.pins.get(card.id) if card.has_codes else None
    data: CardData = {
        "command": command.command,
        "command_id": command.command_id,
        "account_id": command.account_id,
        "card_id": card.card_id,
        "version": card.version,
        "card": card_view(card, event.at, tokens, pin),
        "transaction": transaction_view(transaction, card.card_id) if transaction else None,
    }
    if command.dry_run:
        data["dry_run"] = True
    _add_details(books, event, transaction, data)
    if card.has_codes:
        _add_codes(books, event, data)
    return _freeze(event, card.card_id, data, version=card.version)


def _add_details(
    books: Books, event: CardEvent, transaction: Transaction | None, data: CardData
) -> None:
    match event:
        case HoldPlaced() | HoldCaptured() | HoldVoided() | HoldExpired():
            assert transaction is not None
            hold_id = transaction.parent_id or transaction.id
            data["hold"] = hold_view(books.holds[hold_id])
        case TransferredOut(command):
            data["other_card_id"] = command.to_card_id
        case TransferredIn(command):
            data["other_card_id"] = command.card_id
        case ReplacementCreated(command) | ReplacementActivated(command):
            data["other_card_id"] = command.card_id
        case CardReplaced(command):
            data["other_card_id"] = command.new_card_id
            data["reason_text"] = command.reason
        case CardBlocked(command) | CardAdjusted(command):
            data["reason_text"] = command.reason
        case CardUnblocked(command) | CardClosed(command) | ActivationReversed(command):
            if command.reason is not None:
                data["reason_text"] = command.reason
        case _:
            pass


def _add_codes(books: Books, event: CardEvent, data: CardData) -> None:
    match event:
        case TokenCreated():
            data["token"] = token_view(books.tokens[event.id])
        case TokenRevoked():
            data["token"] = token_view(books.tokens[event.token])
        case _:
            pass
    if isinstance(event, IssuingEvent) and event.issued.sealed is not None:
        data["sealed"] = event.issued.sealed


def _about_batch(books: Books, event: BatchEvent) -> Answer:
    command = event.command
    batch_id = command.called if isinstance(command, CreateBatch) else command.batch_id
    batch = books.batches[command.account_id, batch_id]
    data = batch_data(_said(event), batch)
    match event:
        case BatchCompleted():
            keys = ((command.account_id, card.card_id) for card in event.command.cards or ())
            data["cards"] = batch_card_views(
                batch,
                {
                    token.card: token.masked_code
                    for key in keys
                    for token in books.tokens_of(books.cards[key], event.at)
                },
            )
            add_files(data, [file for file, _ in event.issued.files])
        case RecallBegun():
            action = Action(event.command.command.removeprefix("batches."))
            first, last = event.command.first, event.last
            data["recall"] = RecallView(
                action=action, first=first, last=last, done=0, already=0, refused=0
            )
        case _:
            pass
    reason = getattr(command, "reason", None)
    if reason is not None:
        data["reason_text"] = reason
    return _freeze(event, batch.batch_id, data)


def batch_data(said: CommandInfo, batch: Batch) -> BatchData:
    """Return the data that every event about a batch has."""
    data = BatchData(
        command=said["command"],
        command_id=said["command_id"],
        account_id=said["account_id"],
        batch_id=batch.batch_id,
        state=batch.state,
        requested=batch.requested,
        created=batch.created,
        name=batch.name,
        metadata=batch.metadata,
        created_by=batch.created_by,
        approved_by=batch.approved_by,
    )
    if said.get("dry_run"):
        data["dry_run"] = True
    if batch.pattern is not None:
        data["card_id_pattern"] = batch.pattern
    return data


def add_files(data: BatchData, files: Sequence[File]) -> None:
    """Add the files to the data; `file` is null when there is none."""
    views = {file.kind: file_view(file) for file in files}
    data["file"] = views.get(FileKind.CODES) or views.get(FileKind.REFUSED)
    if FileKind.PINS in views:
        data["pin_file"] = views[FileKind.PINS]


def about_job(job: Job, batch: Batch) -> BatchData:
    """Return the data of an event that a job leads to later than its command."""
    said = CommandInfo(command=job.command, command_id=job.command_id, account_id=job.account_id)
    return batch_data(said, batch)


def _rejection(books: Books, event: CommandRejected) -> Answer:
    command = event.command
    card_id = _card_id(books, command)
    data = RejectionData(
        command=command.command,
        command_id=command.command_id,
        account_id=command.account_id,
        reason=event.reason,
        message=event.reason.text,
    )
    if command.dry_run:
        data["dry_run"] = True
    if card_id is not None:
        data["card_id"] = card_id
    if event.problems:
        data["problems"] = event.problems
    if event.key_id is not None:
        data["key_id"] = event.key_id
    _add_state(books, event, data)
    if isinstance(command, CreateBatch):
        subject = command.called
    elif isinstance(command, OnBatch):
        subject = command.batch_id
    else:
        subject = card_id if card_id is not None else command.command_id
    return _freeze(event, subject, data, reason=event.reason)


def _add_state(books: Books, event: CommandRejected, data: RejectionData) -> None:
    """Add what a sender who names the card by its id may know of it."""
    command = event.command
    card_id = getattr(command, "card_id", None)
    if card_id is None or event.reason in (Reason.INVALID, Reason.IDEMPOTENCY_CONFLICT):
        return
    card = books.cards.get((command.account_id, card_id))
    if card is None:
        return
    data["status"] = card.status(event.at)
    if event.reason is Reason.EXCEEDS_AVAILABLE:
        data["amount_available"] = available = books.available(card, event.at)
        data["amount_reserved"] = card.amount_balance - available


def _card_id(books: Books, command: Command) -> str | None:
    """Return the card that a command names, itself or by a transaction of its account."""
    if isinstance(command, CreateBatch | OnBatch):
        return None
    match command:
        case CaptureTransaction() | VoidTransaction() | RefundTransaction() | ExpireHold():
            named = books.named.get(command.transaction_id)
            if named is None or named.account_id != command.account_id:
                return None
            return books.card_keys[named.card][1]
    return command.card_id


def _said(event: Event) -> CommandInfo:
    command = event.command
    said = CommandInfo(
        command=command.command, command_id=command.command_id, account_id=command.account_id
    )
    if command.dry_run:
        said["dry_run"] = True
    return said


def _freeze(
    event: Event,
    subject: str,
    data: CardData | BatchData | RejectionData,
    *,
    version: int | None = None,
    reason: Reason | None = None,
) -> Answer:
    # A dry run has no place in the sequence of the card.
    return freeze(
        data,
        id=event.id,
        type=event.type,
        subject=subject,
        at=event.at,
        version=None if event.command.dry_run else version,
        reason=reason,
        is_answer=event.is_answer,
    )


def repeated(answer: Answer, command_id: str) -> Answer:
    """Return the answer to a command that was done before; `answer` is the first one.

    It is the first one itself, unless that answered another command_id with the same `ref_id`, or
    its content is no longer stored.
    """
    first = json.loads(answer.event)
    account_id, id, data = answer.account_id, answer.id, first.get("data", first)
    said = RepeatData(command=data["command"], command_id=command_id, account_id=account_id)
    if is_pruned(answer.event):
        said["event_id"], said["event_type"] = id, answer.type
        key = keys.pruned(id, command_id)
    elif first["correlationid"] == command_id:
        return answer
    else:
        said["event"] = first
        key = keys.repeat(id, command_id)
    if data.get("dry_run"):
        said["dry_run"] = True
    return freeze(
        said,
        id=event_id(account_id, key),
        type=EventType.COMMAND_REPEATED,
        subject=answer.subject,
        at=answer.created_at,
        is_answer=True,
    )


def traced(answer: Answer, trace: Trace) -> Answer:
    """Return an answer with the trace context of its message as extension attributes."""
    attributes = {name: value for name, value in trace._asdict().items() if value is not None}
    # After the first attribute: `reconcile` finds `specversion` and `sequence` by their places.
    first, _, others = answer.event.partition(",")
    return answer._replace(event=f"{first},{write_json(attributes)[1:-1]},{others}")


def freeze(
    data: CardData | BatchData | RejectionData | RepeatData,
    *,
    id: UUID,
    type: EventType,
    subject: str,
    at: datetime,
    version: int | None = None,
    reason: Reason | None = None,
    is_answer: bool = False,
) -> Answer:
    """Return an event as it is stored and published, never to be changed."""
    account_id = data["account_id"]
    envelope: Envelope = {
        "specversion": "1.0",
        "id": id,
        "source": f"{SOURCE_PREFIX}{account_id}",
        "type": type,
        "subject": subject,
        "time": at,
        "datacontenttype": "application/json",
        "partitionkey": f"{account_id}/{subject}",
        "correlationid": data["command_id"],
        "answer": True,
        "data": data,
    }
    if not is_answer:
        del envelope["answer"]
    if version is not None:
        envelope["sequence"] = f"{version:0{SEQUENCE_DIGITS}}"
    return Answer(
        id=id,
        account_id=account_id,
        type=type,
        subject=subject,
        partition_key=envelope["partitionkey"],
        event=write(envelope),
        created_at=at,
        reason=reason,
    )
