"""Kill the worker in the midst of its work, again and again, and see what became of the money.

python -m tests.chaos.kills --messages 10000 --kills 3 --seed 1

A bare Celery client activates cards. The worker's whole process group is killed with SIGKILL at
random moments and started again. Then all is published once more. What must hold, whatever happens:

- a command has one answer: an event that is on the stream twice has one id, one sequence, one body
- a card has one transaction, and the books add up
- publishing what was answered once more adds no row

The transport that Celery brings along loses a message when it dies between taking it and noting
that it has. Those are counted and published again, not held against the worker.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from celery import Celery
from sqlalchemy import func, select

from card_worker.cli.embedded import valkey
from card_worker.storage.migrations import upgrade
from card_worker.storage.tables import transactions
from tests import servers
from tests.flow.processes import until
from tests.flow.system import ACCOUNT, STREAM, System, system

CARDS_PER_BATCH = 1_000
DONE_S = 600.0
"""A worker that answers nothing for so long is stuck."""


@dataclass
class Report:
    """What was done and what was seen."""

    messages: int
    kills: int
    seed: int
    answered: int = 0
    held: int = 0
    """Taken by a worker that was killed; the transport gives them back after a while."""
    lost: int = 0
    """Nowhere any more: neither answered nor on a queue nor held."""
    repeated_on_stream: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{self.messages} messages, {self.kills} kills, seed {self.seed}",
            f"answered before anything was published again: {self.answered}",
            f"held by killed workers, given back: {self.held}",
            f"lost by the transport, published again: {self.lost}",
            f"events that are on the stream more than once, the same each time: "
            f"{self.repeated_on_stream}",
            f"rows: {', '.join(f'{name} {number}' for name, number in self.rows.items())}",
            *(f"VIOLATION: {violation}" for violation in self.violations),
            # With no failure in n trials, the rate is below 3/n with 95 % confidence.
            f"{len(self.violations)} violations; none in {self.messages} commands means fewer than "
            f"{3 / self.messages:.2%}",
        ]
        return "\n".join(lines)


def run(running: System, *, messages: int, kills: int, seed: int) -> Report:
    """Do it all on a system of which no part runs yet; say what was seen."""
    # It knows nothing but the broker.
    with Celery(broker=running.broker_url, set_as_current=False) as producer:
        report = _run(running, producer, Report(messages, kills, seed))
        producer.pool.force_close_all()
    return report


def _run(running: System, producer: Celery, report: Report) -> Report:
    messages = report.messages
    names = [f"card-{number}" for number in range(messages)]
    running.start("relay")
    worker = running.start("worker")
    _make_cards(running, names)

    _activate(producer, names)
    # Each at another depth of the queue, the same for the same seed.
    for depth in _depths(report):
        _await_answers(running, depth)
        worker.kill9()
        worker = running.start("worker")
    running.catches_up()
    report.held = running.give_back()
    running.catches_up()
    answered = _answered(running)
    report.answered = len(answered)
    report.lost = messages - len(answered)

    _activate(producer, [name for name in names if name not in answered])
    running.catches_up()
    before = running.rows()
    _activate(producer, names)
    running.catches_up()
    report.rows = running.rows()

    if report.rows != before:
        report.violations.append(f"published again, rows went from {before} to {report.rows}")
    _look(running, names, report)
    return report


def _make_cards(running: System, names: Sequence[str]) -> None:
    batches = {
        f"batch-{start}": [{"card_id": name} for name in names[start : start + CARDS_PER_BATCH]]
        for start in range(0, len(names), CARDS_PER_BATCH)
    }
    for command_id, cards in batches.items():
        running.send("cards.batch_create", command_id, cards=cards)
    running.answers(*batches)


def _depths(report: Report) -> list[int]:
    places = range(report.messages // 20, report.messages)
    return sorted(random.Random(report.seed).sample(places, report.kills))


def _activate(producer: Celery, names: Sequence[str]) -> None:
    for name in names:
        fields = {"account_id": ACCOUNT, "card_id": name, "command_id": name}
        asked = {**fields, "amount": 500, "currency": "NOK"}
        producer.send_task("cards.activate", queue="cards", kwargs=asked)


def _answered(running: System) -> set[str]:
    return {event["correlationid"] for event in running.events_of("card.activated")}


def _await_answers(running: System, number: int) -> None:
    batches = len(running.events_of("batch.completed"))
    until(
        lambda: (
            int(str(running.redis.xlen(STREAM))) >= number + batches
            # What is lost or held is never answered by itself.
            or int(str(running.redis.llen("cards"))) == 0
        ),
        f"{number} answers",
        within_s=DONE_S,
    )


def _look(running: System, names: Sequence[str], report: Report) -> None:
    seen: dict[str, str] = {}
    answers: dict[str, set[str]] = {name: set() for name in names}
    for entry, event in zip(running.stream(), running.events(), strict=True):
        if seen.setdefault(entry["id"], entry["event"]) != entry["event"]:
            report.violations.append(f"two events with the id {entry['id']}")
        if event["correlationid"] in answers:
            answers[event["correlationid"]].add(entry["id"])
            if event["type"] != "card.activated":
                report.violations.append(f"{event['correlationid']} was answered {event['type']}")
    report.repeated_on_stream = len(running.stream()) - len(seen)
    report.violations += [
        f"{name} has {len(ids)} answers" for name, ids in answers.items() if len(ids) != 1
    ]
    with running.engine.connect() as connection:
        per_card = select(func.count(transactions.c.id)).group_by(transactions.c.card)
        counts = connection.execute(per_card).scalars().all()
    if list(counts) != [1] * len(names):
        report.violations.append(f"{len(counts)} cards have {sum(counts)} transactions")
    proof = running.cli("reconcile")
    if proof.exit_code != 0:
        report.violations.append(f"the books don't add up: {proof.output}")
    if running.letters():
        report.violations.append(f"{len(running.letters())} dead letters")


def main() -> int:
    """Run on servers of its own; print what was seen; 1 if anything was wrong."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--messages", type=int, default=10_000)
    options.add_argument("--kills", type=int, default=3)
    options.add_argument("--seed", type=int, default=1)
    asked = options.parse_args()
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="kills-")))
        broker = running.enter_context(valkey(folder / "broker"))
        database = running.enter_context(servers.postgres(durable=True))
        upgrade(database.url)
        parts = running.enter_context(
            system(folder, database_url=database.url, broker_url=broker.url)
        )
        report = run(parts, messages=asked.messages, kills=asked.kills, seed=asked.seed)
    sys.stdout.write(f"{report}\n")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
