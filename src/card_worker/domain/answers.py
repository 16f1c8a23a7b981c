"""The answer to a command: its event in the public language, frozen to bytes."""

from datetime import datetime
from typing import NamedTuple, assert_never
from uuid import UUID

from card_worker.contracts.commands import CreateBatch
from card_worker.contracts.events import (
    BatchCardShown,
    BatchData,
    CardData,
    CardShown,
    Envelope,
    RejectionData,
    Said,
    TransactionShown,
    write,
)
from card_worker.contracts.kinds import MESSAGES, EventType, Reason
from card_worker.domain.books import Books, Card, Transaction
from card_worker.domain.events import (
    BatchCompleted,
    CardActivated,
    CardCreated,
    CardExpired,
    CommandRejected,
    Event,
    id_of,
)
from card_worker.domain.rules import batch_id

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


def answer(books: Books, event: Event, transaction: Transaction | None) -> Answer:
    """Return the answer that tells of `event`, after which the books are as they are."""
    match event:
        case CardCreated():
            return _about_card(EventType.CARD_CREATED, books, event, transaction)
        case CardActivated():
            return _about_card(EventType.CARD_ACTIVATED, books, event, transaction)
        case CardExpired():
            return _about_card(EventType.CARD_EXPIRED, books, event, transaction)
        case BatchCompleted():
            return _about_batch(books, event)
        case CommandRejected():
            return _refusal(event)
    assert_never(event)


def shown(card: Card, now: datetime) -> CardShown:
    """Return the card as the public sees it at `now`."""
    return CardShown(
        account_id=card.account_id,
        card_id=card.card_id,
        id=card.id,
        type=card.type,
        currency=card.currency,
        amount=card.amount,
        customer_id=card.customer_id,
        name=card.name,
        originated_by=card.originated_by,
        metadata=card.metadata,
        active_from=card.active_from,
        expires_at=card.expires_at,
        status=card.status(now),
        created_at=card.created_at,
        created_by=card.created_by,
        version=card.version,
        amount_funds=card.amount_funds,
        amount_drawdown=card.amount_drawdown,
        amount_balance=card.amount_balance,
        amount_pending=card.amount_pending,
        amount_reserved=card.amount_reserved,
        amount_available=card.amount_available,
        tokens=(),
        pin=None,
    )


def shown_transaction(transaction: Transaction, card_id: str) -> TransactionShown:
    """Return the transaction as the public sees it."""
    return TransactionShown(
        id=transaction.id,
        account_id=transaction.account_id,
        card_id=card_id,
        type=transaction.type,
        amount=transaction.amount,
        currency=transaction.currency,
        debit=transaction.debit,
        credit=transaction.credit,
        ref_id=transaction.ref_id,
        parent_id=transaction.parent_id,
        metadata=transaction.metadata,
        originated_by=transaction.originated_by,
        created_at=transaction.created_at,
        created_by=transaction.created_by,
        balance_before=transaction.balance_before,
        balance_after=transaction.balance_after,
        version=transaction.version,
    )


def _about_card(
    type: EventType,
    books: Books,
    event: CardCreated | CardActivated | CardExpired,
    transaction: Transaction | None,
) -> Answer:
    card = books.cards[event.command.account_id, event.command.card_id]
    data = CardData(
        **_said(event),
        card_id=card.card_id,
        version=card.version,
        card=shown(card, event.at),
        transaction=shown_transaction(transaction, card.card_id) if transaction else None,
    )
    return _sealed(event, type, card.card_id, data, version=card.version)


def _about_batch(books: Books, event: BatchCompleted) -> Answer:
    command = event.command
    batch = books.batches[command.account_id, batch_id(command)]
    data = BatchData(
        **_said(event),
        batch_id=batch.batch_id,
        state=batch.state,
        requested=batch.requested,
        created=batch.created,
        name=batch.name,
        metadata=batch.metadata,
        cards=tuple(
            BatchCardShown(card_id=card.card_id, type=card.type or batch.type)
            for card in command.cards
        ),
        file=None,
    )
    return _sealed(event, EventType.BATCH_COMPLETED, batch.batch_id, data)


def _refusal(event: CommandRejected) -> Answer:
    command = event.command
    card_id = None if isinstance(command, CreateBatch) else command.card_id
    data = RejectionData(
        command=command.command,
        command_id=command.command_id,
        account_id=command.account_id,
        reason=event.reason,
        message=MESSAGES[event.reason],
    )
    if command.dry_run:
        data["dry_run"] = True
    if card_id is not None:
        data["card_id"] = card_id
    if event.problems:
        data["problems"] = event.problems
    if isinstance(command, CreateBatch):
        subject = batch_id(command)
    else:
        subject = card_id if card_id is not None else command.command_id
    return _sealed(event, EventType.COMMAND_REJECTED, subject, data, reason=event.reason)


def _said(event: Event) -> Said:
    command = event.command
    said = Said(
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
    envelope = Envelope(
        specversion="1.0",
        id=id_of(event),
        source=f"/card-worker/{command.account_id}",
        type=type,
        subject=subject,
        time=event.at,
        datacontenttype="application/json",
        partitionkey=f"{command.account_id}/{subject}",
        correlationid=command.command_id,
        data=data,
    )
    # A dry run took no place in the card's sequence, so it must not claim one.
    if version is not None and not command.dry_run:
        envelope["sequence"] = f"{version:0{SEQUENCE_DIGITS}}"
    return Answer(
        id=envelope["id"],
        account_id=command.account_id,
        type=type,
        subject=subject,
        partition_key=envelope["partitionkey"],
        event=write(envelope),
        created_at=event.at,
        reason=reason,
    )
