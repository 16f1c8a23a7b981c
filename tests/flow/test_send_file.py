"""`card-worker send-file`: each line is sent once, whatever fails."""

import csv
import json
import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
from sqlalchemy import select
from typer.testing import CliRunner, Result

from card_worker.cli import app
from card_worker.cli.send_file.progress import Progress, broker_digest
from card_worker.cli.send_file.reader import Reader
from card_worker.cli.send_file.text import read_text
from card_worker.redis_url import RedisAddress
from card_worker.storage.engine import reading
from card_worker.storage.tables import outbox
from tests.flow.processes import until
from tests.flow.system import ACCOUNT, System

CARDS = 1_200
HEADER = "card_id,amount,currency,name"
WITH_METADATA = "card_id,amount,currency,metadata"
UNREACHABLE = "redis://user:mellon@127.0.0.1:1/0"
SECRETS = ("DINCARD:9f0c2ab4", "471147")


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


def answered(system: System, beginning: str) -> set[str]:
    """Return the cards with this beginning whose commands were answered, after all are handled."""
    system.catches_up("cards.bulk")
    query = select(outbox.c.subject).where(outbox.c.subject.startswith(beginning))
    with reading(system.engine) as connection:
        return set(connection.scalars(query))


def without_broker(*arguments: str) -> Result:
    """Run `card-worker send-file` without a broker: what it reports, it reports before sending."""
    settings = {"CARD_WORKER_BROKER_URL": UNREACHABLE}
    return CliRunner().invoke(app, ["send-file", *arguments], env=settings)


def counts(done: Result) -> dict[str, int]:
    """Return how many lines were read, sent and not sent, and where it stopped."""
    result = json.loads(done.stdout)
    return {name: result[name] for name in ("lines", "sent", "bad", "stopped_at") if name in result}


def refused(*arguments: str, code: int = 1) -> str:
    """Return the error, one line, with which nothing of a file is sent."""
    done = without_broker(*arguments)
    assert isinstance(done.exception, SystemExit), done.exception
    assert (done.exit_code, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert not any(secret in line for secret in SECRETS)
    return line


def test_each_line_is_a_command_and_bad_ones_are_reported(running: System, tmp_path: Path) -> None:
    file = tmp_path / "sales[red].csv"
    lines = lines_of(0)
    lines[3:3] = ["c0-x,5.5,NOK,", ",500,NOK,", "c0-x,500,GBP,", "a,500,NOK,x,more"]
    lines.insert(1, "")
    file.write_text("\ufeff" + "\n".join([HEADER, *lines]) + "\n", "utf-8")
    done = running.cli("send-file", str(file), "--account", ACCOUNT)
    assert done.exit_code == 1
    assert f"{CARDS // 2} commands sent; 4 lines could not be sent." in done.stdout
    assert file.name in done.stderr
    reports = [line for line in done.stderr.splitlines() if line.startswith("line ")]
    assert [line.partition(":")[0] for line in reports] == [f"line {n}" for n in (6, 7, 8, 9)]
    assert "amount" in reports[0]
    assert "card_id" in reports[1]
    assert "currency" in reports[2]
    assert "5 cells" in reports[3]
    until(lambda: len(activated(running)) == CARDS // 2, "the cards")
    (event, *_) = running.events_of("card.activated")
    assert event["data"]["card"]["name"] == "5"  # text where the field is text
    # Once more: all of it has been sent.
    stream = len(running.stream())
    done = running.cli("send-file", str(file), "--account", ACCOUNT, "--json")
    assert counts(done) == {"lines": CARDS // 2 + 6, "sent": CARDS // 2, "bad": 4}
    running.catches_up("cards.bulk")
    assert len(running.stream()) == stream + 1  # the fence


def test_a_json_line_may_have_all_fields(running: System, tmp_path: Path) -> None:
    file = tmp_path / "sales.jsonl"
    lines = [
        {"account_id": ACCOUNT, "card_id": f"c1-{n}", "amount": 500, "currency": "NOK"}
        for n in range(CARDS // 2)
    ]
    lines[0] |= {"metadata": {"a": [1]}, "command_id": "mine"}
    texts = [json.dumps(line) for line in lines]
    texts += ["[1]", '{"amount": NaN}', "{", '{"account_id": "T00000001", "pin": "secret"}']
    file.write_text("\n".join(texts))
    done = running.cli("send-file", str(file))
    assert done.exit_code == 1
    assert f"{CARDS // 2} commands sent; 4 lines" in done.stdout
    assert "secret" not in done.output
    assert running.types("mine") == ["card.activated"]
    until(lambda: len(set(activated(running))) == CARDS, "the cards")


def test_after_a_kill_it_continues(running: System, tmp_path: Path) -> None:
    file = tmp_path / "many.csv"
    rows_total = 30_000
    rows = (f'nobody-{n},1,NOK,"{{""two"":\n""lines""}}"' for n in range(rows_total))
    file.write_text("\n".join([WITH_METADATA, *rows]))
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
                assert program.wait() == 1  # there are no such cards
                break
            program.send_signal(signal.SIGKILL)
            kills += 1
    assert kills == 3
    (refused_file,) = tmp_path.glob("many.csv.refused.*.csv")
    with refused_file.open(newline="") as rows_refused:
        names = [row[1] for row in csv.reader(rows_refused)]
    assert names == ["card_id", *(f"nobody-{n}" for n in range(rows_total))]
    assert json.loads(note.read_text())["refused"] == {"card_not_found": rows_total}
    counted = "SELECT count(*) FROM outbox WHERE subject LIKE 'nobody-%%'"

    def answered() -> bool:
        with running.engine.connect() as connection:
            return bool(connection.exec_driver_sql(counted).scalar_one() == rows_total)

    until(answered, "an answer to each line")
    running.catches_up("cards.bulk")
    assert answered()


def test_a_file_that_has_changed_is_not_continued(running: System, tmp_path: Path) -> None:
    file = tmp_path / "changing.csv"
    file.write_text(f"{HEADER}\nnone-1,1,NOK,\n")
    assert running.cli("send-file", str(file), "-a", ACCOUNT, "--no-wait").exit_code == 0
    file.write_text(f"{HEADER}\nnone-1,1,NOK,\nnone-2,1,NOK,\n")  # the beginning is the same
    done = running.cli("send-file", str(file), "-a", ACCOUNT, "--json")
    assert counts(done) == {"lines": 3, "sent": 2, "bad": 0}
    file.write_text(f"{HEADER}\nnone-3,1,NOK,\nnone-2,1,NOK,\n")
    done = running.cli("send-file", str(file), "-a", ACCOUNT)
    assert (done.exit_code, "since it was sent (2 commands)" in done.stderr) == (1, True)
    assert running.cli("send-file", str(file), "-a", ACCOUNT, "--again").exit_code == 1
    file.with_name("changing.csv.sent").write_text("?")
    done = running.cli("send-file", str(file), "-a", ACCOUNT)
    assert (done.exit_code, "can't be read" in done.stderr) == (1, True)


def test_a_file_or_command_that_does_not_exist_is_refused(running: System, tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    done = running.cli("send-file", str(empty), "--json")
    assert counts(done) == {"lines": 0, "sent": 0, "bad": 0}
    assert running.cli("send-file", str(empty), "--task", "cards.explode").exit_code == 2
    assert running.cli("send-file", str(tmp_path / "none.csv")).exit_code == 2


# --- what a sending is ------------------------------------------------------------------------


def send_and_count(system: System, file: Path, *options: str) -> dict[str, int]:
    """Send a file; return how many commands were done, and how many refused, by reason."""
    done = system.cli("send-file", str(file), "-a", ACCOUNT, "--json", *options)
    result = json.loads(done.stdout)
    counts: dict[str, int] = {"done": result["done"]} | result["refused"]
    assert done.exit_code == (0 if set(counts) == {"done"} else 1), done.output
    assert (result["bad"], result["unanswered"]) == (0, 0)
    return counts


def test_lines_are_done_by_again_when_the_cards_exist(running: System, tmp_path: Path) -> None:
    file = tmp_path / "early.csv"
    file.write_text(f"{HEADER}\nlate-0,1,NOK,\nlate-1,1,NOK,\n")
    assert send_and_count(running, file) == {"done": 0, "card_not_found": 2}
    cards = [{"card_id": f"late-{number}"} for number in range(2)]
    running.send("cards.batch_create", "late", cards=cards)
    running.answers("late")
    assert send_and_count(running, file) == {"done": 0, "card_not_found": 2}  # nothing is sent
    (refused_file,) = tmp_path.glob("early.csv.refused.*")
    assert send_and_count(running, refused_file) == {"done": 2}
    assert send_and_count(running, file, "--again") == {"done": 0, "card_already_active": 2}


def test_a_card_is_blocked_a_second_time(running: System, tmp_path: Path) -> None:
    running.create("thief")
    running.answers("thief")
    file = tmp_path / "blocks.csv"
    file.write_text("card_id,reason\nthief,lost\n")
    copy = tmp_path / "copy.csv"
    copy.write_text(file.read_text())
    for number, (path, option) in enumerate([(file, ()), (copy, ()), (file, ("--again",))]):
        assert send_and_count(running, path, "--task", "cards.block", *option) == {"done": 1}
        running.send("cards.unblock", f"found-{number}", card_id="thief", reason="found")
        assert running.types(f"found-{number}") == ["card.unblocked"]


def test_a_name_may_be_changed_there_and_back(running: System, tmp_path: Path) -> None:
    running.create("named")
    running.answers("named")
    file = tmp_path / "names.csv"
    file.write_text("card_id,name\nnamed,A\nnamed,B\nnamed,A\n")
    assert send_and_count(running, file, "--task", "cards.update") == {"done": 3}
    updated = [event for event in running.events_of("card.updated") if event["subject"] == "named"]
    assert [event["data"]["card"]["name"] for event in updated] == ["A", "B", "A"]


def test_a_command_id_of_the_file_is_used(running: System, tmp_path: Path) -> None:
    running.create("own-id")
    running.answers("own-id")
    file = tmp_path / "names.csv"
    file.write_text("card_id,name,command_id\nown-id,A,own-1\nown-id,B,own-1\nown-id,A,own-1\n")
    done = running.cli("send-file", str(file), "-a", ACCOUNT, "--task", "cards.update")
    assert "line 3: its command_id is that of line 2, which has other fields" in done.stderr
    assert "2 done" in done.stdout
    file.write_text("card_id,name,command_id\nown-id,A,own-1\nown-id,B,own-2\n")
    for _ in range(2):
        assert send_and_count(running, file, "--task", "cards.update", "--again") == {"done": 2}
    updated = {e["id"] for e in running.events_of("card.updated") if e["subject"] == "own-id"}
    assert len(updated) == 2


def test_a_movement_is_done_once_for_its_ref_id(running: System, tmp_path: Path) -> None:
    running.create("moving")
    running.answers("moving")
    file = tmp_path / "loads.csv"
    header = "card_id,amount,currency,type,ref_id"
    file.write_text(f"{header}\nmoving,7,NOK,fund,a\nmoving,7,NOK,fund,a\nmoving,999,NOK,,b\n")
    for _ in range(2):
        counts = send_and_count(running, file, "--task", "transactions.create", "--again")
        assert counts == {"done": 2, "exceeds_available": 1}
    assert len(running.events_of("card.funded")) == 1


# --- quotes -----------------------------------------------------------------------------------


def test_nothing_is_sent_from_an_open_quote_on_until_it_is_corrected(
    running: System, tmp_path: Path
) -> None:
    file = tmp_path / "open.csv"
    before = [f'open-{n},1,NOK,"{{""two"":\n""lines""}}"' for n in range(3)]
    after = [f'open-{n},1,NOK,"{{""it\'s"": {n}}}"' for n in range(4, 8)]
    begun = 'open-3,1,NOK,"{""abc"": 1}'
    file.write_text("\n".join([WITH_METADATA, *before, begun, *after]))
    for _ in range(2):
        done = running.cli("send-file", str(file), "-a", ACCOUNT)
        assert done.exit_code == 1
        assert "3 commands sent" in done.stdout
        assert "; 1 line could not be sent." in done.stdout
        (report,) = (line for line in done.stderr.splitlines() if line.startswith("line "))
        assert report.startswith("line 8: a quote that opens here is not closed")
        assert report.endswith("correct the line, and run it again without --again")
        assert answered(running, "open-") == {"open-0", "open-1", "open-2"}
    file.write_text("\n".join([WITH_METADATA, *before, f'{begun}"', *after]))
    done = running.cli("send-file", str(file), "-a", ACCOUNT, "--json")
    assert (done.exit_code, counts(done)) == (1, {"lines": 12, "sent": 8, "bad": 0})
    assert answered(running, "open-") == {f"open-{n}" for n in range(8)}


@pytest.mark.parametrize(
    "lines",
    [
        ['q-1,NOK,"abc', "q-2,NOK,x,1"],
        ['q-1,NOK,"abc', 'q-2,NOK,"x",1'],
        ['q-1,NOK,"abc', 'q-2,NOK,"x', "q-3,NOK,x,1"],
        ['q-1,NOK,"a"b",1', "q-2,NOK,x,1"],
        # The quote ends where the next line begins one: the number of cells is right.
        ['q-1,"NOK,abc,1', 'q-2,NOK,", x",1'],
        ['q-1,NOK,"abc', *["q-2,NOK,x,1"] * 20_000, 'q-3,NOK,"x",1'],
    ],
    ids=["to the end", "to a quote", "to another", "in a line", "between cells", "over many lines"],
)
def test_no_line_is_read_as_part_of_another(lines: list[str], tmp_path: Path) -> None:
    file = tmp_path / "open.csv"
    file.write_text("\n".join(["card_id,currency,name,amount", *lines, ""]))
    done = without_broker(str(file), "-a", ACCOUNT, "--json")
    assert counts(done) == {"lines": 0, "sent": 0, "bad": 1, "stopped_at": 2}
    assert (done.exit_code, "line 2: a quote" in done.stderr) == (1, True)


def test_a_line_with_wrong_and_closed_quotes_is_a_bad_line(running: System, tmp_path: Path) -> None:
    file = tmp_path / "quotes.csv"
    wrong = ['quote-1,1,NOK,"a"b', f'quote-2,1,NOK,"{"x" * 131_073}"', "quote-3,1,NOK,a\rb"]
    file.write_text("\n".join([HEADER, 'quote-0,1,NOK,5" wide', *wrong, "quote-4,1,NOK,x"]))
    done = running.cli("send-file", str(file), "-a", ACCOUNT)
    assert (done.exit_code, "2 commands sent; 3 lines" in done.stdout) == (1, True)
    reports = [line for line in done.stderr.splitlines() if line.startswith("line ")]
    assert [line.partition(":")[0] for line in reports] == ["line 3", "line 4", "line 5"]
    assert answered(running, "quote-") == {"quote-0", "quote-4"}


# --- the header -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (f"{SECRETS[0]},500,{SECRETS[1]}", "columns 1, 2 and 3 of the header are no fields of"),
        (f"card_id,{SECRETS[0]},amount,currency", "column 2 of the header is no field of"),
        ("card_id,card_token.expires_in", "column 2 of the header is no field of cards.activate;"),
        (",".join(f"x{n}" for n in range(1_500)), "9, 10 and 1,490 more of the header are no"),
        (",".join(["x" * 131_000] * 3), "columns 1, 2 and 3 of the header are no fields of"),
        ("amount,card_id, amount,name,,", "columns 1 and 3 of the header name a field more than"),
        ("x" * 131_073, "its header can't be read: field larger than field limit"),
        ('card_id,"amount', "its header can't be read: unexpected end of data"),
        (f"card_id,amount\r{SECRETS[0]},500\r", "its header can't be read: a CR without an LF"),
    ],
    ids=["none", "one", "dots", "many", "long", "twice", "too long", "open", "CR"],
)
def test_a_header_is_refused_by_the_numbers_of_its_columns(
    header: str, why: str, tmp_path: Path
) -> None:
    file = tmp_path / "sales.csv"
    file.write_text(f"{header}\n")
    assert why in refused(str(file))


def test_columns_may_hold_json_or_be_empty_without_a_name(running: System, tmp_path: Path) -> None:
    file = tmp_path / "nested.csv"
    file.write_text(
        "card_id, amount ,currency,metadata,card_token,command,command_id,,\n"
        'nest-0,1,NOK,"{""a"": [1]}","{""expires_in"": 5}",cards.activate,nest-0,,\n'
        "nest-1,1,NOK,,,,nest-1,,x\n"
        'nest-2,1,NOK,,"{""471147"": 5}",,nest-2,,\n'
    )
    done = running.cli("send-file", str(file), "-a", ACCOUNT)
    assert (done.exit_code, "1 command sent; 2 lines" in done.stdout) == (1, True)
    assert "line 3: a cell in a column without a name" in done.stderr
    assert "line 4: card_token: has an unknown field" in done.stderr
    assert running.types("nest-0") == ["card_not_found"]


def test_an_unknown_field_is_named_by_its_number(tmp_path: Path) -> None:
    file = tmp_path / "sales.jsonl"
    fields = {"card_id": "c", SECRETS[0]: 1, "amount": "x", "currency": "NOK", SECRETS[1]: 2}
    file.write_text(json.dumps(fields))
    done = without_broker(str(file), "-a", ACCOUNT)
    assert not any(secret in done.stderr for secret in SECRETS)
    assert "line 1: amount: " in done.stderr
    assert "its field 2 is no field of cards.activate; its field 5 is no field of" in done.stderr


@pytest.mark.parametrize("levels", [100_000, 950, 13])
@pytest.mark.parametrize("close", ["", "]"])
def test_a_value_may_be_nested_to_any_depth(levels: int, close: str, tmp_path: Path) -> None:
    nested = "[" * levels + close * levels
    file = tmp_path / "deep.csv"
    file.write_text(f"card_id,amount,currency,metadata\nc,1,NOK,{nested[:131_000]}\n")
    done = without_broker(str(file), "-a", ACCOUNT)
    assert (done.exit_code, "line 2: metadata: must be an object" in done.stderr) == (1, True)
    # Only the missing account is reported.
    done = CliRunner().invoke(app, ["send", "cards.activate", f"metadata={nested}"])
    assert (done.exit_code, "account_id is missing" in done.stderr) == (2, True)


# --- a file that changes ----------------------------------------------------------------------


def test_a_last_line_may_only_get_its_line_end_later(running: System, tmp_path: Path) -> None:
    file = tmp_path / "growing.csv"
    file.write_bytes(f"{HEADER}\r\ngrow-1,1,NOK,x".encode())
    assert running.cli("send-file", str(file), "-a", ACCOUNT, "--no-wait").exit_code == 0
    file.write_bytes(f"{HEADER}\r\ngrow-1,1,NOK,x\r\ngrow-2,1,NOK,x\r\nb".encode())
    done = running.cli("send-file", str(file), "-a", ACCOUNT, "--json")
    assert counts(done) == {"lines": 4, "sent": 2, "bad": 1}
    assert "line 4: " in done.stderr
    file.write_bytes(f"{HEADER}\r\ngrow-1,1,NOK,x\r\ngrow-2,1,NOK,x\r\nb,1,NOK,x\r\n".encode())
    done = running.cli("send-file", str(file), "-a", ACCOUNT)
    assert done.exit_code == 1
    assert "it has changed since it was sent (2 commands)" in done.stderr
    assert "sent" not in done.stdout


def test_text_appended_to_the_last_line_while_it_is_read_waits(tmp_path: Path) -> None:
    file = tmp_path / "growing.jsonl"
    line = json.dumps({"card_id": "c", "amount": 1, "currency": "NOK"})
    file.write_text(line)
    progress = Progress("cards.activate", ACCOUNT, "", sending="s")
    with file.open("rb") as opened, file.open("a") as writer:
        reader = Reader(read_text(opened, ".jsonl"), progress)
        lines = reader.lines()
        assert [read.number for read in islice(lines, 1)] == [1]
        writer.write(f"\n{line}\n")
        writer.flush()
        assert list(lines) == []
        reader.note_position(progress)
    with file.open("rb") as opened:
        reader = Reader(read_text(opened, ".jsonl"), progress)
        assert [read.number for read in reader.lines()] == [2]


# --- the progress ----------------------------------------------------------------------------


def test_progress_counts_only_for_the_same_task_account_and_broker(
    running: System, tmp_path: Path
) -> None:
    file = tmp_path / "recall.csv"
    file.write_text("card_id,reason\nrecall-1,lost\n")
    note = tmp_path / "recall.csv.sent"

    def send(account: str | None, task: str, *options: str, **settings: str) -> Result:
        account_option = () if account is None else ("-a", account)
        arguments = str(file), "--no-wait", "--task", task, *account_option, *options
        return running.cli("send-file", *arguments, **settings)

    elsewhere = {"BROKER_URL": UNREACHABLE}
    assert send(ACCOUNT, "cards.block").exit_code == 0
    before = note.read_text()
    digest = json.loads(before)["broker"]
    for done, why in [
        (send(ACCOUNT, "cards.unblock"), "with task cards.block, as "),
        (send("T00000002", "cards.block"), f"with account {ACCOUNT}, as "),
        (send(None, "cards.block"), f"with account {ACCOUNT}, as "),
        (send(ACCOUNT, "cards.block", **elsewhere), f"with broker {digest}, as "),
        (send("T00000002", "cards.block", **elsewhere), f"{ACCOUNT}, broker {digest}, as "),
    ]:
        (line,) = done.stderr.splitlines()
        assert (done.exit_code, done.stdout) == (1, "")
        assert f"{file} was sent before " in line
        assert why in line
        assert "use --again" in line
        assert note.read_text() == before
    done = send(ACCOUNT, "cards.block")
    assert (done.exit_code, "1 command sent; 0 lines" in done.stdout) == (0, True)
    done = send(ACCOUNT, "cards.unblock", "--again")
    assert (done.exit_code, "1 command sent;" in done.stdout) == (0, True)
    done = send(ACCOUNT, "cards.block")
    assert (done.exit_code, "with task cards.unblock, as" in done.stderr) == (1, True)
    note.write_text(note.read_text().replace(f'"{ACCOUNT}"', "null"))
    done = send(ACCOUNT, "cards.unblock")
    assert (done.exit_code, "before with account none, as" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("url", "other", "is_same"),
    [
        ("redis://h:6379/0", "redis://user:p%40ss@h", True),
        ("redis://h:6379/0", "rediss://h:6379/0?ssl_cert_reqs=none", True),
        ("unix:///a?db=1", "redis+socket://:a@/a?virtual_host=1", True),
        ("redis://h:6379/0", "redis://h:6379/1", False),
        ("redis://h:6379/0", "redis://i:6379/0", False),
        ("redis://h:6379/0", "redis://h:6380/0", False),
        ("redis+socket:///a?virtual_host=1", "redis+socket:///a?virtual_host=2", False),
        ("unix:///a", "unix:///b", False),
    ],
)
def test_the_digest_of_a_broker_depends_on_its_address_alone(
    url: str, other: str, is_same: bool
) -> None:
    digests = [broker_digest(RedisAddress.parse(each)) for each in (url, other)]
    assert (digests[0] == digests[1]) is is_same


def test_no_progress_is_stored_if_nothing_was_sent(running: System, tmp_path: Path) -> None:
    file, note = tmp_path / "early.csv", tmp_path / "early.csv.sent"
    file.write_text(f"{HEADER}\nearly-1,1,NOK,\n")
    assert without_broker(str(file), "-a", "T00000002").exit_code == 1
    assert json.loads(note.read_text())["unanswered"] == []
    assert "mellon" not in note.read_text()
    assert running.cli("send-file", str(file), "-a", ACCOUNT, "--no-wait").exit_code == 0
    assert answered(running, "early-") == {"early-1"}
    assert without_broker(str(file), "-a", ACCOUNT, "--again").exit_code == 1
    assert json.loads(note.read_text())["unanswered"] == []


@pytest.mark.parametrize(
    "content",
    [
        b'{"bytes": "x"}',
        b'{"bytes": 9, "lines": 1, "sent": 1, "bad": 0, "digest": ""}',  # of an older version
        b"[]",
        b"\xff",
        b"",
        b"[" * 100_000,
    ],
    ids=["a word", "older", "a list", "no text", "nothing", "deep"],
)
def test_an_unreadable_progress_file_is_refused(content: bytes, tmp_path: Path) -> None:
    file, note = tmp_path / "sales.csv", tmp_path / "sales.csv.sent"
    file.write_text(f"{HEADER}\n,,,x\n")
    note.write_bytes(content)
    why = refused(str(file))
    assert f"{note} can't be read: it is not what this version writes" in why
    assert "Move it away, or use --again, which overwrites it." in why
    assert "1 line could not be sent" in without_broker(str(file), "--again").stdout
    assert "1 line could not be sent" in without_broker(str(file)).stdout


def test_nothing_is_sent_if_progress_can_not_be_stored(tmp_path: Path) -> None:
    file = tmp_path / "sales.csv"
    file.write_text(f"{HEADER}\nc,1,NOK,x\n")
    (tmp_path / "sales.csv.writing").mkdir()
    assert "sales.csv.sent can't be written: " in refused(str(file), "-a", ACCOUNT)
    (tmp_path / "sales.csv.writing").rmdir()
    (tmp_path / "sales.csv.sent").mkdir()
    assert "sales.csv.sent can't be read: " in refused(str(file), "-a", ACCOUNT)
    assert "sales.csv.sent can't be written: " in refused(str(file), "-a", ACCOUNT, "--again")
    long = file.rename(tmp_path / f"{'x' * 247}.csv")
    assert "can't be read: " in refused(str(long), "-a", ACCOUNT)
    long = long.rename(tmp_path / f"{'x' * 235}.csv")  # too long only for FILE.refused.…
    assert ".csv: File name too long" in refused(str(long), "-a", ACCOUNT)


def test_a_file_of_which_nothing_was_sent_is_corrected_in_place(
    running: System, tmp_path: Path
) -> None:
    file = tmp_path / "wrong.csv"
    file.write_text(f"{HEADER}\nplace-1,x,NOK,\nplace-2,x,NOK,\n")
    done = running.cli("send-file", str(file), "-a", ACCOUNT, "--json")
    assert counts(done) == {"lines": 3, "sent": 0, "bad": 2}
    file.write_text(f"{HEADER}\nplace-1,1,NOK,\nplace-2,1,NOK,\n")
    done = running.cli("send-file", str(file), "-a", ACCOUNT, "--json")
    assert counts(done) == {"lines": 3, "sent": 2, "bad": 0}, done.stderr


def test_the_files_of_a_redirected_file_are_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "sales.csv"
    file.write_text(f"{HEADER}\nc,x,NOK,\n")
    stdin = "/proc/self/fd/0"  # where /dev/stdin leads to; nobody can write there
    command = [sys.executable, "-m", "card_worker.cli", "send-file", stdin, "-a", ACCOUNT]
    with file.open() as opened:
        settings = {"CARD_WORKER_BROKER_URL": UNREACHABLE}
        done = subprocess.run(
            command, stdin=opened, env=settings, capture_output=True, text=True, check=False
        )
    assert "1 line could not be sent" in done.stdout, done.stderr
    assert len(list(tmp_path.glob("sales.csv.*"))) == 2


def test_only_a_regular_file_is_sent(tmp_path: Path) -> None:
    pipe = tmp_path / "sales.csv"
    os.mkfifo(pipe)
    assert "can't be read twice" in refused(str(pipe), code=2)
    assert "can't be read twice" in refused("/dev/null", code=2)


def test_a_file_is_sent_by_one_process_at_a_time(running: System, tmp_path: Path) -> None:
    file, note = tmp_path / "twice.csv", tmp_path / "twice.csv.sent"
    rows = 10_000
    file.write_text("\n".join([HEADER, *(f"twice-{n},1,NOK,x" for n in range(rows))]))
    command = [sys.executable, "-m", "card_worker.cli", "send-file", str(file), "-a", ACCOUNT]
    with subprocess.Popen(
        command,
        env=running.parts.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as first:
        until(note.exists, "the first note")
        first.send_signal(signal.SIGSTOP)
        try:
            for options in [(), ("--again",)]:
                done = running.cli("send-file", str(file), "-a", ACCOUNT, *options)
                assert (done.exit_code, done.stdout) == (1, "")
                assert f"{file} is being sent by another send-file" in done.stderr
        finally:
            first.send_signal(signal.SIGCONT)
        assert first.wait() == 1  # there are no such cards
    done = running.cli("send-file", str(file), "-a", ACCOUNT, "--json")
    assert counts(done) == {"lines": rows + 1, "sent": rows, "bad": 0}
