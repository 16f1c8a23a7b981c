"""The answer to a command: its event in the public language, frozen to bytes."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from card_worker.contracts.batches import CreateBatch, OnBatch
from card_worker.contracts.cards import BlockCard
from card_worker.contracts.commands import Command
from card_worker.contracts.enums import Action, EventType, Reason
from card_worker.contracts.events import (
    BatchCardView,
    BatchData,
    BatchView,
    CardData,
    CardView,
    CommandInfo,
    Envelope,
    FileView,
    HoldView,
    PinView,
    RecallView,
    RejectionData,
    TokenView,
    TransactionView,
    write,
)
from card_worker.contracts.transactions import (
    CaptureTransaction,
    ExpireHold,
    RefundTransaction,
    VoidTransaction,
)
from card_worker.domain.books import Books
from card_worker.domain.events import (
    ActivationReversed,
    BatchApproved,
    BatchCancelled,
    BatchCompleted,
    BatchEvent,
    BatchOrdered,
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
    Event,
    HoldCaptured,
    HoldExpired,
    HoldPlaced,
    HoldVoided,
    Making,
    PinRotated,
    RecallBegun,
    TokenCreated,
    TokenRevoked,
    TransferredIn,
    TransferredOut,
    id_of,
)
from card_worker.domain.rows import (
    Batch,
    Card,
    File,
    Hold,
    Holds,
    Job,
    Pin,
    Token,
    Transaction,
)

SEQUENCE_DIGITS = 20
GUARD = "too many wrong PINs"


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


TYPES: dict[type[CardEvent], EventType] = {
    CardCreated: EventType.CARD_CREATED,
    CardActivated: EventType.CARD_ACTIVATED,
    ActivationReversed: EventType.CARD_ACTIVATION_REVERSED,
    CardUpdated: EventType.CARD_UPDATED,
    CardBlocked: EventType.CARD_BLOCKED,
    CardUnblocked: EventType.CARD_UNBLOCKED,
    CardClosed: EventType.CARD_CLOSED,
    CardReplaced: EventType.CARD_REPLACED,
    CardFunded: EventType.CARD_FUNDED,
    CardDrawnDown: EventType.CARD_DRAWN_DOWN,
    CardRefunded: EventType.CARD_REFUNDED,
    CardAdjusted: EventType.CARD_ADJUSTED,
    TransferredOut: EventType.CARD_TRANSFERRED_OUT,
    TransferredIn: EventType.CARD_TRANSFERRED_IN,
    CardExpired: EventType.CARD_EXPIRED,
    HoldPlaced: EventType.HOLD_PLACED,
    HoldCaptured: EventType.HOLD_CAPTURED,
    HoldVoided: EventType.HOLD_VOIDED,
    HoldExpired: EventType.HOLD_EXPIRED,
    TokenCreated: EventType.TOKEN_CREATED,
    TokenRevoked: EventType.TOKEN_REVOKED,
    PinRotated: EventType.CARD_PIN_ROTATED,
}
"""What each event is called in public. The one that isn't here has two names."""


def answer(books: Books, event: Event, transaction: Transaction | None) -> Answer:
    """Return the answer that tells of `event`, after which the books are as they are."""
    match event:
        case CommandRejected():
            return _refusal(books, event)
        case BatchCompleted() | BatchOrdered() | BatchApproved() | BatchCancelled():
            return _about_batch(books, event)
        case RecallBegun():
            return _about_batch(books, event)
    return _about_card(books, event, transaction)


# Dictionaries are written out here: to call their types takes twice as long, for each event.


def shown(card: Card, now: datetime, tokens: Sequence[Token], pin: Pin | None) -> CardView:
    """Return the card as the public sees it at `now`, with its tokens that serve and its PIN."""
    return {
        "account_id": card.account_id,
        "card_id": card.card_id,
        "id": card.id,
        "type": card.type,
        "currency": card.currency,
        "amount": card.amount,
        "customer_id": card.customer_id,
        "name": card.name,
        "originated_by": card.originated_by,
        "metadata": card.metadata,
        "active_from": card.active_from,
        "expires_at": card.expires_at,
        "status": card.status(now),
        "created_at": card.created_at,
        "created_by": card.created_by,
        "version": card.version,
        "amount_funds": card.amount_funds,
        "amount_drawdown": card.amount_drawdown,
        "amount_balance": card.amount_balance,
        "amount_pending": card.amount_pending,
        "amount_reserved": card.amount_reserved,
        "amount_available": card.amount_available,
        "tokens": tuple(map(shown_token, tokens)),
        "pin": None if pin is None else PinView(format=pin.format),
    }


def shown_token(token: Token) -> TokenView:
    """Return the token as the public sees it."""
    return TokenView(
        id=token.id,
        ref_id=token.ref_id,
        masked_code=token.masked_code,
        format=token.format,
        expires_at=token.expires_at,
        expires_after_transaction=token.expires_after_transaction,
    )


def shown_file(file: File) -> FileView:
    """Return the file as the public sees it."""
    return FileView(
        name=file.name,
        sha256=file.sha256,
        cards=file.cards,
        bytes=file.bytes,
        recipients=tuple(file.recipients),
    )


def shown_transaction(transaction: Transaction, card_id: str) -> TransactionView:
    """Return the transaction as the public sees it."""
    return {
        "id": transaction.id,
        "account_id": transaction.account_id,
        "card_id": card_id,
        "type": transaction.type,
        "amount": transaction.amount,
        "currency": transaction.currency,
        "debit": transaction.debit,
        "credit": transaction.credit,
        "ref_id": transaction.ref_id,
        "parent_id": transaction.parent_id,
        "metadata": transaction.metadata,
        "originated_by": transaction.originated_by,
        "created_at": transaction.created_at,
        "created_by": transaction.created_by,
        "balance_before": transaction.balance_before,
        "balance_after": transaction.balance_after,
        "version": transaction.version,
    }


def shown_batch(batch: Batch, files: Sequence[File] = ()) -> BatchView:
    """Return the batch, and its files, as a query sees it."""
    return BatchView(
        account_id=batch.account_id,
        batch_id=batch.batch_id,
        state=batch.state,
        type=batch.type,
        requested=batch.requested,
        created=batch.created,
        card_id_pattern=batch.pattern,
        approved_by=batch.approved_by,
        completed_at=batch.completed_at,
        last_error=batch.last_error,
        files=tuple(map(shown_file, files)),
        name=batch.name,
        metadata=batch.metadata,
        originated_by=batch.originated_by,
        created_at=batch.created_at,
        created_by=batch.created_by,
    )


def shown_hold(hold: Hold) -> HoldView:
    """Return the hold as the public sees it."""
    return HoldView(
        id=hold.id,
        amount=hold.amount,
        amount_captured=hold.captured,
        amount_released=hold.released,
        amount_open=hold.amount_open,
        expires_at=hold.expires_at,
    )


def _about_card(books: Books, event: CardEvent, transaction: Transaction | None) -> Answer:
    card, command = books.cards[event.card], event.command
    # Most cards have neither, and aren't to pay for those that do.
    serving = books.tokens_of(card, event.at) if card.has_codes else ()
    pin = books.pins.get(card.id) if card.has_codes else None
    data: CardData = {
        "command": command.command,
        "command_id": command.command_id,
        "account_id": command.account_id,
        "card_id": card.card_id,
        "version": card.version,
        "card": shown(card, event.at, serving, pin),
        "transaction": shown_transaction(transaction, card.card_id) if transaction else None,
    }
    if command.dry_run:
        data["dry_run"] = True
    _add_details(books, event, transaction, data)
    if card.has_codes:
        _add_codes(books, event, data)
    return _sealed(event, _type_of(event, card), card.card_id, data, version=card.version)


def _type_of(event: CardEvent, card: Card) -> EventType:
    if isinstance(event, CardTookOver):
        return EventType.CARD_CREATED if card.version == 1 else EventType.CARD_ACTIVATED
    return TYPES[type(event)]


def _add_details(
    books: Books, event: CardEvent, transaction: Transaction | None, data: CardData
) -> None:
    match event:
        case HoldPlaced() | HoldCaptured() | HoldVoided() | HoldExpired():
            assert transaction is not None
            hold_id = transaction.parent_id or transaction.id
            data["hold"] = shown_hold(books.holds[hold_id])
        case TransferredOut(command):
            data["other_card_id"] = command.to_card_id
        case TransferredIn(command) | CardTookOver(command):
            data["other_card_id"] = command.card_id
        case CardReplaced(command):
            data["other_card_id"] = command.new_card_id
            data["reason_text"] = command.reason
        case CardBlocked(BlockCard() as command):
            data["reason_text"] = command.reason
        case CardBlocked():
            data["reason_text"] = GUARD
        case CardUnblocked(command) | CardClosed(command) | ActivationReversed(command):
            if command.reason is not None:
                data["reason_text"] = command.reason
        case _:
            pass


def _add_codes(books: Books, event: CardEvent, data: CardData) -> None:
    match event:
        case TokenCreated():
            data["token"] = shown_token(books.tokens[id_of(event)])
        case TokenRevoked():
            data["token"] = shown_token(books.tokens[event.token])
        case _:
            pass
    if isinstance(event, Making) and event.made.sealed is not None:
        data["sealed"] = event.made.sealed


def _about_batch(books: Books, event: BatchEvent) -> Answer:
    command = event.command
    named = command.called if isinstance(command, CreateBatch) else command.batch_id
    batch = books.batches[command.account_id, named]
    data = batch_data(_said(event), batch)
    match event:
        case BatchCompleted():
            type = EventType.BATCH_COMPLETED
            data["cards"] = tuple(
                BatchCardView(card_id=card.card_id, type=card.type or batch.type)
                for card in event.command.cards or ()
            )
            add_files(data, [file for file, _ in event.made.files])
        case BatchOrdered():
            waits = EventType.BATCH_AWAITING_APPROVAL
            type = waits if event.waits else EventType.BATCH_ACCEPTED
        case BatchApproved():
            type = EventType.BATCH_APPROVED
        case BatchCancelled():
            type = EventType.BATCH_CANCELLED
        case RecallBegun():
            type = EventType.BATCH_RECALLING
            action = Action(event.command.command.removeprefix("batches."))
            first, last = event.command.first, event.last
            data["recall"] = RecallView(
                action=action, first=first, last=last, done=0, already=0, refused=0
            )
    reason = getattr(command, "reason", None)
    if reason is not None:
        data["reason_text"] = reason
    return _sealed(event, type, batch.batch_id, data)


def batch_data(said: CommandInfo, batch: Batch) -> BatchData:
    """Return what every event about a batch tells of it."""
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
    """Add what is to be known of files; also that there is none."""
    shown = {file.holds: shown_file(file) for file in files}
    data["file"] = shown.get(Holds.CODES) or shown.get(Holds.REFUSED)
    if Holds.PINS in shown:
        data["pin_file"] = shown[Holds.PINS]


def about_job(job: Job, batch: Batch) -> BatchData:
    """Return what an event tells that no command has asked for by itself."""
    said = CommandInfo(command=job.command, command_id=job.command_id, account_id=job.account_id)
    return batch_data(said, batch)


def recall_shown(job: Job) -> RecallView:
    """Return how far a recall has come."""
    return RecallView(
        action=job.action,
        first=job.first,
        last=job.last,
        done=job.done,
        already=job.already,
        refused=job.refused,
    )


def _refusal(books: Books, event: CommandRejected) -> Answer:
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
    if isinstance(command, CreateBatch):
        subject = command.called
    elif isinstance(command, OnBatch):
        subject = command.batch_id
    else:
        subject = card_id if card_id is not None else command.command_id
    return _sealed(event, EventType.COMMAND_REJECTED, subject, data, reason=event.reason)


def _card_id(books: Books, command: Command) -> str | None:
    """Return which card a command names, itself or by a transaction of its account."""
    if isinstance(command, CreateBatch | OnBatch):
        return None
    match command:
        case CaptureTransaction() | VoidTransaction() | RefundTransaction() | ExpireHold():
            named = books.named.get(command.transaction_id)
            if named is None or named.account_id != command.account_id:
                return None
            return books.ids[named.card][1]
    return command.card_id


def _said(event: Event) -> CommandInfo:
    command = event.command
    said = CommandInfo(
        command=command.command, command_id=command.command_id, account_id=command.account_id
    )
    if command.dry_run:
        said["dry_run"] = True
    return said


def _sealed(
    event: Event,
    type: EventType,
    subject: str,
    data: CardData | BatchData | RejectionData,
    *,
    version: int | None = None,
    reason: Reason | None = None,
) -> Answer:
    command = event.command
    # A dry run took no place in the card's sequence, so it must not claim one.
    return freeze(
        data,
        id=id_of(event),
        type=type,
        subject=subject,
        at=event.at,
        version=None if command.dry_run else version,
        reason=reason,
    )


def freeze(
    data: CardData | BatchData | RejectionData,
    *,
    id: UUID,
    type: EventType,
    subject: str,
    at: datetime,
    version: int | None = None,
    reason: Reason | None = None,
) -> Answer:
    """Return an event as it is stored, published, and never changed again."""
    account_id = data["account_id"]
    envelope: Envelope = {
        "specversion": "1.0",
        "id": id,
        "source": f"/card-worker/{account_id}",
        "type": type,
        "subject": subject,
        "time": at,
        "datacontenttype": "application/json",
        "partitionkey": f"{account_id}/{subject}",
        "correlationid": data["command_id"],
        "data": data,
    }
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
