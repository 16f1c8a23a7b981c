"""Views: how the public sees cards, transactions, holds, batches and files."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from card_worker.contracts.enums import Status
from card_worker.contracts.views import (
    BatchCardView,
    BatchView,
    CardView,
    FileView,
    HoldView,
    PinView,
    RecallView,
    TokenView,
    TransactionView,
)
from card_worker.domain.ids import card_uuids
from card_worker.domain.rows import Batch, Card, File, Hold, Job, Pin, Token, Transaction
from card_worker.secrets.formats import PinFormat, TokenFormat

TOKEN_DEFAULTS = TokenFormat().model_dump(mode="json")
PIN_DEFAULTS = PinFormat().model_dump(mode="json")

# Two views are written as literals: to call their types takes twice as long, for each event.


def card_view(card: Card, now: datetime, tokens: Sequence[Token], pin: Pin | None) -> CardView:
    """Return the public view of a card at `now`, with its usable tokens and its PIN."""
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
        "activation": card.activation,
        "activated_by": card.activated_by,
        "activated_from": card.activated_from,
        "version": card.version,
        "amount_funds": card.amount_funds,
        "amount_drawdown": card.amount_drawdown,
        "amount_balance": card.amount_balance,
        "amount_pending": card.amount_pending,
        "amount_reserved": card.amount_reserved,
        "amount_available": card.amount_available,
        "tokens": tuple(map(token_view, tokens)),
        "pin": None if pin is None else pin_view(pin),
    }


def pin_view(pin: Pin) -> PinView:
    """Return the public view of a PIN."""
    return PinView(format=PIN_DEFAULTS | (pin.format or {}), locked_until=pin.locked_until)


def token_view(token: Token) -> TokenView:
    """Return the public view of a token."""
    return TokenView(
        id=token.id,
        ref_id=token.ref_id,
        masked_code=token.masked_code,
        format=None if token.format is None else TOKEN_DEFAULTS | token.format,
        expires_at=token.expires_at,
        expires_after_transaction=token.expires_after_transaction,
    )


def file_view(file: File) -> FileView:
    """Return the public view of a file."""
    return FileView(
        name=file.name,
        sha256=file.sha256,
        cards=file.cards,
        bytes=file.bytes,
        recipients=tuple(file.recipients),
    )


def transaction_view(transaction: Transaction, card_id: str) -> TransactionView:
    """Return the public view of a transaction."""
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
        "funding": transaction.funding,
        "metadata": transaction.metadata,
        "originated_by": transaction.originated_by,
        "created_at": transaction.created_at,
        "created_by": transaction.created_by,
        "balance_before": transaction.balance_before,
        "balance_after": transaction.balance_after,
        "version": transaction.version,
    }


def batch_view(batch: Batch, files: Sequence[File] = ()) -> BatchView:
    """Return the view of a batch and its files in the answer of a query."""
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
        files=tuple(map(file_view, files)),
        name=batch.name,
        metadata=batch.metadata,
        originated_by=batch.originated_by,
        created_at=batch.created_at,
        created_by=batch.created_by,
    )


def batch_card_views(batch: Batch, masked_codes: Mapping[UUID, str]) -> tuple[BatchCardView, ...]:
    """Return the views of the cards of a batch, as it creates them, with the masked codes of their
    tokens, by card."""
    names, types = batch.card_ids(1, batch.requested), batch.types(1, batch.requested)
    ids = (UUID(bytes=id) for id in card_uuids(batch.account_id, names))
    return tuple(
        BatchCardView(
            id=id,
            card_id=card_id,
            type=type,
            status=Status.INACTIVE,
            masked_code=masked_codes.get(id),
        )
        for id, card_id, type in zip(ids, names, types, strict=True)
    )


def hold_view(hold: Hold) -> HoldView:
    """Return the public view of a hold."""
    return HoldView(
        id=hold.id,
        amount=hold.amount,
        amount_captured=hold.captured,
        amount_released=hold.released,
        amount_open=hold.amount_open,
        expires_at=hold.expires_at,
    )


def recall_view(job: Job) -> RecallView:
    """Return the progress of a recall."""
    return RecallView(
        action=job.action,
        first=job.first,
        last=job.last,
        done=job.done,
        already=job.already,
        refused=job.refused,
    )
