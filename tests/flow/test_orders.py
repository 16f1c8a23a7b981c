"""Orders of cards with workers, broker, command line and files."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from card_worker.contracts.commands import CHUNK
from card_worker.secrets.peppers import new_pepper
from card_worker.secrets.sealing import new_key_pair
from tests.flow.processes import WAIT_S, Part, until
from tests.flow.system import ACCOUNT, System, envelope

BUREAU = new_key_pair()
CODES: dict[str, Any] = {
    "options": {"card_token": {}, "pin": {}},
    "seal_to": [BUREAU.recipient],
}
LOAD = {"amount": 500, "currency": "NOK"}
PEPPERS = {"TOKEN_PEPPERS": new_pepper("t1"), "PIN_PEPPERS": new_pepper("p1")}


@pytest.fixture
def identity(tmp_path: Path) -> str:
    file = tmp_path / "identity.txt"
    file.write_text(f"{BUREAU.identity}\n")
    return str(file)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return tmp_path / "files"


def worker(own: System, files: Path, *options: str, **settings: str) -> Part:
    return own.start("worker", *options, FILES_URL=str(files), **PEPPERS, **settings)


def order(own: System, count: int, **fields: Any) -> None:
    asked = {"count": count, "card_id_pattern": "B1-{n:06d}", "batch_id": "B1", **fields}
    own.send("cards.batch_create", "order", **asked)


def batch(own: System) -> dict[str, Any]:
    (told,) = own.cli_json("batch", "show", "B1", "--account", ACCOUNT)
    return dict(told)


def completes(own: System) -> None:
    until(lambda: own.events_of("batch.completed"), "the last card")


def test_an_order_produces_a_file_for_the_bureau(own: System, files: Path, identity: str) -> None:
    for number in range(2):
        worker(own, files, f"--hostname={number}@%h")
    own.start("relay")
    named = ("--account", ACCOUNT, "--count", "20000", "--pattern", "B1-{n:06d}{luhn}")
    made = ("--batch-id", "B1", "--tokens", "--pins", "--seal-to", BUREAU.recipient)
    ordered = own.cli("batch", "create", *named, *made, "--created-by", "kari", "--watch")
    assert ordered.exit_code == 0, ordered.output
    assert "batch.accepted: B1" in ordered.stdout
    assert "B1: completed, 20,000 cards" in ordered.stdout

    path = files / ACCOUNT / "B1.csv.age"
    until(path.exists, "the file")
    opened = own.cli("batch", "open", str(path), "--identity", identity)
    lines = opened.stdout.splitlines()
    assert lines[0] == "card_id,token,pin,type"
    assert len(lines) == 20_001
    card_id, token, pin, _ = lines[12_345].split(",")
    assert card_id[:-1] == "B1-012345"
    own.send("cards.activate", "on", card_id=card_id, **LOAD)
    assert own.types("on") == ["card.activated"]
    own.send("transactions.create", "pay", token=token, pin=pin, ref_id="r", **LOAD)
    assert own.types("pay") == ["card.drawn_down"]

    told = batch(own)
    assert (told["state"], told["created"], told["created_by"]) == ("completed", 20_000, "kari")
    (file,) = told["files"]
    assert (file["name"], file["bytes"]) == (f"{ACCOUNT}/B1.csv.age", path.stat().st_size)
    until(lambda: batch(own)["files"][0]["written_at"], "the note of it")
    kept = path.read_bytes()
    path.unlink()
    assert own.cli("batch", "write", "B1", "--account", ACCOUNT).exit_code == 0
    own.push(envelope("sweeps.write_files", "sweep", queue="cards.system"), "cards.system")
    until(path.exists, "the file, once more")
    assert path.read_bytes() == kept
    until(lambda: batch(own)["files"][0]["written_at"], "the note of it")
    confirmed = own.cli("batch", "confirm", "B1", "--account", ACCOUNT, "--by", "ola")
    assert confirmed.exit_code == 0
    assert "the encrypted copy in the database is deleted" in confirmed.stdout.replace("\n", " ")
    assert batch(own)["files"][0]["confirmed_at"] is not None
    until(lambda: own.events_of("batch.confirmed"), "the word of it")
    (whole,), (end,) = own.events_of("batch.completed"), own.events_of("batch.confirmed")
    assert end["correlationid"] == whole["correlationid"]
    assert (end["data"]["confirmed_by"], end["data"]["created_by"]) == ("ola", "kari")
    assert end["data"]["file"] == whole["data"]["file"]
    again = own.cli("batch", "write", "B1", "--account", ACCOUNT)
    assert (again.exit_code, "was confirmed" in again.output) == (1, True)


def test_a_refused_order_is_answered_at_once(own: System, files: Path) -> None:
    worker(own, files)
    own.start("relay")
    own.create("B1-000003")
    own.answers("B1-000003")
    named = ("--account", ACCOUNT, "--count", "5", "--batch-id", "B1")
    told = own.cli("batch", "create", *named, "--pattern", "B1-{n:06d}")
    assert told.exit_code == 1
    assert "card_exists" in told.output
    assert "B1-000003" in told.output
    told = own.cli("batch", "create", *named, "--pattern", "B1")
    assert told.exit_code == 2
    assert "card_id_pattern: must have one number" in told.output
    told = own.cli("batch", "create", *named, "--pattern", "B1-{n}", "--seal-to", "age1wrong")
    assert told.exit_code == 2
    assert "seal_to" in told.output


def test_an_order_that_is_sent_again_gets_its_first_answer(own: System, files: Path) -> None:
    worker(own, files), own.start("relay")
    named = ("batch", "create", "--account", ACCOUNT, "--pattern", "B1-{n}", "--command-id", "B1")
    made = own.cli(*named, "--count", "3", "--watch", "--json")
    assert made.exit_code == 0, made.output
    accepted, batch = map(json.loads, made.stdout.splitlines())
    assert accepted["type"] == "batch.accepted"
    assert (batch["state"], batch["created"]) == ("completed", 3)
    other = own.cli(*named, "--count", "4", "--json")
    assert other.exit_code == 1
    assert json.loads(other.stdout)["data"]["reason"] == "idempotency_conflict"
    again = own.cli(*named, "--count", "3", "--json")
    assert (again.exit_code, json.loads(again.stdout)) == (0, accepted)
    watched = own.cli(*named, "--count", "3", "--watch", "--json")
    assert list(map(json.loads, watched.stdout.splitlines())) == [accepted, batch]
    assert own.cli(*named, "--count", "4", "--json").stdout == other.stdout


def test_losing_all_of_redis_delays_an_order(own: System, files: Path) -> None:
    order(own, 60_000, **CODES)
    first = worker(own, files)
    # Some of it is made, the rest is on its way.
    until(lambda: 0 < batch_created(own) < 60_000, "the first cards")
    first.kill9()
    own.redis.flushall()
    assert batch_created(own) < 60_000
    worker(own, files)
    own.start("relay")
    own.sql("UPDATE jobs SET last_activity_at = last_activity_at - interval '1 minute'")
    own.push(envelope("sweeps.resume_batches", "sweep", queue="cards.system"), "cards.system")
    completes(own)
    assert batch(own)["created"] == own.rows()["cards"] == 60_000


def batch_created(own: System) -> int:
    with own.engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT created FROM batches").scalar()
    return int(found or 0)


def test_a_file_is_written_when_its_folder_is_available(own: System, files: Path) -> None:
    files.write_text("in the way")
    worker(own, files)
    own.start("relay")
    order(own, 10, **CODES)
    completes(own)
    until(lambda: batch(own)["files"][0]["last_error"], "a word about it")
    assert batch(own)["files"][0]["last_error"] == "NotADirectoryError: Not a directory"
    refused = own.cli("batch", "confirm", "B1", "--account", ACCOUNT)
    assert (refused.exit_code, "Not a directory" in refused.output) == (1, True)
    files.unlink()

    def is_swept() -> bool:
        own.push(envelope("sweeps.write_files", "sweep", queue="cards.system"), "cards.system")
        return (files / ACCOUNT / "B1.csv.age").exists()

    until(is_swept, "the file")
    until(lambda: batch(own)["files"][0]["last_error"] is None, "the end of its trouble")


@pytest.mark.parametrize("is_silent", [True, False], ids=["silent", "away"])
def test_no_command_waits_for_the_store_of_files(own: System, *, is_silent: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"ftp://127.0.0.1:{server.getsockname()[1]}/cards"
        if not is_silent:
            server.close()
        part = own.start("worker", FILES_URL=url, **PEPPERS)
        own.start("relay")
        order(own, 10, **CODES)
        completes(own)
        for number in range(3):
            own.push(envelope("sweeps.write_files", "sweep", queue="cards.system"), "cards.system")
            own.create(f"till-{number}")
            assert own.types(f"till-{number}") == ["card.created"]
        if not is_silent:
            part.says("file store unavailable")
        part.stop()


def test_an_order_is_approved_and_cancelled(own: System, files: Path) -> None:
    worker(own, files)
    own.start("relay")
    order(own, 3_000, needs_approval=True, created_by="kari", **CODES)
    assert own.types("order") == ["batch.awaiting_approval"]
    own.send("batches.approve", "same", batch_id="B1", created_by="kari")
    assert own.types("same") == ["invalid"]
    assert batch(own)["state"] == "awaiting_approval"
    own.send("batches.approve", "other", batch_id="B1", created_by="ola")
    completes(own)
    assert batch(own)["approved_by"] == "ola"
    own.send("cards.activate", "on", card_id="B1-000001", **LOAD)
    own.send("batches.cancel", "stop", batch_id="B1", reason="a mistake")
    until(lambda: own.events_of("batch.recalled"), "the last card")
    assert len(own.events_of("card.closed")) == 2_999
    watched = own.cli("batch", "watch", "B1", "--account", ACCOUNT)
    assert (watched.exit_code, "B1: cancelled" in watched.output) == (1, True)


def test_an_order_that_is_not_approved_lapses(own: System, files: Path) -> None:
    worker(own, files)
    own.start("relay")
    order(own, 3, needs_approval=True, created_by="kari")
    assert own.types("order") == ["batch.awaiting_approval"]
    own.sql("UPDATE batches SET created_at = created_at - interval '31 days'")
    own.push(envelope("sweeps.resume_batches", "sweep", queue="cards.system"), "cards.system")
    until(lambda: own.events_of("batch.cancelled"), "the end of the order")
    assert batch(own)["state"] == "cancelled"


def test_an_invalid_chunk_is_a_dead_letter(own: System, files: Path) -> None:
    worker(own, files)
    own.push(envelope(CHUNK, "odd", {"run": "x"}, queue="cards.bulk"), "cards.bulk")
    assert own.letter("odd").reason == "chunk_invalid"


def test_commands_are_answered_while_an_order_is_made(own: System, files: Path) -> None:
    """One worker does both; what it is asked while it makes cards doesn't wait for the last one."""
    worker(own, files)
    own.start("relay")
    order(own, 100_000, **CODES)
    until(lambda: batch_created(own), "the first cards")
    for number in range(3):
        own.create(f"till-{number}")
        own.answers(f"till-{number}")
    assert 0 < batch_created(own) < 100_000
    own.send("batches.cancel", "stop", batch_id="B1")
    assert own.types("stop") == ["batch.cancelled"]
    until(lambda: not batch_is_busy(own), "the end of it", within_s=5 * WAIT_S)
    assert own.rows()["cards"] == 3


def batch_is_busy(own: System) -> bool:
    with own.engine.connect() as connection:
        return bool(connection.exec_driver_sql("SELECT busy FROM batches").scalar())
