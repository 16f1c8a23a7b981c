"""One activation with SQLAlchemy Core: the same rows, statement by statement."""

from datetime import UTC, datetime
from typing import Any, cast
from uuid import uuid4

from sqlalchemy import Engine, Table, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from benchmarks.peers import models
from benchmarks.peers.events import NEVER_SET, activated, digest_of

cards = cast(Table, models.Card.__table__)
transactions = cast(Table, models.Transaction.__table__)
keys = cast(Table, models.Key.__table__)
outbox = cast(Table, models.Outbox.__table__)

HIDDEN = ("state", "batch_id")


def activate(engine: Engine, command: dict[str, Any]) -> None:
    """Give an inactive card its money, and commit; do nothing when that has been done before."""
    now, event_id = datetime.now(UTC), uuid4()
    account_id, card_id = command["account_id"], command["card_id"]
    amount, currency = command["amount"], command["currency"]
    with engine.begin() as connection:
        key = upsert(keys).values(
            account_id=account_id,
            key=command["command_id"],
            digest=digest_of(command),
            event_id=event_id,
            created_at=now,
        )
        if connection.execute(key.on_conflict_do_nothing()).rowcount == 0:
            return
        found = connection.execute(
            select(cards)
            .where(cards.c.account_id == account_id, cards.c.card_id == card_id)
            .with_for_update()
        )
        card = dict(found.mappings().one())
        if card["state"] != "inactive":
            raise ValueError("the card has been activated before")
        changed = {
            "state": "active",
            "currency": currency,
            "amount": amount,
            "active_from": now,
            "version": card["version"] + 1,
            "amount_funds": card["amount_funds"] + amount,
            "amount_balance": card["amount_balance"] + amount,
        }
        connection.execute(update(cards).where(cards.c.id == card["id"]).values(changed))
        moved = {
            "id": uuid4(),
            "account_id": account_id,
            "type": "fund",
            "amount": amount,
            "currency": currency,
            "debit": "issuer",
            "credit": "card",
            "created_at": now,
            "balance_before": card["amount_balance"],
            "balance_after": changed["amount_balance"],
            "version": changed["version"],
        }
        connection.execute(insert(transactions).values(card=card["id"], **moved))
        shown = {name: value for name, value in (card | changed).items() if name not in HIDDEN}
        connection.execute(
            insert(outbox)
            .values(
                id=event_id,
                account_id=account_id,
                type="card.activated",
                subject=card_id,
                partition_key=f"{account_id}/{card_id}",
                event=activated(event_id, command["command_id"], shown, moved | NEVER_SET, now),
                created_at=now,
            )
            .inline()
        )
