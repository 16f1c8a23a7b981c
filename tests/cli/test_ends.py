"""Every command ends with one line and no traceback, for any arguments and any output stream."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil
import pytest
from sqlalchemy import update

from card_worker.cli import _run as run
from card_worker.contracts.enums import BatchState
from card_worker.embedded.valkey import valkey
from card_worker.storage.engine import begin, open_engine
from card_worker.storage.tables import batches
from tests.cli.commands import all_commands
from tests.cli.forks import CLOSED, CLOSED_PIPE, FULL, Case, Ended, Forks
from tests.orders import ACCOUNT, Orders
from tests.processes import program

CARDS = 300
LIST = ("card", "list", "--account", ACCOUNT, "--limit", "1000", "--json")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> str:
    """A database with some cards, more than a pipe holds as JSON."""
    path = tmp_path_factory.mktemp("ends") / "cards.db"
    path.write_bytes(sqlite_template.read_bytes())
    engine = open_engine(f"sqlite:///{path}")
    orders = Orders(engine)
    orders.order(CARDS)
    orders.work()
    engine.dispose()
    return str(engine.url)


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    running = Forks(tmp_path_factory.mktemp("forks"))
    yield running
    running.close()


def line_of(ended: Ended) -> str:
    """Return the error of a command, which is one line."""
    (line,) = [line for line in ended.err.splitlines() if line.startswith("card-worker: ")]
    assert "Traceback" not in ended.err
    return line.removeprefix("card-worker: ")


# --- output streams ---------------------------------------------------------------------------


def test_output_that_cannot_be_written_is_an_error_of_one_line(database: str, forks: Forks) -> None:
    settings = {"DATABASE_URL": database}
    commands = [LIST, ("card", "list", "-a", ACCOUNT), ("--help",), ("card", "list", "--help")]
    for ended in forks.run(*[Case(given, settings, FULL) for given in commands]):
        assert (ended.code, ended.err) == (1, "card-worker: stdout: No space left on device\n")


def test_a_reader_that_has_gone_is_no_error_and_changes_no_exit_code(
    database: str, forks: Forks
) -> None:
    settings = {"DATABASE_URL": database}
    commands: dict[tuple[str, ...], int] = {
        LIST: 0,
        ("card", "list", "-a", ACCOUNT): 0,
        ("--help",): 0,
        ("reconcile",): 0,
        ("card", "show", "none", "-a", ACCOUNT): 1,
    }
    cases = [Case(given, settings, where) for given in commands for where in (CLOSED_PIPE, CLOSED)]
    for case, ended in zip(cases, forks.run(*cases), strict=True):
        assert ended.code == commands[tuple(case.arguments)], ended.err
        assert "Traceback" not in ended.err


@pytest.mark.parametrize("where", [FULL, CLOSED_PIPE, CLOSED])
def test_stderr_that_cannot_be_written_changes_no_exit_code(where: str, forks: Forks) -> None:
    cases = [
        Case(given, {}, stderr=where) for given in (("bogus",), ("card", "show"), ("reconcile",))
    ]
    assert [ended.code for ended in forks.run(*cases)] == [2, 2, 2]


def test_json_output_names_the_next_page_on_stderr(database: str, forks: Forks) -> None:
    given, settings = ("card", "list", "-a", ACCOUNT, "--json"), {"DATABASE_URL": database}
    cases = [Case((*given, "--limit", limit), settings) for limit in ("2", f"{CARDS}")]
    some, everything = forks.run(*cases)
    names = [json.loads(line)["card_id"] for line in some.out.splitlines()]
    assert names == ["B1-0001", "B1-0002"]
    assert (some.code, some.err) == (0, "There are more: --after B1-0002\n")
    assert (len(everything.out.splitlines()), everything.err) == (CARDS, "")


# --- arguments --------------------------------------------------------------------------------

USAGE = {
    ("bogus",): "No such command 'bogus'",
    ("card", "list", "--bogus"): "No such option: --bogus",
    ("worker", "--bogus"): "No such option '--bogus'",
    ("beat", "--bogus"): "No such option '--bogus'",
    ("worker", "bogus"): "Unable to parse extra configuration",
    ("worker", "--queues"): "Option '--queues' requires an argument",
    ("worker", "--queues=nonsense"): "--queues: there is no queue nonsense; there are cards, card",
    ("worker", "-Q", "cards,nonsense"): "--queues: there is no queue nonsense; there are cards, ",
    ("worker", "--exclude-queues=x"): "--exclude-queues: there is no queue x; there are cards, ca",
    ("worker", "--pool=gevent"): "worker can't start with --pool=gevent: No module named",
    ("worker", "--include=nonsense"): "worker can't start with --include=nonsense: No module named",
    ("worker", "--uid=nonsense"): "worker can't start with --uid=nonsense: User does not exist: ",
    ("beat", "--scheduler=nonsense"): "beat can't start with --scheduler=nonsense: No module name",
    ("beat", "--max-interval=x"): "Invalid value for '--max-interval': 'x' is not",
    ("card", "list", "-a", ACCOUNT, "--status=x"): "Invalid value for '--status': 'x' is not one ",
    ("card", "list", "-a", ACCOUNT, "--available-min", f"{2**64}"): "Invalid value for '--availab",
    ("dead-letters", "show", f"{2**63}"): "Invalid value for 'letter': Input should be less than ",
    ("account", "set", ACCOUNT, "--reversal-window-s", f"{2**62}"): "Invalid value for '--reversa",
    ("events", "tail", "--timeout", "nan"): "Invalid value for '--timeout'",
    ("dev", "--folder", "/dev/null"): "/dev/null: File exists",
    ("codes", "open", "/", "-i", "/dev/null"): "Invalid value for 'file': file '/' is a directory",
}


def test_wrong_usage_is_one_line_and_exit_2(database: str, forks: Forks, tmp_path: Path) -> None:
    with valkey(tmp_path / "broker") as broker:
        settings = {"DATABASE_URL": database, "BROKER_URL": broker.url}
        cases = [Case(given, settings) for given in USAGE]
        ends = forks.run(*cases)
    for case, ended in zip(cases, ends, strict=True):
        assert ended.code == 2, (case, ended)
        assert line_of(ended).startswith(USAGE[tuple(case.arguments)])
        # Celery adds a warning against root.
        assert len(ended.err.splitlines()) == 1 or os.getuid() == 0


NONSENSE: dict[type, tuple[str, ...]] = {
    bool: (),
    int: ("nonsense", "", f"-{2**63}", f"{2**64}"),
    float: ("nonsense", "nan", "inf"),
}
WORDS = ("", "nonsense", "\x1b[31m\u20ac %s {} [/]", "x" * 5000, "/")
RUNNING = {"demo", "dev", "worker", "beat", "relay", "contract"}
"""Commands that start processes or write many files."""


def commands(group: Any, *before: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield all commands of a group with the words that name them."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *before, name)
        else:
            yield (*before, name), command


def nonsense(parameter: Any) -> tuple[str, ...]:
    annotation = parameter.type_descriptor.annotation
    return NONSENSE.get(annotation, WORDS)


def given(parameter: Any, value: str) -> list[str]:
    if parameter.param_type_name == "argument":
        return [value]
    return [f"{parameter.opts[0]}={value}"] if parameter.opts[0].startswith("--") else []


def every_option() -> Iterator[tuple[str, ...]]:
    """Yield each command with nonsense for each of its parameters, one at a time."""
    for name, command in commands(all_commands()):
        if name[0] in RUNNING:
            continue
        for parameter in command.params:
            others = [
                each
                for other in command.params
                if other is not parameter and other.required
                for each in given(other, nonsense(other)[1])
            ]
            for value in nonsense(parameter):
                yield (*name, *given(parameter, value), *others)


def test_no_option_of_any_command_leads_to_a_traceback(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARD_WORKER_DATABASE_URL", database)
    cases = list(every_option())
    assert len(cases) > 200
    with valkey(tmp_path / "broker") as broker:
        monkeypatch.setenv("CARD_WORKER_BROKER_URL", broker.url)
        for arguments in cases:  # any other error is raised
            assert run(arguments) in (0, 1, 2), arguments


def test_every_number_has_bounds() -> None:
    numbers = [
        (*name, parameter.opts[0], parameter.type_descriptor.parameter_info)
        for name, command in commands(all_commands())
        for parameter in command.params
        if parameter.type_descriptor.annotation in (int, float)
    ]
    unbounded = [named for *named, info in numbers if info.min is None or info.max is None]
    assert len(numbers) > 5
    assert unbounded == []


# --- Ctrl-C -----------------------------------------------------------------------------------


def test_ctrl_c_ends_a_command_silently(database: str, tmp_path: Path) -> None:
    engine = open_engine(database)
    with begin(engine) as (connection, _):
        connection.execute(update(batches).values(state=BatchState.RUNNING))
    named = ("batch", "watch", "B1", "--account", ACCOUNT)
    try:
        with program(tmp_path, *named, CARD_WORKER_DATABASE_URL=database) as run:
            watching, deadline = psutil.Process(run.process.pid), monotonic() + 60
            while "cards.db" not in {Path(file.path).name for file in watching.open_files()}:
                assert monotonic() < deadline
                sleep(0.05)
            run.process.send_signal(signal.SIGINT)
            assert run.process.wait(timeout=60) == 130
            assert "Traceback" not in run.output
    finally:
        with begin(engine) as (connection, _):
            connection.execute(update(batches).values(state=BatchState.COMPLETED))
        engine.dispose()
