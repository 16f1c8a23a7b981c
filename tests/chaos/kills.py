"""Kill workers in the midst of their work, hundreds of times, and see what became of the money.

python -m tests.chaos.kills --messages 50000 --kills 300 --seed 1

A bare Celery client activates cards. Workers take them, and one after the other is killed with
SIGKILL, it and all it has started: in the midst of a transaction, or a few milliseconds after a
commit; now and then all of them at once, as a machine's crash does. Each is replaced. Then the
living return what the dead held, and all is done. What must hold:

- every message that was published is answered, or is a dead letter after five starts, and answered
  when an operator sends that once more
- a command has one answer: an event that is on the stream twice has one id and one body
- a card has one transaction, and the books add up
- publishing everything once more adds no row

Beside it, the same with the transport that Celery brings along, to show what that loses.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep

from celery import Celery
from kombu import pools
from redis import Redis
from sqlalchemy import func, select, text

from card_worker.embedded.valkey import Valkey, valkey
from card_worker.storage.engine import reading
from card_worker.storage.migrations import upgrade
from card_worker.storage.tables import cards, outbox, transactions
from tests import servers
from tests.chaos.transports import Ours, Stock, Transport
from tests.flow.processes import Part, until
from tests.flow.system import ACCOUNT, System, system
from tests.servers import Postgres

CARDS_PER_BATCH = 1_000
VICTIMS = 3
"""Workers at a time: while one is replaced, the others work."""
GROUP_MAX = "50"
"""So that what waits for one kill is several commits, and a kill holds few of the messages."""
AFTER_COMMIT_MS_MAX = 40.0
KILLS_PER_CRASH = 10
"""One in so many kills, the first among them, is of all workers at once."""
DONE_S = 600.0
"""A system that answers nothing for so long is stuck."""


@dataclass
class Report:
    """What was done with one transport, and what was seen."""

    transport: str
    messages: int
    kills: int
    seed: int
    held_at_kills: int = 0
    """How many messages were in flight when a worker was killed, summed over the kills."""
    lost: list[str] = field(default_factory=list)
    """Neither answered nor kept as a dead letter."""
    letters: int = 0
    """Started five times, and answered when they were sent once more."""
    repeated_on_stream: int = 0
    violations: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not self.lost and not self.violations

    def __str__(self) -> str:
        answered = self.messages - len(self.lost)
        lines = [
            f"{self.transport}: {self.messages} messages, {self.kills} kills, seed {self.seed}",
            f"  in flight at a kill, on average       {self.held_at_kills / self.kills:.0f}",
            f"  answered                              {answered}",
            f"  lost                                  {len(self.lost)}",
            f"  dead letters on the way               {self.letters}",
            f"  effects doubled, or otherwise wrong   {len(self.violations)}",
            f"  events told more than once, alike     {self.repeated_on_stream}",
            *(f"  WRONG: {violation}" for violation in self.violations[:20]),
        ]
        if self.is_clean:
            # With no failure in n trials, the rate is below 3/n with 95 % confidence.
            lines.append(f"  none in {self.kills} kills: fewer than {3 / self.kills:.1%} of kills")
        return "\n".join(lines)


class Run:
    """One run on a system of which no part runs yet."""

    def __init__(
        self, running: System, transport: Transport, *, messages: int, kills: int, seed: int
    ) -> None:
        self._system, self._transport = running, transport
        self._names = [f"card-{number}" for number in range(messages)]
        self._chance = random.Random(seed)
        self._victims: list[Part] = []
        self._started = 0
        self._report = Report(transport.name, messages, kills, seed)

    def run(self) -> Report:
        """Do it all; say what was seen."""
        report = self._report
        self._transport.choose(self._system)
        self._system.start("relay")
        # It takes none of the messages that the others die at, and returns what they held.
        self._system.start("worker", "--hostname=keeper@%h", "--queues=cards.bulk,cards.system")
        self._make_cards()
        # It knows nothing but the broker.
        with Celery(broker=self._system.broker_url, set_as_current=False) as producer:
            self._kill_at_work(producer)
            self._finish()
            report.lost = self._unanswered()
            self._look()
            if report.lost:
                # Whoever sends again what was lost has it answered; the rest must hold as well.
                self._activate(producer, report.lost)
                self._settle()
            before = self._system.rows()
            self._activate(producer, self._names)
            self._settle()
            if (after := self._system.rows()) != before:
                report.violations.append(f"sent again, rows went from {before} to {after}")
            pools.reset()
        return report

    def _make_cards(self) -> None:
        batches = {
            f"batch-{start}": [
                {"card_id": name} for name in self._names[start : start + CARDS_PER_BATCH]
            ]
            for start in range(0, len(self._names), CARDS_PER_BATCH)
        }
        for command_id, listed in batches.items():
            self._system.send("cards.batch_create", command_id, cards=listed)
        until(lambda: self._events() >= len(batches), "the cards", within_s=DONE_S)

    def _activate(self, producer: Celery, names: Sequence[str]) -> None:
        for name in names:
            fields = {"account_id": ACCOUNT, "card_id": name, "command_id": name}
            asked = {**fields, "amount": 500, "currency": "NOK"}
            producer.send_task("cards.activate", queue="cards", kwargs=asked)

    # --- kills --------------------------------------------------------------------------------

    def _kill_at_work(self, producer: Celery) -> None:
        for _ in range(VICTIMS):
            self._start_victim()
        kills = self._report.kills
        for number in range(kills):
            start, end = (len(self._names) * at // kills for at in (number, number + 1))
            share = self._names[start:end]
            # Whoever takes these waits for the lock: there is work in flight, however fast it is.
            with self._locked(share):
                self._activate(producer, share)
                until(lambda: self._transport.held(self._system), "work", within_s=DONE_S)
                before = self._events()
                if is_crash := number % KILLS_PER_CRASH == 0:
                    self._kill(*self._victims)
            if not is_crash:
                if self._chance.random() < 0.75:
                    self._await_commit_after(before)
                    sleep(self._chance.uniform(0, AFTER_COMMIT_MS_MAX) / 1000)
                ready = [victim for victim in self._victims if "ready." in victim.said]
                self._kill(self._chance.choice(ready or self._victims))

    @contextmanager
    def _locked(self, names: Sequence[str]) -> Iterator[None]:
        with self._system.engine.begin() as connection:
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            locked = select(cards.c.id).where(cards.c.card_id.in_(names)).with_for_update()
            assert len(connection.execute(locked).all()) == len(names)
            yield

    def _await_commit_after(self, events: int) -> None:
        until(lambda: self._events() > events or not self._waiting(), "a commit", within_s=DONE_S)

    def _start_victim(self) -> None:
        self._started += 1
        name = f"--hostname=victim{self._started}@%h"
        options = (name, "--queues=cards")
        self._victims.append(self._system.start("worker", *options, GROUP_MAX=GROUP_MAX))

    def _kill(self, *victims: Part) -> None:
        self._report.held_at_kills += self._transport.held(self._system)
        for victim in victims:
            victim.kill9()
            self._victims.remove(victim)
            self._start_victim()

    def _finish(self) -> None:
        """Let the dead's messages come back, and all be done; send dead letters once more."""
        for victim in self._victims:
            victim.kill9()
        self._system.start("worker", "--hostname=last@%h")
        self._transport.give_back(self._system)
        self._settle()
        letters = self._system.letters()
        self._report.letters = len(letters)
        for letter in letters:
            assert self._system.cli("dead-letters", "requeue", str(letter.id)).exit_code == 0
        self._settle()

    def _settle(self) -> None:
        until(lambda: self._waiting() == 0, "the end of the queue", within_s=DONE_S)
        told = self._system.cli("relay", "--check")
        assert told.exit_code == 0, told.output
        until(self._all_published, "the last event", within_s=DONE_S)

    def _waiting(self) -> int:
        return int(str(self._system.redis.llen("cards"))) + self._transport.held(self._system)

    # --- what came of it ----------------------------------------------------------------------

    def _events(self) -> int:
        with reading(self._system.engine) as connection:
            return int(connection.execute(select(func.count()).select_from(outbox)).scalar_one())

    def _all_published(self) -> bool:
        ids = {entry["id"] for entry in self._system.stream()}
        return len(ids) >= self._events()

    def _unanswered(self) -> list[str]:
        told = {event["correlationid"] for event in self._system.events_of("card.activated")}
        return [name for name in self._names if name not in told]

    def _look(self) -> None:
        report = self._report
        seen: dict[str, str] = {}
        answers: dict[str, set[str]] = {name: set() for name in self._names}
        stream = self._system.stream()
        for entry, event in zip(stream, self._system.events(), strict=True):
            if seen.setdefault(entry["id"], entry["event"]) != entry["event"]:
                report.violations.append(f"two events with the id {entry['id']}")
            if event["correlationid"] in answers:
                answers[event["correlationid"]].add(entry["id"])
                if event["type"] != "card.activated":
                    report.violations.append(
                        f"{event['correlationid']} was answered {event['type']}"
                    )
        report.repeated_on_stream = len(stream) - len(seen)
        report.violations += [
            f"{name} has {len(ids)} answers" for name, ids in answers.items() if len(ids) > 1
        ]
        with reading(self._system.engine) as connection:
            per_card = select(func.count(transactions.c.id)).group_by(transactions.c.card)
            counts = connection.execute(per_card).scalars().all()
        if list(counts) != [1] * (len(self._names) - len(report.lost)):
            report.violations.append(f"{len(counts)} cards have {sum(counts)} transactions")
        proof = self._system.cli("reconcile")
        if proof.exit_code != 0:
            report.violations.append(f"the books don't add up: {proof.output}")


def run(
    running: System, *, messages: int, kills: int, seed: int, transport: Transport | None = None
) -> Report:
    """Kill workers of a system of which no part runs yet; say what was seen."""
    return Run(running, transport or Ours(), messages=messages, kills=kills, seed=seed).run()


@contextmanager
def _own_servers() -> Iterator[tuple[Path, Postgres, Valkey]]:
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="kills-")))
        database = running.enter_context(servers.postgres(durable=True))
        broker = running.enter_context(valkey(folder / "broker"))
        yield folder, database, broker


def main() -> int:
    """Run on servers of its own; print what was seen; 1 if our transport lost or doubled one."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--messages", type=int, default=50_000)
    options.add_argument("--kills", type=int, default=300)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--skip-stock", action="store_true")
    asked = options.parse_args()
    reports = []
    with _own_servers() as (folder, server, broker):
        for transport in (Ours(),) if asked.skip_stock else (Ours(), Stock()):
            with servers.database(server) as url, Redis.from_url(broker.url) as redis:
                redis.flushall()
                upgrade(url)
                place = folder / transport.name
                place.mkdir()
                with system(place, database_url=url, broker_url=broker.url) as parts:
                    report = run(
                        parts,
                        messages=asked.messages,
                        kills=asked.kills,
                        seed=asked.seed,
                        transport=transport,
                    )
            sys.stdout.write(f"{report}\n")
            sys.stdout.flush()
            reports.append(report)
    return 0 if reports[0].is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
