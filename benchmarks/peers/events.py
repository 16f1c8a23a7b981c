"""What every peer writes alike: the answer, a CloudEvent with the card and its transaction."""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

NEVER_SET = dict.fromkeys(["ref_id", "parent_id", "metadata", "originated_by", "created_by"])
"""What a transaction has that nothing here ever fills in."""


def digest_of(command: Mapping[str, Any]) -> str:
    """Return what tells a repeated command from another one under the same key."""
    return hashlib.sha256(json.dumps(command, sort_keys=True).encode()).hexdigest()


def activated(
    event_id: UUID,
    command_id: str,
    card: Mapping[str, Any],
    transaction: Mapping[str, Any],
    now: datetime,
) -> str:
    """Return the event that tells of an activation, as its bytes stand on the stream."""
    account_id, card_id, version = card["account_id"], card["card_id"], card["version"]
    event = {
        "specversion": "1.0",
        "id": event_id,
        "source": f"/card-worker/{account_id}",
        "type": "card.activated",
        "subject": card_id,
        "time": now,
        "datacontenttype": "application/json",
        "partitionkey": f"{account_id}/{card_id}",
        "correlationid": command_id,
        "data": {
            "command": "cards.activate",
            "command_id": command_id,
            "account_id": account_id,
            "card_id": card_id,
            "version": version,
            "card": {
                **card,
                "status": "unused",
                "amount_available": card["amount_balance"] - card["amount_reserved"],
                "tokens": [],
                "pin": None,
            },
            "transaction": {**transaction, "card_id": card_id},
        },
        "sequence": f"{version:020}",
    }
    return json.dumps(event, default=_plain, separators=(",", ":"))


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
