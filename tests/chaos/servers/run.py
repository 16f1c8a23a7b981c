"""One run: faults one after the other under traffic, and then the proof."""

import signal
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
from redis.exceptions import RedisError

from tests.chaos.servers.checker import Checker, Entry
from tests.chaos.servers.faults import OWN_CLOCK
from tests.chaos.servers.kinds import Kind
from tests.chaos.servers.report import WAIT_MAX_S, Episode, Report, measure, waits_by_kind
from tests.chaos.servers.traffic import STREAM, Producer, Reader
from tests.chaos.servers.workload import Workload
from tests.chaos.servers.world import World, world

LEAD_S = 1.0
"""How long traffic goes on before each fault."""
SPREAD_S = 2.0
"""Over how many seconds the commands of a short fault are spread."""
GIVE_UP_S = 30.0
"""How long an answer that is too late is waited for beyond WAIT_MAX_S."""
RECONCILE_MAX_S = 900.0
"""How long the reconciliation at the end may take, also on a busy machine."""
WARM_UP, WARM_UP_PER_S = 150, 75
READ_MAX = 1_000


class Run:
    """A run in a world where everything is up."""

    def __init__(
        self,
        made: World,
        kinds: Sequence[Kind],
        *,
        commands: int,
        seed: int,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._world, self._kinds, self._commands, self._say = made, kinds, commands, say
        self._workload = Workload(seed, made.keys)
        self._producer = Producer(made.broker, made.journal, self._workload)
        self._reader = Reader(made.broker, made.journal, self._workload)
        self._report = Report(seed)

    def run(self) -> Report:
        """Do all faults; return what was seen."""
        started = monotonic()
        self._reader.start()
        self._producer.start()
        try:
            self._warm_up()
            for number, kind in enumerate(self._kinds):
                self._episode(number, kind)
            self._finish()
        finally:
            self._producer.stop()
            self._reader.stop()
        self._look()
        self._report.seconds = monotonic() - started
        return self._report

    def _warm_up(self) -> None:
        commands = WARM_UP if self._kinds else self._commands
        self._producer.plan(commands, commands / WARM_UP_PER_S)
        self._settle(within_s=WAIT_MAX_S)
        assert not self._world.journal.unanswered(), "without a fault, commands aren't answered"

    # --- faults -----------------------------------------------------------------------------------

    def _episode(self, number: int, kind: Kind) -> None:
        made = self._world
        made.crew.kind, made.locked_card = kind.name, None
        share = (self._commands - WARM_UP) * (number + 1) // len(self._kinds)
        share -= (self._commands - WARM_UP) * number // len(self._kinds)
        made.crew.wait(made.crew.is_complete, max_s=WAIT_MAX_S)
        lasts_s = made.seconds(kind.short_s, kind.long_s)
        opened = began = monotonic()
        self._producer.plan(share, LEAD_S + max(lasts_s + made.seconds(*kind.busy_s), SPREAD_S))
        made.rest(LEAD_S)
        try:
            began = monotonic()
            with kind.act(made):
                made.rest(lasts_s)
        except (RedisError, psycopg.Error) as error:
            made.violations.append(f"{kind.name} could not be done: {error!r}")
        episode = Episode(kind, opened, began, monotonic(), made.locked_card)
        self._report.episodes.append(episode)
        self._report.memory_mb = max(self._report.memory_mb, made.crew.memory_mb())
        self._producer.plan(0, 0)
        is_settled = self._settle(within_s=WAIT_MAX_S + GIVE_UP_S)
        for clean_up in made.clean_ups:
            clean_up()
        made.clean_ups = []
        if not is_settled:
            self._rescue(episode)
        how = "not all answered" if episode.rescued else "all answered"
        since = monotonic() - episode.ended
        of = f"{number + 1} of {len(self._kinds)}"
        self._say(f"{of}: {kind.name}, {how} {since:.0f} s after its end")

    def _settle(self, *, within_s: float) -> bool:
        """Wait until all that was planned is sent and answered; say whether it is."""
        journal = self._world.journal
        wait = self._world.crew.wait
        is_sent = wait(lambda: self._producer.is_done, max_s=within_s)
        return is_sent and wait(lambda: not journal.unanswered(), max_s=within_s)

    def _rescue(self, episode: Episode) -> None:
        """Start all parts anew, so that the next faults meet a system that works."""
        episode.rescued = True
        self._world.crew.kill_all()
        self._world.crew.start_all()
        self._settle(within_s=WAIT_MAX_S)
        self._world.journal.give_up()

    def _finish(self) -> None:
        """Wait for all that is still to come, and end the parts."""
        made = self._world
        crew = made.crew
        crew.kind = "the end of the run"
        if not crew.wait(self._is_all_done, max_s=WAIT_MAX_S + GIVE_UP_S):
            self._report.violations += made.left()
        # Who makes work ends first, and who publishes last.
        for role in ("beat", "worker", "relay"):
            crew.end(signal.SIGTERM, *[part for part in crew.running[role] if crew.is_ready(part)])
            crew.wait(self._is_published, max_s=WAIT_MAX_S)
        crew.kill_all()
        self._reconcile()

    def _is_published(self) -> bool:
        ((left,),) = self._world.database.run("SELECT count(*) FROM unpublished")
        return not left

    def _is_all_done(self) -> bool:
        ((busy,),) = self._world.database.run("SELECT count(*) FROM batches WHERE busy")
        return not busy and self._is_published() and self._world.is_empty()

    def _reconcile(self) -> None:
        url = self._world.database.admin_url
        arguments = ("-m", "card_worker.cli", "reconcile")
        part = self._world.parts.run(*arguments, name="reconcile", DATABASE_URL=url)
        code = part.ended(within_s=RECONCILE_MAX_S)
        if code != 0:
            self._report.violations.append(f"reconcile ended with {code}:\n{part.tail}")

    # --- what came of it --------------------------------------------------------------------------

    def _look(self) -> None:
        made, report, journal = self._world, self._report, self._world.journal
        report.ended = made.crew.ended
        report.violations += made.violations
        report.messages, report.repeats = self._producer.messages, self._producer.repeats
        report.retries = self._producer.retries
        if self._reader.failure is not None:
            report.violations.append(f"the reader of the stream failed: {self._reader.failure!r}")
        with made.database.connect() as connection:
            checker = self.checker(self.entries(), connection)
            report.violations += checker.violations()
            ((letters,),) = connection.execute("SELECT count(*) FROM dead_letters").fetchall()
        report.letters = int(letters)
        report.told_again = checker.told_again
        report.commands = journal.sent
        asked = [one for contents in journal.asked.values() for one in contents]
        warm = self._report.episodes[0].opened if self._report.episodes else monotonic()
        asked = [one for one in asked if one.accepted is not None and one.accepted >= warm]
        measured = list(measure(asked, report.episodes, monotonic()))
        report.waits = waits_by_kind(measured, report.episodes)
        report.violations += [
            f"{one.command_id} ({one.task}) waited {seconds:.1f} s at {episode.kind.name}"
            for episode, one, seconds in measured
            if seconds > WAIT_MAX_S
        ]

    def checker(self, entries: Sequence[Entry], connection: "psycopg.Connection[Any]") -> Checker:
        """Return what holds a stream and a database against what was sent."""
        now, at = datetime.now(UTC), monotonic()
        return Checker(self._world.journal, entries, connection, clock=now, clock_at=at)

    def entries(self) -> list[Entry]:
        """Return the whole stream."""
        entries, last = list[Entry](), "-"
        with self._world.broker.client(timeout_s=60) as client:
            while True:
                page: Any = client.xrange(STREAM, min=last, count=READ_MAX)
                entries += [(fields["id"], fields["event"]) for _, fields in page]
                if len(page) < READ_MAX:
                    return entries
                last = f"({page[-1][0]}"


def run(
    folder: Path,
    kinds: Sequence[Kind],
    *,
    commands: int,
    seed: int,
    is_long: bool,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Do these faults, one after the other, on servers of its own. Raises NoServer."""
    own_clock = any(kind.name in OWN_CLOCK for kind in kinds)
    with world(folder, seed=seed, is_long=is_long, own_clock=own_clock) as made:
        return Run(made, kinds, commands=commands, seed=seed, say=say).run()
