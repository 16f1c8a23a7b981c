"""`card-worker demo`, run as after an installation."""

import re
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest
from typer.testing import CliRunner

from card_worker.cli import app
from tests.processes import Run, program

# What a user has set for other installations; the demo must not even look there.
ELSEWHERE = {
    "CARD_WORKER_BROKER_URL": "redis://127.0.0.1:1/0",
    "CARD_WORKER_EVENTS_URL": "redis://127.0.0.1:1/0",
    "CARD_WORKER_EVENT_STREAM": "elsewhere",
    "CARD_WORKER_SWEEP_INTERVAL_S": "wrong",
    "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The demo after its end."""
    with program(tmp_path_factory.mktemp("demo"), "demo") as run:
        run.process.wait(timeout=120)
        yield run


def test_it_ends_with_the_line_that_the_books_add_up(shown: Run) -> None:
    assert shown.process.returncode == 0, shown.output
    assert shown.output.splitlines()[-1] == "The books add up."


@pytest.mark.parametrize(
    "row",
    [
        ("1", "1", "batch.completed", "order-1", "1,000 cards"),
        ("3", "3", "card.activated", "card-0002", "500.00 NOK, unused"),
        ("4-103", "4", "card.activated", "card-0101 .. 0200", "100.00 NOK each, unused"),
        ("104", "5", "card.created", "gift-card-1", "75.00 SEK, unused"),
        ("105", "6", "command.rejected", "card-0002", "card_already_active"),
        ("106", "7", "command.rejected", "card-9999", "card_not_found"),
        ("107", "8", "command.rejected", "card-0003", "invalid"),
        ("108", "9", "command.rejected", "card-0002", "idempotency_conflict"),
        ("109", "10", "card.activated", "card-0002", "500.00 NOK, unused"),
        ("113", "14", "hold.voided", "card-0002", "230.00 NOK,"),
        ("115", "16", "card.blocked", "card-0002", "250.00 NOK, blocked"),
        ("116", "17", "command.rejected", "card-0002", "card_blocked"),
        ("118", "18", "card.created", "gift-card-2", "250.00 NOK, unused"),
        ("119", "19", "card.closed", "gift-card-2", "0.00 NOK, closed"),
        ("120", "20", "batch.completed", "order-2", "3 cards"),
        ("123", "23", "command.rejected", "pay-2", "card_not_usable"),
        ("126", "26", "command.rejected", "pay-4", "token_spent"),
        ("127", "27", "card.activated", "card-0004", "100.00 NOK, unused"),
        ("128", "28", "command.rejected", "card-0005", "limit_exceeded"),
        ("129", "30", "card.expired", "card-0001", "50.00 EUR, expired"),
        ("message", '<sale card="card-0004" amount="100,-"/>'),
        ("NOK", "104", "10,820.00", "330.00", "250.00", "10,240.00", "yes"),
    ],
    ids=lambda row: row[-1],
)
def test_it_shows(row: tuple[str, ...], shown: Run) -> None:
    cells = [
        tuple(cell.strip() for cell in line.strip("│").split("│"))
        for line in shown.output.splitlines()
        if line.startswith("│")
    ]
    assert row in cells


def test_the_opened_bureau_file_is_shown(shown: Run) -> None:
    rows = re.findall(r"^│ plastic-(\d) │ (\d{16}) │ (\d{4}) │$", shown.output, re.MULTILINE)
    assert [number for number, _, _ in rows] == ["1", "2", "3"]
    assert len({token for _, token, _ in rows}) == 3


def test_it_fits_into_80_columns(shown: Run) -> None:
    assert max(map(len, shown.output.splitlines())) <= 80
    assert "…" not in shown.output


def test_it_leaves_neither_process_nor_file(shown: Run) -> None:
    assert shown.leftovers() == []
    assert list(shown.folder.iterdir()) == []
    assert list((shown.folder.parent / "tmp").iterdir()) == []


def test_a_kept_folder_is_the_owner_s_and_settings_of_other_installations_are_ignored(
    tmp_path: Path,
) -> None:
    kept = tmp_path / "cwd" / "kept"
    kept.mkdir(parents=True, mode=0o755)
    with program(tmp_path, "demo", "--keep", "kept", **ELSEWHERE, PYTHONIOENCODING="ascii") as run:
        _wait_for("They are ready", run)
        assert stat.S_IMODE(kept.stat().st_mode) == 0o700
        assert run.process.wait(timeout=120) == 0, run.output
        assert run.output.splitlines()[-1] == "The books add up."
        assert (kept / "logs" / "worker.log").exists()
        assert (kept / "labels.pdf").read_bytes().startswith(b"%PDF")
        opened = CliRunner().invoke(
            app,
            [
                *("batch", "open", str(kept / "files" / "T00000001" / "order-2.csv.age")),
                *("--identity", str(kept / "bureau-identity.txt")),
            ],
        )
        assert opened.output.splitlines()[0] == "card_id,token,pin,type"
        assert len(opened.output.splitlines()) == 4


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    with program(tmp_path, "demo", "--keep", str(Path(__file__).parent)) as run:
        assert run.process.wait(timeout=60) == 2
        assert "not an empty folder" in run.output


@pytest.mark.parametrize("when", ["Starting", "They are ready"])
def test_ctrl_c_leaves_neither_process_nor_file(when: str, tmp_path: Path) -> None:
    with program(tmp_path, "demo") as run:
        deadline = monotonic() + 60
        while when not in run.output and monotonic() < deadline:
            sleep(0.02)
        run.process.send_signal(signal.SIGINT)
        assert run.process.wait(timeout=60) == 1
        assert run.output.splitlines()[-1] == "card-worker: interrupted; nothing is left running"
        assert run.leftovers() == []
        assert list((tmp_path / "tmp").iterdir()) == []


def test_the_next_demo_removes_the_folder_of_a_killed_one(tmp_path: Path) -> None:
    with program(tmp_path, "demo") as killed:
        _wait_for("They are ready", killed)
        (left,) = (tmp_path / "tmp").glob("card_worker-demo-*")
        assert stat.S_IMODE(left.stat().st_mode) == 0o700
        killed.process.kill()
        killed.process.wait()
    # The parts have ended as well by now. Their keys are still there.
    assert (left / "keys" / "pin_peppers.txt").exists()
    foreign = tmp_path / "tmp" / "card_worker-demo-x"
    foreign.symlink_to(tmp_path)
    with program(tmp_path, "demo") as run:
        _wait_for("Starting", run)
        _wait_until(lambda: not left.exists())
        run.process.send_signal(signal.SIGINT)
        run.process.wait(timeout=60)
    assert list((tmp_path / "tmp").glob("card_worker-demo-*")) == [foreign]


def _wait_for(said: str, run: Run) -> None:
    _wait_until(lambda: said in run.output)


def _wait_until(is_so: Callable[[], bool]) -> None:
    deadline = monotonic() + 60
    while not is_so():
        assert monotonic() < deadline
        sleep(0.02)
