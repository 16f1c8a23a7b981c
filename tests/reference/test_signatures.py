"""The test vectors of signatures are what this project signs, and what a worker accepts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from card_worker.contracts.dead_letters import Unreadable
from card_worker.contracts.envelope import call_of
from card_worker.reference.signatures import KEYS, PEPPERS
from card_worker.secrets.signing import SigningKey, base_of
from card_worker.storage.engine import open_engine
from card_worker.worker.retries import Retries
from card_worker.worker.senders import Senders
from tests.producers import register

DOCUMENT = json.loads(
    (Path(__file__).parents[2] / "docs" / "reference" / "signatures.json").read_text("utf-8")
)


@pytest.fixture
def senders(sqlite_url: str) -> Iterator[Senders]:
    """The registry of a worker that knows both keys."""
    engine: Engine = open_engine(sqlite_url)
    for key in KEYS:
        register(engine, key, key.key_id)
    yield Senders(engine, Retries(lambda: False), PEPPERS, is_required=False)
    engine.dispose()


def sender_of(senders: Senders, row: dict[str, Any]) -> str:
    """Return the key of the message's sender, or the reason of its dead letter."""
    try:
        call = call_of(row["task"], {"signed": row["signed"], "signature": row["signature"]})
        sender, _ = senders.authenticate(call.signature)
    except Unreadable as problem:
        return problem.reason
    assert sender is not None
    return sender.key.key_id


def test_right_signatures_are_those_of_their_keys(senders: Senders) -> None:
    keys = {each["key_id"]: SigningKey(each["key_id"], each["secret"]) for each in DOCUMENT["keys"]}
    for row in DOCUMENT["right"]:
        task, key_id, at, signed = (row[name] for name in ("task", "key_id", "time", "signed"))
        assert base_of(task, key_id, at, signed).hex() == row["base_hex"]
        assert keys[key_id].sign(task, signed, at=at) == row["signature"]
        assert sender_of(senders, row) == key_id
    assert {row["key_id"] for row in DOCUMENT["right"]} == set(keys)


def test_wrong_signatures_are_not_accepted(senders: Senders) -> None:
    found = {(row["name"], row["signature"]): sender_of(senders, row) for row in DOCUMENT["wrong"]}
    assert found == {(row["name"], row["signature"]): row["reason"] for row in DOCUMENT["wrong"]}
    assert len(found) == len(DOCUMENT["wrong"])
