"""Everything that faults are done to: two Redis servers, PostgreSQL, proxies before them, parts."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic

from redis.exceptions import RedisError

from card_worker.secrets.peppers import new_pepper
from card_worker.secrets.signing import Signatures, SigningKey
from card_worker.storage.accounts import change_account
from card_worker.storage.engine import open_engine
from tests import servers
from tests.chaos.servers.broker import Broker
from tests.chaos.servers.crew import Crew
from tests.chaos.servers.database import SETTINGS, Database
from tests.chaos.servers.journal import Journal
from tests.chaos.servers.workload import SIGNING
from tests.flow.processes import Part, Parts, parts
from tests.producers import PEPPERS_TEXT, ed25519_key, hmac_key, register
from tests.proxy import Proxy, proxy

QUEUES = ("cards", "cards.bulk", "cards.system")
PRIORITIES = ("", "\x06\x163", "\x06\x166", "\x06\x169")
"""What kombu adds to the name of a queue for the lists of its lower priorities."""
IN_FLIGHT = "inflight.of.*"
AT_WORK_S = 5.0


class World:
    """What a nemesis acts on. Only the main thread uses it."""

    def __init__(
        self,
        folder: Path,
        *,
        broker: Broker,
        results: Broker,
        database: Database,
        to_broker: Proxy,
        to_results: Proxy,
        to_database: Proxy,
        all_parts: Parts,
        keys: Sequence[SigningKey],
        chance: random.Random,
        is_long: bool,
    ) -> None:
        self.folder = folder
        self.broker, self.results, self.database = broker, results, database
        self.to_broker, self.to_results, self.to_database = to_broker, to_results, to_database
        self.parts = all_parts
        self.keys = keys
        """Of a producer that may send everything."""
        self.crew = Crew(all_parts)
        self.chance = chance
        self.is_long = is_long
        self.journal = Journal()
        self.locked_card: str | None = None
        """The card that somebody else has locked."""
        self.violations: list[str] = []
        """What a fault has seen that must not be."""
        self.clean_ups: list[Callable[[], None]] = []
        """What is to be done once the system has got over a fault, or couldn't."""

    def rest(self, seconds: float) -> None:
        """Let time go by; what ends meanwhile by itself is reported and replaced."""
        self.crew.wait(lambda: False, max_s=seconds)

    def seconds(self, short: float, long: float) -> float:
        """Return how long a fault lasts in this form of the run."""
        return long if self.is_long else short

    def worker(self) -> Part:
        """Return one of the workers, one that is ready if there is one."""
        self.crew.wait(lambda: self.crew.workers, max_s=AT_WORK_S)
        ready = [worker for worker in self.crew.workers if self.crew.is_ready(worker)]
        return self.chance.choice(ready or self.crew.workers)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Hold up commits, so that workers have messages in hand and a transaction open."""
        with self.database.locked("LOCK TABLE cards IN EXCLUSIVE MODE"):
            wanted = len(self.crew.workers)
            self.crew.wait(lambda: self.database.waiting() >= wanted, max_s=AT_WORK_S)
            yield

    def is_empty(self) -> bool:
        """Say whether no message lies on a queue or with a worker."""
        with suppress(RedisError):
            return not self._lying()
        return False

    def left(self) -> list[str]:
        """Return a line for each place where messages lie."""
        with suppress(RedisError):
            return [f"{number} messages are left in {key!r}" for key, number in self._lying()]
        return ["the broker doesn't answer at the end of the run"]

    def _lying(self) -> list[tuple[str, int]]:
        lists = [f"{queue}{priority}" for queue in QUEUES for priority in PRIORITIES]
        with self.broker.client() as client:
            hashes = [str(key) for key in client.scan_iter(IN_FLIGHT)]
            lying = [(key, int(str(client.llen(key)))) for key in lists]
            lying += [(key, int(str(client.hlen(key)))) for key in hashes]
        return [(key, number) for key, number in lying if number]


@contextmanager
def world(folder: Path, *, seed: int, is_long: bool, own_clock: bool) -> Iterator[World]:
    """Give servers and parts, all running; leave nothing running. Raises NoServer."""
    with ExitStack() as running:
        server = running.enter_context(servers.postgres(durable=True, settings=SETTINGS))
        database = Database(server)
        brokers = [Broker(folder / "broker", own_clock=own_clock), Broker(folder / "results")]
        for each in brokers:
            running.callback(each.stop)
            each.start()
        to_broker, to_results, to_database = (
            running.enter_context(proxy(port))
            for port in (brokers[0].port, brokers[1].port, server.port)
        )
        all_parts = running.enter_context(
            parts(
                folder / "parts",
                DATABASE_URL=database.url(to_database.port),
                BROKER_URL=brokers[0].url(to_broker.port),
                RESULT_BACKEND_URL=brokers[1].url(to_results.port),
                TOKEN_PEPPERS=new_pepper("t1"),
                PIN_PEPPERS=new_pepper("p1"),
                FILES_URL=str(folder / "files"),
                PRODUCER_PEPPERS=PEPPERS_TEXT,
                SWEEP_INTERVAL_S="2",
                GROUP_MAX="100",
            )
        )
        made = World(
            folder,
            broker=brokers[0],
            results=brokers[1],
            database=database,
            to_broker=to_broker,
            to_results=to_results,
            to_database=to_database,
            all_parts=all_parts,
            keys=_register_keys(database.admin_url),
            chance=random.Random(seed),
            is_long=is_long,
        )
        made.crew.start_all()
        started = monotonic()
        everyone = [part for role in made.crew.running.values() for part in role]
        if not made.crew.wait(lambda: all(map(made.crew.is_ready, everyone)), max_s=60):
            tails = "\n".join(part.tail for part in everyone if not made.crew.is_ready(part))
            raise AssertionError(f"parts not ready after {monotonic() - started:.0f} s:\n{tails}")
        yield made


def _register_keys(database_url: str) -> list[SigningKey]:
    """Register keys of both algorithms; let one account accept only what is signed."""
    keys, engine = [ed25519_key(), hmac_key()], open_engine(database_url)
    for key in keys:
        register(engine, key)
    change_account(engine, SIGNING, lambda rules: rules._replace(signatures=Signatures.REQUIRED))
    engine.dispose()
    return keys
