"""Who takes part: what each starts, how it is sent messages, and how many it gets in a turn."""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import psycopg

from benchmarks import filling
from benchmarks.filling import Numbers
from benchmarks.programs import ROOT, Command, Failed
from benchmarks.signing import PEPPERS_TEXT, register_at
from benchmarks.stage import PEERS_PYTHON, Place, ours
from card_worker.contracts.commands import Queue

Send = Callable[[Place, Numbers], None]
"""Put the commands with these numbers on the queue."""

Left = Callable[[Place], int]
"""How many messages haven't been acknowledged."""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One that works off messages."""

    name: str
    programs: tuple[Command, ...]
    send: Send
    left: Left
    commands: int
    """In a turn: what takes some five seconds."""
    warm_up: int
    """Commands before the clock starts, so that no process is new to the work."""
    prepare: Command | None = None
    """Run once, before the programs."""
    environment: Mapping[str, str] = field(default_factory=dict)


# --- Those that are started and sent to in an environment of their own -------------------------


def run_peer(place: Place, command: Command) -> None:
    """Run a program of the peers' to its end. Raises Failed."""
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **place.environment},
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    if ended.returncode != 0:
        raise Failed(f"{' '.join(command)} ended with {ended.returncode}\n{ended.stderr}")


def _command(line: str) -> Command:
    return (str(PEERS_PYTHON), "-m", *line.split())


def _send(module: str, task: str, place: Place, numbers: Numbers) -> None:
    assert isinstance(numbers, range), "a peer's commands follow one another"
    line = f"benchmarks.peers.send {module} {task} {numbers.start} {len(numbers)}"
    run_peer(place, _command(line))


def _left_to_celery(place: Place) -> int:
    return _count(place, lists=["celery"], hashes=["unacked"])


def _left_to_dramatiq(place: Place) -> int:
    # A message leaves this hash when it is acknowledged.
    return _count(place, hashes=["dramatiq:default.msgs"])


def _left_to_taskiq(place: Place) -> int:
    groups: Any = place.redis.xinfo_groups("taskiq")
    return sum(group["pending"] + (group["lag"] or 0) for group in groups)


def _left_to_procrastinate(place: Place) -> int:
    jobs = "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
    with psycopg.connect(place.database_url) as connection:
        row = connection.execute(jobs).fetchone()
    assert row is not None
    return int(row[0])


def _count(place: Place, *, lists: Sequence[str] = (), hashes: Sequence[str] = ()) -> int:
    counts: list[Any] = [place.redis.llen(name) for name in lists]
    counts += [place.redis.hlen(name) for name in hashes]
    return sum(counts)


# The settings of each are the fastest of those that were tried by hand; what was tried stands
# beside them.

_CELERY = _command(
    "celery -A benchmarks.peers.plain_celery worker --pool prefork --concurrency 2"
    " --loglevel WARNING --without-gossip --without-mingle --without-heartbeat"
)
_PROCRASTINATE_APP = "procrastinate --app benchmarks.peers.with_procrastinate.app"
# Threads: 1, 2, 4 and 8; asynchronous tasks, 4 and 10 at once, were slower.
_PROCRASTINATE = _command(f"{_PROCRASTINATE_APP} worker --concurrency 8")


def _plain_celery(name: str, task: str, commands: int) -> Contestant:
    return Contestant(
        name=name,
        programs=(_CELERY,),
        send=partial(_send, "plain_celery", task),
        left=_left_to_celery,
        commands=commands,
        warm_up=100,
    )


def _dramatiq(task: str, commands: int, *, threads: int, prefetch: int) -> Contestant:
    line = f"dramatiq benchmarks.peers.with_dramatiq --processes 2 --threads {threads}"
    return Contestant(
        name="dramatiq",
        programs=(_command(line),),
        send=partial(_send, "with_dramatiq", task),
        left=_left_to_dramatiq,
        commands=commands,
        warm_up=100,
        environment={"dramatiq_queue_prefetch": str(prefetch)},
    )


def _taskiq(task: str, commands: int, *, at_once: int) -> Contestant:
    line = "taskiq worker benchmarks.peers.with_taskiq:broker --workers 2 --log-level WARNING"
    return Contestant(
        name="taskiq",
        programs=(_command(f"{line} --max-async-tasks {at_once}"),),
        send=partial(_send, "with_taskiq", task),
        left=_left_to_taskiq,
        commands=commands,
        warm_up=100,
    )


def _procrastinate(task: str, commands: int) -> Contestant:
    return Contestant(
        name="procrastinate",
        programs=(_PROCRASTINATE,) * 2,
        send=partial(_send, "with_procrastinate", task),
        left=_left_to_procrastinate,
        commands=commands,
        warm_up=100,
        prepare=_command(f"{_PROCRASTINATE_APP} schema --apply"),
    )


PLAIN_ORM = _plain_celery("plain ORM", "activate_orm", 1_500)
PLAIN_CORE = _plain_celery("plain Core", "activate_core", 1_500)
OTHER_PEERS = (
    # 1, 2, 4, 8 and 16 threads that prefetch twice as many; 2 and 8 that prefetch 200.
    _dramatiq("activate", 2_000, threads=2, prefetch=200),
    # 1, 2, 4 and 10 at once; and as many threads with an ordinary engine, which were slower.
    _taskiq("activate", 1_500, at_once=4),
    _procrastinate("activate", 1_000),
)
NOTHING_PLAIN = _plain_celery("plain Celery", "nothing", 4_000)
NOTHING_PEERS = (
    # 1, 2, 4, 8, 16, 32 and 64 threads that prefetch twice as many; 1 and 8 that prefetch 200.
    _dramatiq("nothing", 15_000, threads=16, prefetch=32),
    _taskiq("nothing", 15_000, at_once=100),  # 4, 10 and 100
    _procrastinate("nothing", 2_000),
)

# --- Ours --------------------------------------------------------------------------------------


def _worker(number: int, *options: str) -> Command:
    name = f"--hostname=worker{number}@%h"
    return (ours("card-worker"), "worker", "--loglevel=WARNING", name, *options)


def _nothing_worker(number: int) -> Command:
    line = f"-A benchmarks.nothing worker --loglevel WARNING --hostname worker{number}@%h"
    return (ours("celery"), *line.split())


def _left_to_us(place: Place) -> int:
    in_flight: Any = place.redis.keys("inflight.of.*")
    hashes = [name.decode() for name in in_flight]
    return _count(place, lists=[Queue.CARDS, Queue.BULK, "nothing"], hashes=hashes)


def _ours(
    name: str,
    programs: tuple[Command, ...],
    send: Callable[[str, Numbers], None] = filling.send_activations,
    commands: int = 20_000,
) -> Contestant:
    return Contestant(
        name=name,
        programs=programs,
        send=lambda place, numbers: send(place.broker_url, numbers),
        left=_left_to_us,
        commands=commands,
        warm_up=1_000,
    )


def _send_signed(place: Place, numbers: Numbers) -> None:
    register_at(place.database_url)
    filling.send_signed(place.broker_url, numbers)


OURS = _ours("ours", (_worker(1), _worker(2)))
OURS_ALONE = _ours("ours, one worker", (_worker(1),), commands=15_000)
OURS_PREFORK = _ours("ours, prefork", (_worker(1, "--pool=processes", "--concurrency=2"),))
OURS_SIGNED = replace(
    OURS,
    name="ours, signed",
    send=_send_signed,
    environment={"CARD_WORKER_PRODUCER_PEPPERS": PEPPERS_TEXT},
)
OURS_IN_LISTS = _ours("ours, in lists", (_worker(1), _worker(2)), filling.send_lists, 40_000)
OURS_NOTHING = _ours(
    "ours",
    (_nothing_worker(1), _nothing_worker(2)),
    lambda broker_url, numbers: filling.send_each(broker_url, "nothing", "nothing", numbers),
    80_000,
)
