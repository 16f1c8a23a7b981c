"""Tokens and PINs as shops, bureaus and operators use them."""

import json
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from card_worker.secrets.formats import FOUR_DIGITS
from card_worker.secrets.peppers import new_pepper
from card_worker.secrets.sealing import new_key_pair
from tests.flow.processes import WAIT_S, until
from tests.flow.system import ACCOUNT, System

BUREAU = new_key_pair()
SEAL_TO = {"seal_to": [BUREAU.recipient]}
MAKES: dict[str, Any] = {"card_token": {}, "pin": {}}
LOAD = {"amount": 500, "currency": "NOK"}
PAYMENT = {"amount": 1, "currency": "NOK"}
Row = dict[str, str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("codes")


@pytest.fixture(scope="module")
def identity(folder: Path) -> str:
    file = folder / "identity.txt"
    file.write_text(f"# of a bureau\n{BUREAU.identity}\n")
    return str(file)


@pytest.fixture(scope="module")
def running(shared: System, folder: Path) -> System:
    """Two workers with peppers, whose files go where a file is in the way at first."""
    (folder / "files").write_text("in the way")
    peppers = folder / "peppers"
    peppers.write_text(f"# the first\n{new_pepper('k1')}\n")
    for number in range(2):
        shared.start(
            "worker",
            f"--hostname={number}@%h",
            TOKEN_PEPPERS_FILE=str(peppers),
            PIN_PEPPERS="k1:" + "cGlu" * 12,
            FILES_URL=str(folder / "files"),
            RESULT_BACKEND_URL=shared.broker_url,
            GROUP_MAX="3",
        )
    shared.start("relay")
    return shared


@pytest.fixture(scope="module")
def printed(running: System, folder: Path, identity: str) -> list[Row]:
    """A batch whose file could not be written at first; what its bureau reads in it."""
    cards = [{"card_id": f"printed-{number}"} for number in range(10)]
    running.send("cards.batch_create", "order", cards=cards, options=MAKES, **SEAL_TO)
    running.answers("order")
    (told,) = running.cli_json("batch", "show", "order", "--account", ACCOUNT)
    assert (told["created"], told["files"][0]["written_at"]) == (10, None)
    too_early = running.cli("batch", "confirm", "order", "--account", ACCOUNT)
    assert (too_early.exit_code, "hasn't been written" in too_early.stderr) == (1, True)
    until(lambda: last_error_of(running, "order"), "the note of it")
    (folder / "files").unlink()
    file = folder / "files" / ACCOUNT / "order.csv.age"

    def is_written() -> bool:
        # A sweep finds no file whose next try is still to come, so one sweep may be too early.
        running.client.publish("sweeps.write_files", {})
        return file.exists()

    until(is_written, "the file", every_s=1.0)
    return opened(running, folder, identity)


def last_error_of(system: System, batch_id: str) -> str | None:
    """Return why the file of a batch couldn't be put in its place when that was tried last."""
    (told,) = system.cli_json("batch", "show", batch_id, "--account", ACCOUNT)
    return str(told["files"][0]["last_error"] or "") or None


def opened(system: System, folder: Path, identity: str) -> list[Row]:
    file = str(folder / "files" / ACCOUNT / "order.csv.age")
    done = system.cli("batch", "open", file, "--identity", identity)
    assert done.exit_code == 0, done.output
    header, *lines = done.stdout.splitlines()
    return [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]


def pay(system: System, ref_id: str, row: Row, **fields: Any) -> None:
    asked = {"token": row["token"], "pin": row["pin"], "ref_id": ref_id, **PAYMENT, **fields}
    system.send("transactions.create", ref_id, **asked)


def activate(system: System, row: Row) -> None:
    system.send("cards.activate", f"on-{row['card_id']}", card_id=row["card_id"], **LOAD)
    assert system.types(f"on-{row['card_id']}") == ["card.activated"]


def statuses_when_locked(system: System, row: Row) -> list[str]:
    """Return what a card showed each time that its PIN was locked."""
    events = system.events_of("card.pin_locked")
    shown = [one["data"]["card"] for one in events if one["subject"] == row["card_id"]]
    assert all(card["pin"]["locked_until"] for card in shown)
    return [card["status"] for card in shown]


def test_a_payment_with_a_token_from_the_file(running: System, printed: list[Row]) -> None:
    first = printed[0]
    activate(running, first)
    pay(running, "paid", first)
    pay(running, "short", first, amount=10_000)
    assert running.types("paid", "short") == ["card.drawn_down", "exceeds_available"]
    (seen,) = running.cli_json("card", "show", first["card_id"], "--account", ACCOUNT)
    four_digits = FOUR_DIGITS.model_dump(mode="json")
    assert (seen["amount_balance"], seen["pin"]) == (
        499,
        {"format": four_digits, "locked_until": None},
    )
    assert [token["masked_code"][-4:] for token in seen["tokens"]] == [first["token"][-4:]]


def test_a_file_is_written_again_byte_for_byte_until_it_is_confirmed(
    running: System, printed: list[Row], folder: Path, identity: str
) -> None:
    file = folder / "files" / ACCOUNT / "order.csv.age"
    before = file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.unlink()
    named = ("order", "--account", ACCOUNT)
    assert running.cli("batch", "write", *named).exit_code == 0
    running.client.publish("sweeps.write_files", {})
    until(file.exists, "the file")
    assert file.read_bytes() == before
    assert opened(running, folder, identity) == printed

    def is_confirmed() -> bool:
        return running.cli("batch", "confirm", *named).exit_code == 0

    until(is_confirmed, "that it is noted as written")
    (told,) = running.cli_json("batch", "show", *named)
    assert told["files"][0]["confirmed_at"] is not None
    for command in ("write", "confirm"):
        again = running.cli("batch", command, *named)
        assert again.exit_code == 1
        assert "was confirmed" in again.stderr
    assert running.cli("batch", "write", "none", "--account", ACCOUNT).exit_code == 1
    assert running.cli("batch", "show", "none", "--account", ACCOUNT).exit_code == 1


def test_only_the_recipient_can_open_a_file(
    running: System, printed: list[Row], folder: Path
) -> None:
    file = str(folder / "files" / ACCOUNT / "order.csv.age")
    other, broken = folder / "other.txt", folder / "broken.txt"
    other.write_text(new_key_pair().identity)
    broken.write_text("AGE-SECRET-KEY-1NO")
    for key in (other, broken):
        done = running.cli("batch", "open", file, "--identity", str(key))
        assert (done.exit_code, done.stdout) == (1, "")
    assert len(printed) == 10


def test_barcodes_are_drawn_as_images_or_on_a_sheet(
    running: System, printed: list[Row], folder: Path, identity: str
) -> None:
    file = str(folder / "files" / ACCOUNT / "order.csv.age")
    sheet, images, lines = folder / "sheet.pdf", folder / "images", folder / "lines.csv"
    options = ["--sheet", str(sheet), "--images", str(images), "--output", str(lines)]
    done = running.cli("batch", "open", file, "-i", identity, *options, "--symbol", "qr")
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    assert sheet.read_bytes().startswith(b"%PDF")
    assert len(list(images.glob("*.svg"))) == len(printed)
    assert len(lines.read_text().splitlines()) == 11
    assert {stat.S_IMODE(one.stat().st_mode) for one in (sheet, lines)} == {0o600}
    again = running.cli("batch", "open", file, "-i", identity, "--output", str(lines))
    assert again.exit_code == 1
    alone, half = folder / "alone.csv", folder / "half.age"
    assert running.cli("batch", "open", file, "-i", identity, "-o", str(alone)).exit_code == 0
    assert alone.read_bytes() == lines.read_bytes()
    assert stat.S_IMODE(alone.stat().st_mode) == 0o600
    half.write_bytes(Path(file).read_bytes()[:-1])
    alone.unlink()
    broken = running.cli("batch", "open", str(half), "-i", identity, "-o", str(alone))
    assert (broken.exit_code, str(half) in broken.stderr, alone.exists()) == (1, True, False)
    in_the_way = running.cli("batch", "open", file, "-i", identity, "--images", str(lines))
    assert in_the_way.exit_code == 2


def test_of_64_concurrent_wrong_pins_five_are_compared(running: System, printed: list[Row]) -> None:
    row = printed[1]
    activate(running, row)
    for number in range(64):
        pay(running, f"guess-{number}", row, pin="x")
    said = Counter(running.types(*(f"guess-{number}" for number in range(64))))
    assert said == {"card_not_usable": 64}
    counted = "SELECT count(*) FROM pin_attempts WHERE outcome = 'wrong'"
    with running.engine.connect() as connection:
        assert connection.exec_driver_sql(counted).scalar_one() == 5
    until(lambda: statuses_when_locked(running, row), "the lock")
    assert statuses_when_locked(running, row) == ["unused"]
    pay(running, "too-late", row)
    assert running.types("too-late") == ["card_not_usable"]
    running.send("cards.unblock", "found", card_id=row["card_id"], reason="it was me")
    assert running.types("found") == ["card.unblocked"]
    pay(running, "at-last", row)
    assert running.types("at-last") == ["card.drawn_down"]


def test_a_holder_queries_a_card_with_token_and_pin(
    running: System, printed: list[Row], plain_celery_client: Celery
) -> None:
    row = printed[2]
    activate(running, row)

    def run_query(task: str, **fields: Any) -> Any:
        asked = {"account_id": ACCOUNT, "token": row["token"], **fields}
        sent = plain_celery_client.send_task(task, queue="cards", kwargs=asked, ignore_result=False)
        seen = sent.get(timeout=WAIT_S)
        sent.forget()
        return seen

    assert run_query("cards.get", pin=row["pin"])["card"]["card_id"] == row["card_id"]
    (loaded,) = run_query("transactions.list", pin=row["pin"])["transactions"]
    assert loaded["amount"] == 500
    assert run_query("cards.get")["reason"] == "pin_required"
    assert run_query("cards.get", token="none")["reason"] == "card_not_usable"
    for _ in range(5):
        assert run_query("cards.get", pin="wrong")["reason"] == "card_not_usable"
    until(lambda: statuses_when_locked(running, row), "the lock")
    assert run_query("cards.get", pin=row["pin"])["reason"] == "card_not_usable"
    assert run_query("cards.get", pin=5)["problems"][0]["field"] == "pin"


def test_the_command_line_opens_the_secrets_of_an_answer(
    running: System, folder: Path, identity: str
) -> None:
    running.send("cards.create", "alone", card_id="alone", **LOAD, **MAKES, **SEAL_TO)
    sealed = running.answers("alone")["alone"]["data"]["sealed"]
    file = folder / "sealed.txt"
    file.write_text(sealed)
    (told,) = running.cli_json("codes", "open", str(file), "--identity", identity)
    assert set(told) == {"account_id", "card_id", "token", "pin"}
    done = running.cli("codes", "open", str(file), "--identity", identity)
    assert f"alone,{told['token']},{told['pin']}," in done.stdout
    pay(running, "paid-alone", told)
    assert running.types("paid-alone") == ["card.drawn_down"]


def test_the_recipients_of_the_account_are_the_default_of_seal_to(running: System) -> None:
    running.send("cards.create", "unsealed", card_id="unsealed", **LOAD, **MAKES)
    refused = running.answers("unsealed")["unsealed"]["data"]
    assert [problem["field"] for problem in refused["problems"]] == ["seal_to"]
    for wrong in ("age1none", f"{BUREAU.recipient},{BUREAU.recipient}"):
        done = running.cli("account", "set", ACCOUNT, "--recipients", wrong)
        assert done.exit_code == 2
        assert "--recipients: " in done.stderr
    done = running.cli("account", "set", ACCOUNT, "--recipients", BUREAU.recipient)
    assert done.exit_code == 0
    running.send("cards.create", "sealed", card_id="sealed", **LOAD, **MAKES)
    assert "sealed" in running.answers("sealed")["sealed"]["data"]
    assert running.cli("account", "set", ACCOUNT, "--recipients", "none").exit_code == 0
    (told,) = running.cli_json("account", "show", ACCOUNT)
    assert told["recipients"] is None


def test_only_the_owner_can_read_new_keys(running: System, folder: Path) -> None:
    file = folder / "new-identity.txt"
    made = running.cli("codes", "new-identity", str(file))
    assert made.stdout.startswith("age1")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert running.cli("codes", "new-identity", str(file)).exit_code == 1
    pepper = running.cli("codes", "new-pepper", "k2").stdout.strip()
    assert pepper.startswith("k2:")
    assert running.cli("codes", "new-pepper", "a b").exit_code == 2
    assert pepper != running.cli("codes", "new-pepper", "k2").stdout.strip()


def test_the_books_add_up(running: System) -> None:
    done = running.cli("reconcile")
    assert done.exit_code == 0, done.output
    assert json.dumps(running.events()).count("DINCARD:****") > 0
