"""What each event does to the books. It may not say no: the rules have had their say."""

from typing import assert_never
from uuid import NAMESPACE_OID, UUID, uuid5

from card_worker.contracts.commands import ActivateCard, CreateCard
from card_worker.contracts.kinds import BatchState, Side, TransactionType
from card_worker.domain.books import Batch, Books, Card, State, Transaction
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


def evolve(books: Books, event: Event) -> Transaction | None:
    """Bring the books to after `event`; return the transaction it posted, if it moved money."""
    match event:
        case CardCreated():
            return _create(books, event)
        case CardActivated():
            return _activate(books, event)
        case CardExpired():
            card = books.cards[event.command.account_id, event.command.card_id]
            books.put(card._replace(state=State.EXPIRED, version=card.version + 1))
            return None
        case BatchCompleted():
            _complete_batch(books, event)
            return None
        case CommandRejected():
            return None
    assert_never(event)


def card_uuid(account_id: str, card_id: str) -> UUID:
    """Return the service's id of a card: a card_id is never used twice, so neither is this."""
    return uuid5(NAMESPACE_OID, f"{account_id}/{card_id}")


def _create(books: Books, event: CardCreated) -> Transaction | None:
    command = event.command
    blank = Card(
        id=card_uuid(command.account_id, command.card_id),
        account_id=command.account_id,
        card_id=command.card_id,
        type=command.type,
        state=State.ACTIVE,
        created_at=event.at,
        created_by=command.created_by,
        originated_by=command.originated_by,
    )
    return _load(books, blank, event, version=1)


def _activate(books: Books, event: CardActivated) -> Transaction | None:
    card = books.cards[event.command.account_id, event.command.card_id]
    return _load(books, card, event, version=card.version + 1)


def _load(
    books: Books, card: Card, event: CardCreated | CardActivated, *, version: int
) -> Transaction | None:
    """Make a card active: give it its currency, dates and owner, and its first money."""
    command: CreateCard | ActivateCard = event.command
    card = card._replace(
        state=State.ACTIVE,
        version=version,
        currency=command.currency,
        amount=command.amount,
        customer_id=command.customer_id,
        name=command.name if command.name is not None else card.name,
        metadata=command.metadata if command.metadata is not None else card.metadata,
        active_from=command.active_from if command.active_from is not None else event.at,
        expires_at=command.expires_at,
    )
    books.put(card)
    if command.amount == 0:
        return None
    return books.post(
        card,
        type=TransactionType.FUND,
        amount=command.amount,
        debit=Side.ISSUER,
        credit=Side.CARD,
        cause=id_of(event),
        at=event.at,
        created_by=command.created_by,
        originated_by=command.originated_by,
    )


def _complete_batch(books: Books, event: BatchCompleted) -> None:
    command = event.command
    batch = Batch(
        account_id=command.account_id,
        batch_id=batch_id(command),
        state=BatchState.COMPLETED,
        type=command.type,
        requested=len(command.cards),
        created=len(command.cards),
        created_at=event.at,
        created_by=command.created_by,
        originated_by=command.originated_by,
        name=command.name,
        metadata=command.metadata,
    )
    books.add(batch)
    for asked in command.cards:
        books.put(
            Card(
                id=card_uuid(command.account_id, asked.card_id),
                account_id=command.account_id,
                card_id=asked.card_id,
                type=asked.type if asked.type is not None else command.type,
                state=State.INACTIVE,
                batch_id=batch.batch_id,
                created_at=event.at,
                created_by=command.created_by,
                originated_by=command.originated_by,
            )
        )
