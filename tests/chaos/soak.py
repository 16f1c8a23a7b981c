"""Send one command after the other for long, and see whether a worker keeps growing.

python -m tests.chaos.soak --commands 300000

Prints, after each tenth, how much memory the worker has of its own, and how many blocks of it
Python has allocated, after looking for garbage and emptying caches that are bounded. Ends with 1
if the second half of the commands has left more than a byte each.
"""

import argparse
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from card_worker.contracts.cards import CreateCard
from card_worker.embedded.valkey import valkey
from card_worker.money import Currency
from card_worker.storage.migrations import upgrade
from tests import servers
from tests.flow.processes import Part, until
from tests.flow.system import ACCOUNT, System, system

STEPS = 10
DONE_S = 600.0
REPORT = signal.SIGRTMIN + 3
# Celery's worker, but asked by a signal it writes down what Python has allocated, without what its
# caches hold: they are bounded, but that of the times of commits takes 1,024 commits to be full.
BOOT = """
import gc, os, signal, sys
def report(*_):
    from card_worker.contracts import commands, fields
    for cached in (commands.event_id, fields.write_time):
        assert cached.cache_parameters()["maxsize"] is not None
        cached.cache_clear()
    gc.collect()
    with open(os.environ["BLOCKS"] + ".new", "w") as file:
        file.write(str(sys.getallocatedblocks()))
    os.replace(os.environ["BLOCKS"] + ".new", os.environ["BLOCKS"])
signal.signal(signal.SIGRTMIN + 3, report)
sys.argv = ["celery", "-A", "card_worker", "worker", "--loglevel=WARNING"]
from celery.__main__ import main
main()
"""


@dataclass(frozen=True)
class Reading:
    """What a worker has after so many commands."""

    commands: int
    blocks: int
    own_kb: int


def run(running: System, commands: int) -> list[Reading]:
    """Send so many commands, each in a message of its own; return what was read on the way."""
    blocks = running.parts.temporary / "blocks"
    worker = running.parts.run("-c", BOOT, name="worker", env={"BLOCKS": str(blocks)})
    worker.says("")
    readings = []
    step = commands // STEPS
    for first in range(0, commands, step):
        running.client.send(_command(number) for number in range(first, first + step))
        until(lambda: running.waiting() == 0, "the end of the queue", within_s=DONE_S)
        readings.append(Reading(first + step, _blocks(worker, blocks), _own_kb(worker)))
    return readings


def _command(number: int) -> CreateCard:
    name = f"card-{number}"
    return CreateCard(
        account_id=ACCOUNT, command_id=name, card_id=name, amount=500, currency=Currency.NOK
    )


def _blocks(worker: Part, file: Path) -> int:
    file.unlink(missing_ok=True)
    os.kill(worker.pid, REPORT)
    until(file.exists, "the report")
    return int(file.read_text())


def _own_kb(worker: Part) -> int:
    lines = Path(f"/proc/{worker.pid}/smaps_rollup").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("Private_Dirty:")]
    return int(line.split()[1])


def growth(readings: list[Reading]) -> float:
    """Return by how many bytes each command of the second half has made the worker grow."""
    half, last = readings[len(readings) // 2 - 1], readings[-1]
    return (last.own_kb - half.own_kb) * 1024 / (last.commands - half.commands)


def main() -> int:
    """Run on servers of its own; print what was read; 1 if the worker keeps growing."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--commands", type=int, default=300_000)
    asked = options.parse_args()
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        database = running.enter_context(servers.postgres())
        broker = running.enter_context(valkey(folder / "broker"))
        upgrade(database.url)
        own = running.enter_context(
            system(folder, database_url=database.url, broker_url=broker.url)
        )
        readings = run(own, asked.commands)
    for reading in readings:
        sys.stdout.write(
            f"{reading.commands:>9} commands  {reading.own_kb:>8} kB  {reading.blocks:>9} blocks\n"
        )
    left = growth(readings)
    sys.stdout.write(f"left by each command of the second half: {left:.2f} bytes\n")
    return 0 if left <= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
