"""The main path with real processes: PostgreSQL, Valkey, a worker and a relay."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from card_worker.client import Client
from card_worker.contracts.batches import BatchCard, CreateBatch
from card_worker.contracts.cards import ActivateCard
from card_worker.embedded.valkey import valkey
from card_worker.money import Currency
from card_worker.storage import dead_letters
from card_worker.storage.engine import open_engine, reading
from card_worker.storage.migrations import upgrade
from card_worker.storage.reconcile import differences
from tests import servers

ACCOUNT = "T00000001"
ANSWER_S = 60.0


@dataclass
class Stack:
    """A running worker and relay, and where they are."""

    broker_url: str
    database_url: str
    logs: Path

    def answers(self, *command_ids: str, after: str = "0-0") -> dict[str, dict[str, Any]]:
        with Client(self.broker_url) as client:
            found = client.answers(command_ids, account_id=ACCOUNT, after=after, timeout_s=ANSWER_S)
        assert found.keys() == set(command_ids), self.tails()
        return found

    def letters(self) -> list[dead_letters.DeadLetter]:
        engine = open_engine(self.database_url)
        try:
            with reading(engine) as connection:
                return dead_letters.list_letters(connection, resolved=False, letters_max=100)
        finally:
            engine.dispose()

    def tails(self) -> str:
        return "\n".join(log.read_text()[-3000:] for log in self.logs.glob("*.log"))


def _start(command: list[str], env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        assert process.wait(60) == 0
    finally:
        process.kill()


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: servers.Server
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with ExitStack() as running:
        database_url = running.enter_context(servers.database(postgres_server))
        upgrade(database_url)
        broker_url = running.enter_context(valkey(folder / "broker")).url
        ours = {"CARD_WORKER_DATABASE_URL": database_url, "CARD_WORKER_BROKER_URL": broker_url}
        clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        clean["TMPDIR"] = str(folder)
        for name, command in {
            "worker": ["celery", "-A", "card_worker", "worker", "--loglevel=INFO"],
            "relay": ["card_worker.cli", "relay"],
        }.items():
            process = _start(command, clean | ours, folder / f"{name}.log")
            running.callback(_stop, process)
        yield Stack(broker_url, database_url, folder)


BARE = """
import sys
from celery import Celery
celery = Celery(broker=sys.argv[1])
celery.send_task("cards.batch_create", queue="cards.bulk", task_id="bare-batch",
                 kwargs={"account_id": "T00000001", "cards": [{"card_id": "bare-1"}]})
celery.send_task("cards.activate", queue="cards", kwargs={"account_id": "T00000001",
                 "card_id": "bare-2", "amount": 5, "currency": "NOK",
                 "command_id": "bare-activate"})
assert not [name for name in sys.modules if name.startswith("card_worker")]
"""


def test_a_program_that_knows_only_celery_is_answered(stack: Stack) -> None:
    subprocess.run([sys.executable, "-c", BARE, stack.broker_url], check=True, timeout=60)
    answers = stack.answers("bare-batch", "bare-activate")
    assert answers["bare-batch"]["type"] == "batch.completed"
    assert answers["bare-activate"]["data"]["reason"] == "card_not_found"


def test_json_written_by_hand_onto_the_list_is_answered(stack: Stack) -> None:
    fields = {"account_id": ACCOUNT, "card_id": "hand-1", "amount": 7500, "currency": "SEK"}
    body = json.dumps([[], {**fields, "command_id": "hand"}, {}])
    message = {
        "body": base64.b64encode(body.encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "cards.create", "id": "hand-message"},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": "1",
            "delivery_info": {"exchange": "", "routing_key": "cards"},
        },
    }
    with Redis.from_url(stack.broker_url, decode_responses=True) as redis:
        redis.lpush("cards", json.dumps(message))
        answer = stack.answers("hand")["hand"]
        entries: Any = redis.xrange("card-events")
    assert answer["type"] == "card.created"
    assert answer["data"]["card"]["amount_available"] == 7500
    (entry,) = [one for _, one in entries if one["subject"] == "hand-1"]
    assert {name: entry[name] for name in ("id", "type", "account_id")} == {
        "id": answer["id"],
        "type": "card.created",
        "account_id": ACCOUNT,
    }


def test_a_long_list_goes_out_in_slices_and_every_command_is_answered(stack: Stack) -> None:
    names = [f"long-{number}" for number in range(1500)]
    batches = [
        CreateBatch(
            account_id=ACCOUNT,
            command_id=f"long-batch-{start}",
            cards=tuple(BatchCard(card_id=name) for name in names[start : start + 1000]),
        )
        for start in (0, 1000)
    ]
    activations = [
        ActivateCard(
            account_id=ACCOUNT, command_id=name, card_id=name, amount=100, currency=Currency.NOK
        )
        for name in names
    ]
    with Client(stack.broker_url) as client:
        for batch in batches:
            client.send(batch)
        stack.answers("long-batch-0", "long-batch-1000")
        assert client.send_list(activations) == 2
    answers = stack.answers(*names)
    assert {answer["type"] for answer in answers.values()} == {"card.activated"}
    engine = open_engine(stack.database_url)
    with reading(engine) as connection:
        assert list(differences(connection)) == []
    engine.dispose()


def test_an_unreadable_message_is_stored_and_others_are_answered(stack: Stack) -> None:
    from celery import Celery  # noqa: PLC0415  # a producer's, not ours

    fields = {"account_id": ACCOUNT, "card_id": "none", "amount": 5, "currency": "NOK"}
    with Celery(broker=stack.broker_url, set_as_current=False) as celery:
        celery.send_task("nobody.knows", queue="cards", task_id="odd-1")
        celery.send_task("cards.activate", queue="cards", task_id="odd-2", kwargs={"card_id": "x"})
        celery.send_task(
            "cards.activate", queue="cards", task_id="odd-3", kwargs=fields, countdown=3600
        )
        celery.send_task("cards.activate", queue="cards", task_id="odd-4", kwargs=fields)
        celery.send_task(
            "commands.apply",
            queue="cards.bulk",
            task_id="odd-5",
            kwargs={
                "commands": ["?", {"command": "cards.activate", "command_id": "odd-6", **fields}]
            },
        )
    answers = stack.answers("odd-3", "odd-4", "odd-6")
    assert answers["odd-3"]["data"]["problems"][0]["field"] == "headers.eta"
    kept = {letter.message_id: letter for letter in stack.letters()}
    assert {id: letter.reason for id, letter in kept.items() if id} == {
        "odd-1": "task_unknown",
        "odd-2": "account_id_invalid",
        "odd-5:bad": "items_unreadable",
    }
