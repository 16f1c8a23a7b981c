"""`card-worker dev`, used with only the lines that it prints."""

import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from sqlalchemy import update

from card_worker.client import Client
from card_worker.contracts.batches import CreateBatch
from card_worker.contracts.cards import CreateCard
from card_worker.contracts.commands import ProducerCommand
from card_worker.money import Currency
from card_worker.storage.engine import begin, open_engine
from card_worker.storage.tables import cards
from tests.flow.processes import until
from tests.processes import PROGRAM, Run, program

READY = "card-worker --help"
"""How the last line ends that is printed when all runs."""


@contextmanager
def _dev(folder: Path) -> Iterator[Run]:
    # A name with a space, as on many a desktop.
    folder = folder / "my shop"
    folder.mkdir(exist_ok=True)
    with program(folder, "dev") as run:
        deadline = monotonic() + 90
        while READY not in run.output and run.process.poll() is None and monotonic() < deadline:
            sleep(0.05)
        assert READY in run.output
        yield run


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The system while it runs."""
    with _dev(tmp_path_factory.mktemp("dev")) as run:
        yield run


def test_the_printed_lines_work_as_they_are(running: Run) -> None:
    pasted = re.findall(r"^export .*$|^.*card-worker .*$", running.output, re.MULTILINE)
    done = _in_another_terminal("\n".join(["set -e", *pasted]))
    assert done.returncode == 0, done.stderr
    assert "card.created" in done.stdout
    assert re.search(r"status\W+unused", done.stdout)
    assert "card.updated" in done.stdout


def test_other_commands_work_with_the_printed_exports(running: Run) -> None:
    exports = re.findall(r"^export .*$", running.output, re.MULTILINE)
    (look,) = re.findall(r"^.* card show .*$", running.output, re.MULTILINE)
    program = look.partition(" card show ")[0]
    done = _in_another_terminal("\n".join([*exports, f"{program} reconcile --json"]))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["differences"] == []


def test_flower_answers_on_this_machine_and_shows_the_worker(running: Run) -> None:
    flower = urlsplit(_printed(running, "Flower"))
    assert flower.hostname == "127.0.0.1"
    workers = dict[str, object]()
    deadline = monotonic() + 60
    while not workers and monotonic() < deadline:
        status, body = _http("GET", flower.netloc, "/api/workers?refresh=1")
        workers = json.loads(body) if status == 200 else {}
    assert len(workers) == 1


def test_flower_shows_each_message_by_its_name_with_state_and_runtime(running: Run) -> None:
    task = _shown_by_flower(running, "cards.create", lambda n: _small_card(f"shown-{n}"))
    assert task["result"] == "card.created"
    assert task["runtime"] > 0
    assert "account_id" in task["kwargs"]


def test_flower_shows_the_chunks_of_an_order(running: Run) -> None:
    task = _shown_by_flower(running, "batches.work", _small_order)
    assert task["runtime"] > 0
    for said in ("'batch_id': 'order-", "'action': 'make'", "'number': "):
        assert said in task["kwargs"]


def _shown_by_flower(
    running: Run, task: str, asked: Callable[[int], ProducerCommand]
) -> dict[str, Any]:
    """Ask for things until Flower shows one of these tasks as done; return what it shows."""
    flower = urlsplit(_printed(running, "Flower"))
    number = itertools.count()
    done = list[dict[str, Any]]()

    def shown() -> bool:
        # Workers tell nothing until Flower has asked them, so one more each time.
        with Client(_exported(running, "BROKER_URL")) as client:
            client.send(asked(next(number)))
        status, body = _http("GET", flower.netloc, f"/api/tasks?taskname={task}")
        tasks = json.loads(body).values() if status == 200 else []
        done.extend(one for one in tasks if one["state"] == "SUCCESS")
        return bool(done)

    until(shown, "a task in Flower")
    assert done[0]["name"] == task
    return done[0]


def _small_card(card_id: str) -> CreateCard:
    return CreateCard(
        account_id="T00000001",
        command_id=card_id,
        card_id=card_id,
        amount=100,
        currency=Currency.NOK,
    )


def _small_order(number: int) -> CreateBatch:
    return CreateBatch(
        account_id="T00000001",
        command_id=f"order-{number}",
        count=3,
        card_id_pattern=f"ordered-{number}-{{n}}",
    )


def test_flower_is_read_only(running: Run) -> None:
    host = urlsplit(_printed(running, "Flower")).netloc
    status, _ = _http("POST", host, "/api/task/send-task/cards.create")
    assert status == 403


def test_the_sweep_of_beat_expires_a_card(running: Run) -> None:
    with Client(_exported(running, "BROKER_URL")) as client:
        after = client.newest()
        client.send(
            CreateCard(
                account_id="T00000001",
                command_id="short",
                card_id="short",
                amount=100,
                currency=Currency.NOK,
                expires_at=datetime.now(UTC) + timedelta(days=1),
            )
        )
        about = (
            event["type"]
            for event in client.events(after, timeout_s=60)
            if event["subject"] == "short"
        )
        assert next(about, None) == "card.created"
        _let_expire(running, "short")
        assert next(about, None) == "card.expired"


def _let_expire(running: Run, card_id: str) -> None:
    """Let the time of a card be over."""
    engine = open_engine(_exported(running, "DATABASE_URL"))
    with begin(engine) as (connection, now):
        over = now - timedelta(seconds=1)
        connection.execute(update(cards).where(cards.c.card_id == card_id).values(expires_at=over))
    engine.dispose()


def test_a_second_system_in_the_folder_is_refused_in_one_line(running: Run) -> None:
    done = subprocess.run(
        [PROGRAM, "dev"],
        check=False,
        cwd=running.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert re.fullmatch(r"card-worker: another demo or dev is already running in .*\n", done.stderr)
    assert running.process.poll() is None


def test_a_signal_ends_it_in_order_and_the_next_start_has_the_same_port(tmp_path: Path) -> None:
    brokers = set()
    for number in (signal.SIGINT, signal.SIGTERM):
        with _dev(tmp_path) as run:
            brokers.add(_exported(run, "BROKER_URL"))
            assert len(run.leftovers()) == 6  # itself, broker, worker, relay, beat, Flower
            run.process.send_signal(number)
            assert run.process.wait(timeout=60) == 0, run.output
            assert run.leftovers() == []
            assert [each.name for each in run.folder.iterdir()] == [".card-worker-dev"]
    assert len(brokers) == 1


@pytest.mark.parametrize("part", ["celery -A card_worker worker", "valkey-server"])
def test_when_a_process_dies_it_ends_the_others(part: str, tmp_path: Path) -> None:
    with _dev(tmp_path) as run:
        parts = psutil.Process(run.process.pid).children()
        (victim,) = (each for each in parts if part in " ".join(each.cmdline()))
        victim.kill()
        assert run.process.wait(timeout=60) == 1
        assert re.search(r"^card-worker: .* ended by itself with status -9", run.output, re.M)
        assert run.leftovers() == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a process to its starter")
def test_kill_9_leaves_nothing_running_either(tmp_path: Path) -> None:
    with _dev(tmp_path) as run:
        run.process.kill()
        run.process.wait()
        deadline = monotonic() + 60
        while run.leftovers() and monotonic() < deadline:
            sleep(0.1)
        assert run.leftovers() == []


def _printed(run: Run, name: str) -> str:
    (value,) = re.findall(rf"^  {name} +(\S.*)$", run.output, re.MULTILINE)
    return str(value)


def _exported(run: Run, name: str) -> str:
    (value,) = re.findall(rf"^export CARD_WORKER_{name}=(\S.*)$", run.output, re.MULTILINE)
    (plain,) = shlex.split(value)
    return plain


def _in_another_terminal(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", line],
        check=False,
        env={"PATH": os.defpath},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )


def _http(method: str, host: str, path: str) -> tuple[int, bytes]:
    connection = HTTPConnection(host, timeout=60)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
