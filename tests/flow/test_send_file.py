"""`card-worker send-file`: each line is one command, whatever happens on the way."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flow.processes import until
from tests.flow.system import ACCOUNT, System

CARDS = 1_200
HEADER = "card_id,amount,currency,name"


@pytest.fixture(scope="module")
def running(shared: System) -> System:
    shared.start("worker")
    shared.start("relay")
    for batch in range(2):
        names = [{"card_id": f"c{batch}-{number}"} for number in range(CARDS // 2)]
        shared.send("cards.batch_create", f"b{batch}", cards=names)
    shared.answers("b0", "b1")
    return shared


def lines_of(batch: int) -> list[str]:
    return [f"c{batch}-{number},500,NOK,5" for number in range(CARDS // 2)]


def activated(system: System) -> list[str]:
    return [event["subject"] for event in system.events_of("card.activated")]


def test_each_line_is_a_command_and_bad_ones_are_told(running: System, tmp_path: Path) -> None:
    file = tmp_path / "sales.csv"
    lines = lines_of(0)
    lines[3:3] = ["c0-x,5.5,NOK,", ",500,NOK,", "c0-x,500,GBP,", "a,500,NOK,x,more"]
    lines.insert(1, "")
    file.write_text("\ufeff" + "\n".join([HEADER, *lines]) + "\n", "utf-8")
    done = running.cli("send-file", str(file), "--account", ACCOUNT)
    assert done.exit_code == 1
    assert f"{CARDS // 2} commands sent; 4 lines could not be." in done.stdout
    said = [line for line in done.stderr.splitlines() if line.startswith("line ")]
    assert [line.partition(":")[0] for line in said] == [f"line {n}" for n in (6, 7, 8, 9)]
    assert "amount" in said[0]
    assert "card_id" in said[1]
    assert "currency" in said[2]
    assert "5 cells" in said[3]
    until(lambda: len(activated(running)) == CARDS // 2, "the cards")
    (event, *_) = running.events_of("card.activated")
    assert event["data"]["card"]["name"] == "5"  # text where the field is text
    # Once more: all of it has been sent.
    stream = len(running.stream())
    done = running.cli("send-file", str(file), "--account", ACCOUNT, "--json")
    assert json.loads(done.stdout) == {"lines": CARDS // 2 + 6, "sent": CARDS // 2, "bad": 4}
    done = running.cli("send-file", str(file), "--account", ACCOUNT, "--again")
    assert done.exit_code == 1
    running.catches_up("cards.bulk")
    assert len(running.stream()) == stream + 1  # the fence


def test_json_lines_say_all_that_a_command_can(running: System, tmp_path: Path) -> None:
    file = tmp_path / "sales.jsonl"
    asked = [
        {"account_id": ACCOUNT, "card_id": f"c1-{n}", "amount": 500, "currency": "NOK"}
        for n in range(CARDS // 2)
    ]
    asked[0] |= {"metadata": {"a": [1]}, "command_id": "mine"}
    texts = [json.dumps(one) for one in asked]
    texts += ["[1]", '{"amount": NaN}', "{", '{"account_id": "T00000001", "pin": "secret"}']
    file.write_text("\n".join(texts))
    done = running.cli("send-file", str(file))
    assert done.exit_code == 1
    assert f"{CARDS // 2} commands sent; 4 lines" in done.stdout
    assert "secret" not in done.output
    assert running.types("mine") == ["card.activated"]
    until(lambda: len(set(activated(running))) == CARDS, "the cards")


def test_killed_it_goes_on_where_it_was(running: System, tmp_path: Path) -> None:
    file = tmp_path / "many.csv"
    wanted = 30_000
    rows = (f'nobody-{n},1,NOK,"two\nlines"' for n in range(wanted))
    file.write_text("\n".join([HEADER, *rows]))
    note = tmp_path / "many.csv.sent"
    command = [sys.executable, "-m", "card_worker.cli", "send-file", str(file), "-a", ACCOUNT]
    kills = 0
    while True:
        with subprocess.Popen(
            command,
            env=running.parts.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as program:
            before = note.read_text() if note.exists() else ""
            until(
                lambda was=before: (
                    program.poll() is not None  # type: ignore[misc]
                    or (note.exists() and note.read_text() != was)
                ),
                "a step",
            )
            if kills == 3 or program.poll() is not None:
                assert program.wait() == 0
                break
            program.send_signal(signal.SIGKILL)
            kills += 1
    assert kills == 3
    assert json.loads(note.read_text())["sent"] == wanted
    counted = "SELECT count(*) FROM outbox WHERE subject LIKE 'nobody-%%'"

    def answered() -> bool:
        with running.engine.connect() as connection:
            return bool(connection.exec_driver_sql(counted).scalar_one() == wanted)

    until(answered, "an answer to each line")
    running.catches_up("cards.bulk")
    assert answered()


def test_a_file_that_has_become_another_is_not_gone_on_with(
    running: System, tmp_path: Path
) -> None:
    file = tmp_path / "changing.csv"
    file.write_text(f"{HEADER}\nnone-1,1,NOK,\n")
    assert running.cli("send-file", str(file), "-a", ACCOUNT).exit_code == 0
    file.write_text(f"{HEADER}\nnone-1,1,NOK,\nnone-2,1,NOK,\n")  # longer is no other
    done = running.cli("send-file", str(file), "-a", ACCOUNT, "--json")
    assert json.loads(done.stdout) == {"lines": 3, "sent": 2, "bad": 0}
    file.write_text(f"{HEADER}\nnone-3,1,NOK,\nnone-2,1,NOK,\n")
    done = running.cli("send-file", str(file), "-a", ACCOUNT)
    assert (done.exit_code, "is not what it was" in done.stderr) == (1, True)
    assert running.cli("send-file", str(file), "-a", ACCOUNT, "--again").exit_code == 0
    file.with_name("changing.csv.sent").write_text("?")
    done = running.cli("send-file", str(file), "-a", ACCOUNT)
    assert (done.exit_code, "can't be read" in done.stderr) == (1, True)


def test_what_can_not_be_sent_at_all_is_refused(running: System, tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    done = running.cli("send-file", str(empty), "--json")
    assert json.loads(done.stdout) == {"lines": 0, "sent": 0, "bad": 0}
    assert running.cli("send-file", str(empty), "--task", "cards.explode").exit_code == 2
    assert running.cli("send-file", str(tmp_path / "none.csv")).exit_code == 2
