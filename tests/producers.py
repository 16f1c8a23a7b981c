"""Producers for tests: registered keys, and messages that are signed with them."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine

from card_worker.contracts.envelope import call_of
from card_worker.domain.producers import ProducerKey
from card_worker.secrets.peppers import Peppers
from card_worker.secrets.signing import Algorithm, SigningKey
from card_worker.storage.engine import begin
from card_worker.storage.producers import PEPPER_PURPOSE, add_key
from card_worker.worker.messages import Message, body_of

PEPPERS_TEXT = "k1:c2lnbmluZy1wZXBwZXItb2YtdGhlLXRlc3RzLjEyMw=="
PEPPERS = Peppers.read(PEPPERS_TEXT)


def register(engine: Engine, key: SigningKey, producer: str = "shop", **rights: Any) -> None:
    """Register a key. Without rights it may send everything."""
    is_hmac = key.algorithm is Algorithm.HMAC_SHA256
    with begin(engine) as (connection, now):
        row = ProducerKey(
            key_id=key.key_id,
            producer=producer,
            algorithm=key.algorithm,
            created_at=now,
            valid_from=now - timedelta(days=1),
            public_key=None if is_hmac else key.public_key,
            pepper="k1" if is_hmac else None,
        )
        assert add_key(connection, row._replace(**rights))


def ed25519_key(key_id: str = "shop-1") -> SigningKey:
    return SigningKey.new(key_id)


def hmac_key(key_id: str = "shop-2") -> SigningKey:
    pepper = PEPPERS.key("k1", PEPPER_PURPOSE)
    assert pepper is not None
    return SigningKey.derived(key_id, pepper)


def signed(
    key: SigningKey, task: str, fields: dict[str, Any], *, age_s: float = 0
) -> dict[str, str]:
    """Return the keyword arguments of a signed message; `age_s` is how old its signature is."""
    text = json.dumps(fields)
    at = int(datetime.now(UTC).timestamp() - age_s)
    return {"signed": text, "signature": key.sign(task, text, at=at)}


def message(task: str, kwargs: dict[str, Any], id: str = "m-1") -> Message:
    """Return a message as a worker reads it from its queue. Raises Unreadable."""
    call = call_of(task, kwargs)
    return Message(
        task=task,
        id=id,
        queue="cards",
        kwargs=call.kwargs,
        body=body_of(kwargs),
        headers={"task": task, "id": id},
        signature=call.signature,
    )
