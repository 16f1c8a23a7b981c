"""A producer's keys, registered in the database of a turn, and what they sign."""

import json
from typing import Any

from sqlalchemy import Engine

from card_worker.domain.producers import ProducerKey
from card_worker.secrets.peppers import Peppers
from card_worker.secrets.signing import Algorithm, SigningKey
from card_worker.storage.engine import begin, open_engine
from card_worker.storage.producers import PEPPER_PURPOSE, add_key

PEPPERS_TEXT = "k1:c2lnbmluZy1wZXBwZXItb2YtYmVuY2htYXJrcy4xMg=="
PEPPERS = Peppers.read(PEPPERS_TEXT)
HMAC = SigningKey.derived("bench-hmac", PEPPERS.newest_key(PEPPER_PURPOSE)[1])
ED25519 = SigningKey.new("bench-ed25519")


def signed(key: SigningKey, task: str, fields: dict[str, Any]) -> dict[str, str]:
    """Return the keyword arguments of a signed message."""
    text = json.dumps(fields)
    return {"signed": text, "signature": key.sign(task, text)}


def register_at(database_url: str) -> None:
    """Register both keys in a database unless they are."""
    engine = open_engine(database_url)
    register(engine)
    engine.dispose()


def register(engine: Engine) -> None:
    """Register both keys unless they are. They may send everything."""
    with begin(engine) as (connection, now):
        for key in (HMAC, ED25519):
            is_hmac = key.algorithm is Algorithm.HMAC_SHA256
            public_key, pepper = (None, "k1") if is_hmac else (key.public_key, None)
            row = ProducerKey(key.key_id, "bench", key.algorithm, now, now, public_key, pepper)
            add_key(connection, row)
