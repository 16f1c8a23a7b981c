"""What version 0.1.0 has written is read, continued and answered by this version."""

import json
import sqlite3
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from sqlalchemy import select

from card_worker.contracts.commands import digest_of
from card_worker.contracts.events import Envelope
from card_worker.contracts.message import UnreadableItem, read_commands
from card_worker.domain.answers import Answer, repeated
from card_worker.embedded.valkey import Valkey
from card_worker.storage.engine import open_engine, reading
from card_worker.storage.migrations import upgrade
from card_worker.storage.reconcile import differences
from card_worker.storage.tables import outbox
from tests.codes import VAULT
from tests.flow.processes import until
from tests.flow.system import STREAM, system

GOLDEN = Path(__file__).parents[1] / "golden" / "0.1.0"
LINES: list[dict[str, Any]] = [
    json.loads(line) for line in (GOLDEN / "messages.jsonl").read_text().splitlines()
]
VALID = LINES[:-1]
"""The last one lacks a field. Of such a command 0.1.0 has another digest, so that it is refused
again, for another reason."""

PEPPERS = {
    "TOKEN_PEPPERS": f"t1:{b64encode(bytes(32)).decode()}",
    "PIN_PEPPERS": f"p1:{b64encode(bytes(range(32))).decode()}",
}


@pytest.fixture
def older_url(tmp_path: Path) -> str:
    """The database of 0.1.0, upgraded."""
    file = tmp_path / "older.db"
    with sqlite3.connect(file) as connection:
        connection.executescript((GOLDEN / "database.sql").read_text())
    connection.close()
    upgrade(f"sqlite:///{file}")
    return f"sqlite:///{file}"


@pytest.mark.parametrize("line", VALID, ids=[line["task"] for line in VALID])
def test_a_command_has_the_same_key_and_content(line: dict[str, Any]) -> None:
    (command,) = read_commands(line["task"], "another", line["fields"], VAULT)
    assert not isinstance(command, UnreadableItem)
    assert (command.key, digest_of(command)) == (line["key"], line["digest"])


@pytest.mark.parametrize("line", LINES, ids=[line["task"] for line in LINES])
def test_an_event_is_one_of_this_version(line: dict[str, Any]) -> None:
    event = json.loads(line["event"])
    TypeAdapter(Envelope).validate_json(line["event"])
    about = (event["data"]["account_id"], event["type"], event["subject"], event["partitionkey"])
    answer = Answer(event["id"], *about, line["event"], event["time"])
    assert repeated(answer, event["correlationid"]).event == line["event"]


def test_the_database_agrees_with_itself_after_the_upgrade(older_url: str) -> None:
    engine = open_engine(older_url)
    with reading(engine) as connection:
        assert list(differences(connection)) == []
        stored = set(connection.scalars(select(outbox.c.event)))
    assert stored >= {line["event"] for line in LINES}
    engine.dispose()


def test_messages_that_are_sent_again_get_their_first_answers(
    older_url: str, own_broker: Valkey, tmp_path: Path
) -> None:
    with system(tmp_path, database_url=older_url, broker_url=own_broker.url) as running:
        running.sql("DELETE FROM unpublished")
        for line in LINES:
            running.push(line["entry"], line["queue"])
        running.start("worker", **PEPPERS)
        running.start("relay")
        until(lambda: running.redis.xlen(STREAM) >= len(LINES), "the answers")
        assert running.letters() == []
        published = [entry["event"] for entry in running.stream()]
    (refused,) = {*published} - {line["event"] for line in VALID}
    assert json.loads(refused)["data"]["reason"] == "idempotency_conflict"
    assert json.loads(refused)["correlationid"] == "cmd-37"
    assert len(published) == len(LINES)
