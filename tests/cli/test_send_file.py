"""`card-worker send-file` on a fake Redis: formats of files, and answers of a thread."""

import base64
import csv
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from redis import Redis
from typer.testing import Result

from card_worker.cli.send_file import sender
from card_worker.cli.send_file.progress import Progress
from card_worker.cli.send_file.reader import BadLine, Line, Reader
from card_worker.cli.send_file.text import read_text
from card_worker.client import STREAM
from card_worker.contracts.cards import ActivateCard
from tests.cli.commands import refused, run

ACCOUNT = "T00000001"
OTHER_ACCOUNT = "T00000002"
NOWHERE = {"BROKER_URL": "redis://127.0.0.1:1/0"}
HEADER = "card_id,amount,currency"
TIMEOUT_S = "60"
"""Longer than any answer takes."""
SOON = ("--timeout", "0.3")
"""For answers that don't come."""

Fields = dict[str, Any]
Answers = Callable[[Fields], list[Fields]]


def written(file: Path, *rows: str, header: str = HEADER) -> Path:
    file.write_text("\n".join([header, *rows, ""]), "utf-8")
    return file


def read_lines(file: Path, task: str = "cards.activate") -> list[Line]:
    with file.open("rb") as opened:
        text = read_text(opened, file.suffix)
        return list(Reader(text, Progress(task, ACCOUNT, "", sending="s")).lines())


def read_cards(file: Path) -> list[str]:
    """Return the card_id and the amount of each line; the problem of a line that is invalid."""
    return [
        f"{line.command.card_id}={line.command.amount}"
        if isinstance(line.command, ActivateCard)
        else str(line.command)
        for line in read_lines(file)
    ]


# --- the text of a file -----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".txt", ".tsv", ""])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("sep", ["", "sep=%s\r\n", '"SEP=%s"\n', "\r\nsep=%s\r\n"])
def test_a_file_may_be_as_a_spreadsheet_writes_it(
    suffix: str, encoding: str, delimiter: str, sep: str, tmp_path: Path
) -> None:
    rows = ["", "Card_ID ,AMOUNT,currency,", "ø-1,5,NOK,,,,", "", ",,,,,,", " ", "ø-2,6,NOK"]
    text = "\r\n".join(rows).replace(",", delimiter)
    bom = "\ufeff" if encoding == "utf-16-be" else ""
    file = tmp_path / f"sales{suffix}"
    file.write_bytes((bom + sep.replace("%s", delimiter) + text).encode(encoding))
    assert read_cards(file) == ["ø-1=5", "ø-2=6"]


def test_sep_may_name_a_delimiter_that_no_header_shows(tmp_path: Path) -> None:
    file = written(tmp_path / "sales.csv", "c,1|5|NOK", header=f"sep=|\n{HEADER.replace(',', '|')}")
    assert read_cards(file) == ["c,1=5"]


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".txt"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_lines_are_recognized(suffix: str, encoding: str, tmp_path: Path) -> None:
    file = tmp_path / f"sales{suffix}"
    line = json.dumps({"card_id": "c", "amount": 5, "currency": "NOK"})
    file.write_text(f"\n{line}\n \n{line}", encoding)
    assert read_cards(file) == ["c=5", "c=5"]


def test_a_cell_beyond_the_header_has_to_be_empty(tmp_path: Path) -> None:
    file = written(tmp_path / "sales.csv", "c,5,NOK,,x", "d,5,NOK,,")
    assert read_cards(file) == ["5 cells, but the header has 3", "d=5"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (f"{HEADER}\nc,1,NOK\nø,1,NOK\ne,1,NOK\n".encode("latin-1"), 3),
        (f"{HEADER}\n".encode() + b"c,1,NOK\n" * 10_000 + b"\xff", 10_002),
        (f"\ufeff{HEADER}\n".encode() + f"{HEADER}\n".encode("utf-16"), 2),
        (HEADER.encode("utf-16-le"), 1),
        (HEADER.encode("utf-32"), 1),
        (f"{HEADER}\nc,1,NOK".encode("utf-16") + b"x", 2),
    ],
    ids=["Latin-1", "far", "put together", "no BOM", "UTF-32", "half a character"],
)
def test_another_encoding_is_reported_once(content: bytes, line: int, tmp_path: Path) -> None:
    file = tmp_path / "sales.csv"
    file.write_bytes(content)
    code, text = refused(run("send-file", file, "-a", ACCOUNT, **NOWHERE))
    assert (code, f"{file}: line {line} is not UTF-8" in text) == (1, True), text
    assert "CSV UTF-8" in text
    assert not (tmp_path / "sales.csv.sent").exists() or _sent(file)["lines"] == 0


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
@pytest.mark.parametrize("between", ["", "\n"])
def test_two_files_put_together_are_reported(encoding: str, between: str, tmp_path: Path) -> None:
    file = tmp_path / "sales.csv"
    part = f"\ufeff{HEADER}\nc,1,NOK{between}".encode(encoding)
    file.write_bytes(part + part)
    code, text = refused(run("send-file", file, "-a", ACCOUNT, **NOWHERE))
    line = 3 if between else 2
    assert (code, f"line {line} has a byte order mark within the text" in text) == (1, True)


@pytest.mark.parametrize(
    "value", ["6.03628E+15", "6,03628E+15", "6E+15", "6.03628e+15", '="0012"', '=""']
)
@pytest.mark.parametrize("column", ["card_id", "ref_id", "token", "pin"])
def test_an_id_that_a_spreadsheet_has_changed_is_refused(
    value: str, column: str, tmp_path: Path
) -> None:
    with (tmp_path / "sales.csv").open("w") as file:
        csv.writer(file).writerows([[column], [value]])
    (line,) = read_lines(tmp_path / "sales.csv", "transactions.create")
    assert isinstance(line.command, BadLine)
    assert line.command.startswith(f"{column}: a spreadsheet has changed this value.")
    assert value not in line.command


def test_text_that_is_no_id_may_look_like_a_number(tmp_path: Path) -> None:
    file = written(tmp_path / "sales.csv", "c,5,NOK,6.03628E+15", header=f"{HEADER},name")
    assert read_cards(file) == ["c=5"]
    file = written(tmp_path / "sales.csv", "1E5,5,NOK", "E+15,5,NOK")
    assert read_cards(file) == ["1E5=5", "E+15=5"]


def test_a_command_id_follows_from_the_sending_and_the_line(tmp_path: Path) -> None:
    header = f"{HEADER},command_id,metadata"
    rows = ["c,1,NOK,,", "c,1,NOK,mine,", 'c,1,NOK,,"{""a"":\n1}"', "c,1,NOK,,"]
    lines = read_lines(written(tmp_path / "sales.csv", *rows, header=header))
    ids = [line.command.command_id for line in lines if isinstance(line.command, ActivateCard)]
    assert ids == ["s-2", "mine", "s-4", "s-6"]


# --- answers ----------------------------------------------------------------------------------


def answer(command: Fields, **data: Any) -> Fields:
    """Return the event that a command was done, or refused with this `data`."""
    kind = "command.rejected" if data else "card.activated"
    about = {"account_id": command["account_id"]}
    base = {"type": kind, "correlationid": command["command_id"], "answer": True}
    return base | {"data": about | data}


def refusal(command: Fields, reason: str = "card_not_found") -> Fields:
    return answer(command, reason=reason, message="The card is not there.")


def repeat(command: Fields, first: Fields) -> Fields:
    event = answer(command) | {"type": "command.repeated"}
    return event | {"data": event["data"] | {"event": first}}


@contextmanager
def answering(redis: Redis, answers: Answers) -> Iterator[None]:
    """Publish these answers to all commands."""
    stop = Event()

    def work() -> None:
        while not stop.is_set():
            for command in sent_commands(redis, 1):
                for event in answers(command):
                    redis.xadd(STREAM, {"event": json.dumps(event)})
            stop.wait(0.01)

    thread = Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def sent_commands(redis: Redis, messages: int) -> list[Fields]:
    """Take messages from the queue; return their commands."""
    raw: list[Any] = [redis.rpop("cards.bulk") for _ in range(messages)]
    bodies = [json.loads(base64.b64decode(json.loads(each)["body"])) for each in raw if each]
    return [command for body in bodies for command in body[1]["commands"]]


def _sent(file: Path) -> Any:
    return json.loads(file.with_name(f"{file.name}.sent").read_text())


def send(url: str, file: Path, *options: str, **settings: str) -> Result:
    arguments = "send-file", file, "-a", ACCOUNT, "--timeout", TIMEOUT_S, *options
    return run(*arguments, **{"BROKER_URL": url, **settings})


def result_of(done: Result) -> Any:
    return json.loads(done.stdout)


def test_answers_are_counted_by_reason(
    fake_redis_url: str, fake_redis: Redis, tmp_path: Path
) -> None:
    def answers(command: Fields) -> list[Fields]:
        match command["card_id"]:
            case "done":
                return [answer(command)]
            case "repeated":
                return [repeat(command, answer(command))]
            case "repeated refusal":
                return [repeat(command, refusal(command, "card_closed"))]
        return [refusal(command)]

    rows = [f"{name},1,NOK" for name in ("done", "no", "repeated", "repeated refusal", "no")]
    file = written(tmp_path / "sales.csv", *rows)
    with answering(fake_redis, answers):
        done = send(fake_redis_url, file)
    assert done.exit_code == 1
    assert "5 commands sent; 0 lines could not be sent." in done.stdout
    assert "2 done, 3 refused, 0 unanswered.\n  card_not_found: 2\n  card_closed: 1" in done.stdout
    assert re.search(r"sales\.csv: answers .* 5/5 ", done.stderr)
    done = send(fake_redis_url, file, "--json")  # nothing is sent any more
    result = result_of(done)
    assert (done.exit_code, result["done"], result["unanswered"]) == (1, 2, 0)
    assert result["refused"] == {"card_not_found": 2, "card_closed": 1}


def test_exit_0_when_all_was_done(fake_redis_url: str, fake_redis: Redis, tmp_path: Path) -> None:
    file = written(tmp_path / "sales.csv", "c,1,NOK")
    with answering(fake_redis, lambda command: [answer(command)]):
        done = send(fake_redis_url, file, "--json")
    assert (done.exit_code, result_of(done)["done"]) == (0, 1)
    assert list(tmp_path.glob("*refused*")) == []


def test_only_the_answer_of_the_same_account_counts(
    fake_redis_url: str, fake_redis: Redis, tmp_path: Path
) -> None:
    def answers(command: Fields) -> list[Fields]:
        if command["account_id"] == OTHER_ACCOUNT:
            return [refusal(command)]
        progress = refusal(command)
        del progress["answer"]
        return [progress, answer(command)]

    rows = [f"c,1,NOK,{account},same" for account in (ACCOUNT, OTHER_ACCOUNT)]
    file = written(tmp_path / "sales.csv", *rows, header=f"{HEADER},account_id,command_id")
    with answering(fake_redis, answers):
        result = result_of(send(fake_redis_url, file, "--json"))
    assert (result["done"], result["refused"]) == (1, {"card_not_found": 1})


def test_without_any_answer_it_ends(fake_redis_url: str, tmp_path: Path) -> None:
    file = written(tmp_path / "sales.csv", "c,1,NOK")
    done = send(fake_redis_url, file, *SOON)
    assert done.exit_code == 1
    assert "no answer came within 0.3 s. Do a worker and the relay run?" in done.stderr
    assert "Then run it again without --again: it sends lines without an answer" in done.stderr
    assert re.search(r"sales\.csv: answers .* 0/1 ", done.stderr)
    assert _sent(file)["unanswered"] == [2]


def test_only_what_has_no_answer_is_sent_again(
    fake_redis_url: str, fake_redis: Redis, tmp_path: Path
) -> None:
    file = written(tmp_path / "sales.csv", *(f"{n},1,NOK" for n in ("done", "lost", "no", "lost")))
    handled = list[Fields]()

    def answers(command: Fields) -> list[Fields]:
        handled.append(command)
        return {"done": [answer(command)], "no": [refusal(command)]}.get(command["card_id"], [])

    with answering(fake_redis, answers):
        first, second = (send(fake_redis_url, file, "--json", *SOON) for _ in range(2))
    for done in (first, second):
        result = result_of(done)
        assert (done.exit_code, result["sent"], result["done"]) == (1, 4, 1)
        assert (result["refused"], result["unanswered"]) == ({"card_not_found": 1}, 2)
        assert "lines 3 and 5: no answer came within 0.3 s" in done.stderr
    assert handled[4:] == [handled[1], handled[3]]
    written(file, *(f"{n},1,NOK" for n in ("done", "lost", "no", "lost", "done")))
    with answering(fake_redis, lambda command: [refusal(command, f"of_{command['card_id']}")]):
        result = result_of(send(fake_redis_url, file, "--json"))
    assert (result["sent"], result["done"], result["unanswered"]) == (5, 1, 0)
    assert result["refused"] == {"card_not_found": 1, "of_lost": 2, "of_done": 1}
    rows = Path(result["refused_file"]).read_text().splitlines()
    assert [row.split(",")[1] for row in rows] == ["card_id", "no", "lost", "lost", "done"]


def test_the_identity_of_a_sending_is_stored_before_the_first_message(
    fake_redis_url: str, fake_redis: Redis, tmp_path: Path
) -> None:
    file = written(tmp_path / "sales.csv", "c,1,NOK")
    fake_redis.set("cards.bulk", "no list")  # the message can't be stored
    assert send(fake_redis_url, file, *SOON).exit_code == 1
    stored = _sent(file)
    assert stored["unanswered"] == [2]
    arguments = "send-file", file, "--account", OTHER_ACCOUNT
    code, text = refused(run(*arguments, BROKER_URL=fake_redis_url))
    assert (code, f"sent before with account {ACCOUNT}, as {file}.sent says." in text) == (1, True)
    fake_redis.delete("cards.bulk")
    send(fake_redis_url, file, *SOON)
    (command,) = sent_commands(fake_redis, 1)
    assert command["command_id"] == f"{stored['sending']}-2"


def test_equal_lines_with_one_command_id_have_one_answer(
    fake_redis_url: str, fake_redis: Redis, tmp_path: Path
) -> None:
    rows = ["c,1,NOK,mine", "c,1,NOK,mine", "c,2,NOK,mine"]
    file = written(tmp_path / "sales.csv", *rows, header=f"{HEADER},command_id")
    published = set[str]()

    def answers(command: Fields) -> list[Fields]:
        is_new = command["command_id"] not in published
        published.add(command["command_id"])
        return [answer(command)] if is_new else []

    with answering(fake_redis, answers):
        done = send(fake_redis_url, file, "--json")
    assert (result_of(done)["done"], result_of(done)["bad"]) == (2, 1)
    assert "line 4: its command_id is that of line 2, which has other fields" in done.stderr


def test_a_null_is_another_field_than_none(fake_redis_url: str, tmp_path: Path) -> None:
    file = tmp_path / "names.jsonl"
    about = {"card_id": "c", "customer_id": "x", "command_id": "mine"}
    file.write_text(f"{json.dumps(about)}\n{json.dumps({**about, 'name': None})}\n")
    done = send(fake_redis_url, file, "--task", "cards.update", "--json", *SOON)
    assert "line 2: its command_id is that of line 1, which has other fields" in done.stderr
    assert (result_of(done)["sent"], result_of(done)["bad"]) == (1, 1)


def test_few_commands_wait_at_a_time_and_are_sent_again_with_their_ids(
    fake_redis_url: str, fake_redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "LINES_PER_STEP", 10)
    steps = sender.STEPS_AHEAD_MAX + 3
    rows = [f"c-{n},1,NOK" for n in range(steps * 10)]
    file = written(tmp_path / "sales.csv", *rows)
    done = send(fake_redis_url, file, *SOON)
    assert (done.exit_code, "continues after line 201" in done.stderr) == (1, True)
    assert fake_redis.llen("cards.bulk") == sender.STEPS_AHEAD_MAX
    # Another task would do the lines twice.
    assert (
        "was sent before with task"
        in refused(send(fake_redis_url, file, "--task", "cards.block"))[1]
    )
    before = sent_commands(fake_redis, sender.STEPS_AHEAD_MAX)
    handled = list[Fields]()

    def answers(command: Fields) -> list[Fields]:
        handled.append(command)
        return [answer(command)] if command["card_id"] != "c-5" else []

    with answering(fake_redis, answers):
        done = send(fake_redis_url, file, "--json", *SOON)
    assert handled[: len(before)] == before
    assert len({command["command_id"] for command in handled}) == len(rows)
    assert done.exit_code == 1
    assert "line 7: no answer came within 0.3 s" in done.stderr
    assert (result_of(done)["done"], result_of(done)["unanswered"]) == (len(rows) - 1, 1)
    send(fake_redis_url, file, "--again", "--no-wait")
    again = sent_commands(fake_redis, steps)
    assert len({command["command_id"] for command in before + again}) == len(before + again)


def test_nobody_has_to_wait(fake_redis_url: str, fake_redis: Redis, tmp_path: Path) -> None:
    file = written(tmp_path / "sales.csv", "c,1,NOK")
    for options in (["--no-wait"], []):  # the second time, nothing is left to send
        done = send(fake_redis_url, file, *options)
        assert done.exit_code == 0
        sent = "1 command sent; 0 lines could not be sent.\n"
        assert done.stdout == f"{sent}1 sent without waiting for answers.\n"
        assert re.search(r"sales\.csv: sent .* 1/1 ", done.stderr)
    assert result_of(send(fake_redis_url, file, "--json"))["unawaited"] == 1
    assert fake_redis.llen("cards.bulk") == 1


def test_without_a_stream_answers_are_not_awaited(
    fake_redis_url: str, fake_redis: Redis, tmp_path: Path
) -> None:
    file = written(tmp_path / "sales.csv", "c,1,NOK")
    done = send(fake_redis_url, file, EVENTS_URL=NOWHERE["BROKER_URL"])
    assert (done.exit_code, "events can't be read" in done.stderr) == (0, True), done.output
    assert "1 sent without waiting for answers.\n" in done.stdout
    assert re.search(r"sales\.csv: sent .* 1/1 ", done.stderr)
    assert fake_redis.llen("cards.bulk") == 1


def test_bytes_that_another_process_appends_are_refused(
    fake_redis_url: str, fake_redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "LINES_PER_STEP", 10)
    rows = 1_000  # more than wait for answers, and than a buffer holds
    file = written(tmp_path / "sales.csv", *(f"{'c' * 100}-{n},1,NOK" for n in range(rows)))
    whole = file.read_bytes()

    def answers(command: Fields) -> list[Fields]:
        if file.stat().st_size == len(whole):
            with file.open("ab") as opened:
                opened.write(b"\xff\n")
        return [answer(command)]

    with answering(fake_redis, answers):
        done = send(fake_redis_url, file)
        problem = f"{file}: line {rows + 2} is not UTF-8. Nothing more is sent."
        assert (done.exit_code, problem in done.stderr) == (1, True), done.stderr
        code, text = refused(send(fake_redis_url, file))
        assert (code, f"{file}: line {rows + 2} is not UTF-8. Nothing is sent" in text) == (1, True)
    file.write_bytes(whole)
    with answering(fake_redis, lambda command: [answer(command)]):
        done = send(fake_redis_url, file, "--json")
        assert result_of(done)["done"] == rows


# --- refused lines ----------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("sep", ["", "sep=;\r\n"])
def test_refused_lines_are_written_as_a_csv_file(
    sep: str, encoding: str, fake_redis_url: str, fake_redis: Redis, tmp_path: Path
) -> None:
    file = tmp_path / "sales.csv"
    rows = [
        "Card_ID;command_id;amount;currency;#Reason;metadata",
        'ø-1;;5;NOK;old;"{""a"":\r\n1}"',
        "ø-2;mine;5;NOK;old;",
        "ø-3;;5;NOK;old;",
        "ø-4;;5;GBP;old;",
        'ø-5;;5;NOK;old;"a"b',
        "ø-6;;5;NOK;;;x",
    ]
    file.write_bytes((sep + "\r\n".join(rows)).encode(encoding))
    with answering(
        fake_redis,
        lambda command: [answer(command) if command["card_id"] == "ø-3" else refusal(command)],
    ):
        done = send(fake_redis_url, file, "--json")
    result = result_of(done)
    assert (done.exit_code, result["sent"], result["bad"], result["done"]) == (1, 3, 3, 1)
    (refused_file,) = tmp_path.glob("sales.csv.refused.*.csv")
    assert result["refused_file"] == str(refused_file)
    assert refused_file.stat().st_mode & 0o777 == 0o600
    text = refused_file.read_bytes().decode(encoding)
    not_found = "card_not_found: The card is not there."
    rows = text.removeprefix(sep).split("\r\n")
    assert rows[:4] == [
        "#reason;Card_ID;amount;currency;metadata",
        f'{not_found};ø-1;5;NOK;"{{""a"":',
        '1}"',
        f"{not_found};ø-2;5;NOK;",
    ]
    assert rows[4].startswith("invalid: currency: must be one of")
    assert rows[5].endswith(""";"ø-5;;5;NOK;old;""a""b\"""")
    assert rows[6:] == ["invalid: 7 cells, but the header has 6;ø-6;5;NOK;;x", ""]
    # It can be sent as it is; only the lines that can't be read are still invalid.
    with answering(fake_redis, lambda command: [answer(command)]):
        result = result_of(send(fake_redis_url, refused_file, "--json"))
    assert (result["done"], result["bad"]) == (2, 3)


def test_refused_lines_are_written_as_json_lines(
    fake_redis_url: str, fake_redis: Redis, tmp_path: Path
) -> None:
    file = tmp_path / "sales.jsonl"
    fields = {"#reason": "old", "card_id": "ø", "amount": 5, "currency": "NOK", "command_id": "x"}
    file.write_text(f"{json.dumps(fields)}\n[1]\n", "utf-8")
    with answering(fake_redis, lambda command: [refusal(command)]):
        done = send(fake_redis_url, file)
    (refused_file,) = tmp_path.glob("sales.jsonl.refused.*.jsonl")
    assert f"To correct and send: {refused_file}" in done.stdout.replace("\n", "")
    first, second = map(json.loads, refused_file.read_text("utf-8").splitlines())
    reason = "card_not_found: The card is not there."
    assert first == {"#reason": reason, "card_id": "ø", "amount": 5, "currency": "NOK"}
    assert second == {"#reason": "invalid: not a JSON object", "#line": "[1]"}
    with answering(fake_redis, lambda command: [answer(command)]):
        result = result_of(send(fake_redis_url, refused_file, "--json"))
    assert (result["done"], result["bad"]) == (1, 1)


def test_what_a_crash_left_in_the_refused_file_is_written_once(
    fake_redis_url: str, fake_redis: Redis, tmp_path: Path
) -> None:
    file = written(tmp_path / "sales.csv", "c-1,1,NOK")
    with answering(fake_redis, lambda command: [refusal(command)]):
        send(fake_redis_url, file)
        (refused_file,) = tmp_path.glob("*.refused.*")
        before = refused_file.read_text()
        refused_file.write_text(f"{before}reason,c-2,1,NOK\nreas")
        written(file, "c-1,1,NOK", "c-2,1,NOK")
        send(fake_redis_url, file)
        after = refused_file.read_text()
        assert after.startswith(before)
        assert after.count("c-2") == after.count("c-1") == after.count("#reason") == 1
        # A file that somebody has edited is not touched.
        refused_file.write_text(after.replace("c-1", "x-1"))
        written(file, "c-1,1,NOK", "c-2,1,NOK", "c-3,1,NOK")
        done = send(fake_redis_url, file)
        assert (done.exit_code, "and run it again without --again" in done.stderr) == (1, True)
        refused_file.rename(tmp_path / "edited.csv")
        assert send(fake_redis_url, file).exit_code == 1
    assert [row.split(",")[1] for row in refused_file.read_text().splitlines()] == [
        "card_id",
        "c-3",
    ]


def test_a_file_is_not_continued_in_another_encoding(fake_redis_url: str, tmp_path: Path) -> None:
    file = tmp_path / "sales.csv"
    file.write_text(f"{HEADER}\nc,1,NOK\n", "utf-8-sig")
    assert send(fake_redis_url, file, "--no-wait").exit_code == 0
    file.write_text(f"{HEADER}\nc,1,NOK\nd,1,NOK\n", "utf-16")
    code, text = refused(send(fake_redis_url, file, "--no-wait"))
    assert (code, "it has changed since it was sent (1 command), or" in text) == (1, True)


def test_each_sending_has_a_refused_file_of_its_own(
    fake_redis_url: str, fake_redis: Redis, tmp_path: Path
) -> None:
    file = written(tmp_path / "sales.csv", "c-1,1,NOK")
    with answering(fake_redis, lambda command: [refusal(command)]):
        send(fake_redis_url, file)
        send(fake_redis_url, file, "--again")
    assert len(list(tmp_path.glob("*.refused.*"))) == 2
