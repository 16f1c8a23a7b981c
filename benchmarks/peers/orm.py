"""One activation with the ORM: what every peer but the one with Core runs for a message."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from benchmarks.peers.events import NEVER_SET, activated, digest_of
from benchmarks.peers.models import Card, Key, Outbox, Transaction

SHOWN = [column.key for column in Card.__table__.columns if column.key not in ("state", "batch_id")]


def activate(session: Session, command: dict[str, Any]) -> None:
    """Give an inactive card its money, and commit; do nothing when that has been done before."""
    try:
        with session.begin():
            _activate(session, command)
    except IntegrityError as error:
        if "pk_idempotency_keys" not in str(error.orig):
            raise


def _activate(session: Session, command: dict[str, Any]) -> None:
    now, event_id = datetime.now(UTC), uuid4()
    account_id, amount = command["account_id"], command["amount"]
    session.add(
        Key(
            account_id=account_id,
            key=command["command_id"],
            digest=digest_of(command),
            event_id=event_id,
            created_at=now,
        )
    )
    # The session sends the key first, so that a repeat ends here.
    card = session.scalars(
        select(Card)
        .where(Card.account_id == account_id, Card.card_id == command["card_id"])
        .with_for_update()
    ).one()
    if card.state != "inactive":
        raise ValueError("the card has been activated before")
    card.state = "active"
    card.currency = command["currency"]
    card.amount = amount
    card.active_from = now
    card.version += 1
    before = card.amount_balance
    card.amount_funds += amount
    card.amount_balance += amount
    moved = {
        "id": uuid4(),
        "account_id": account_id,
        "type": "fund",
        "amount": amount,
        "currency": card.currency,
        "debit": "issuer",
        "credit": "card",
        "created_at": now,
        "balance_before": before,
        "balance_after": card.amount_balance,
        "version": card.version,
    }
    shown = {name: getattr(card, "notes" if name == "metadata" else name) for name in SHOWN}
    session.add(Transaction(card=card.id, **moved))
    session.add(
        Outbox(
            id=event_id,
            account_id=account_id,
            type="card.activated",
            subject=card.card_id,
            partition_key=f"{account_id}/{card.card_id}",
            event=activated(event_id, command["command_id"], shown, moved | NEVER_SET, now),
            created_at=now,
        )
    )
