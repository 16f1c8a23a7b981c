"""The servers of one run, and on them, for each turn, a database of its own and an empty broker."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
from redis import Redis
from sqlalchemy import make_url

from benchmarks.commands import ACCOUNT
from benchmarks.programs import ROOT, Failed
from card_worker.embedded.valkey import Valkey, valkey
from tests.servers import Postgres, database, postgres

STREAM = "card-events"
POSTGRESQL = {"shared_buffers": "1GB", "max_wal_size": "4GB"}
"""How PostgreSQL is set up, for everybody: as docker-compose.yml does it."""
PEERS_PYTHON = ROOT / "benchmarks" / ".venv" / "bin" / "python"

# As `cards.batch_create` leaves them. The ids are spread over their index, as hashes are.
_INSERT_CARDS = """
INSERT INTO cards (id, account_id, card_id, type, state, blocked, amount, batch_id, created_at,
    version, amount_funds, amount_drawdown, amount_balance, amount_pending, amount_reserved)
SELECT md5(%(account)s || n)::uuid, %(account)s, 'card-' || n, 'gift_card', 'inactive', false, 0,
    'batch-' || n / 1000, now(), 1, 0, 0, 0, 0, 0
FROM generate_series(0, %(count)s::int - 1) n
"""

# Each transaction counts with the card it belongs to, each event once it has been published.
_COUNT_DONE = """
SELECT (SELECT count(*) FROM transactions JOIN cards ON cards.id = transactions.card
            AND cards.version = 2 AND cards.state = 'active'
            AND cards.amount_balance = balance_after AND transactions.amount = balance_after),
    (SELECT count(*) FROM transactions),
    (SELECT count(*) FROM idempotency_keys),
    (SELECT count(*) FROM outbox WHERE type = 'card.activated'
        AND NOT EXISTS (SELECT FROM unpublished WHERE unpublished.position = outbox.position)),
    (SELECT count(*) FROM outbox)
"""


@dataclass(frozen=True)
class Place:
    """Where one contestant has its turn."""

    database_url: str
    broker_url: str
    redis: "Redis"
    folder: Path
    postgres_pid: int
    valkey_pid: int

    @property
    def environment(self) -> dict[str, str]:
        """What tells ours and the peers' programs where to work."""
        return {
            "CARD_WORKER_DATABASE_URL": self.database_url,
            "CARD_WORKER_BROKER_URL": self.broker_url,
            "BENCH_DATABASE_URL": self.database_url,
            "BENCH_BROKER_URL": self.broker_url,
            "BENCH_COUNT_FILE": str(self._count_file),
            "PYTHONPATH": str(ROOT),
        }

    @property
    def _count_file(self) -> Path:
        return self.folder / "count"

    def answers(self) -> int:
        """Return how many answers are on the stream."""
        length = self.redis.xlen(STREAM)
        assert isinstance(length, int)
        return length

    def counted(self) -> int:
        """Return how many messages that do nothing have been through; see peers/counting.py."""
        return self._count_file.stat().st_size

    def add_cards(self, count: int) -> None:
        """Put `count` inactive cards into the table, from `card-0` on, and leave it tidy."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(_INSERT_CARDS, {"account": ACCOUNT, "count": count})
            connection.execute("VACUUM ANALYZE cards")

    def settle(self) -> None:
        """Let the database write out what it owes, so that nobody pays for another's rows."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute("CHECKPOINT")

    def done(self) -> dict[str, int]:
        """Return what the work has left behind, by what it is."""
        names = ("matching cards", "transactions", "keys", "published events", "events")
        with psycopg.connect(self.database_url) as connection:
            row = connection.execute(_COUNT_DONE).fetchone()
        assert row is not None
        return {"answers": self.answers(), **dict(zip(names, row, strict=True))}

    def clear(self) -> None:
        """Take every key from the broker, and start counting at 0."""
        self.redis.flushall()
        self._count_file.write_bytes(b"")


@dataclass(frozen=True)
class Stage:
    """The servers, and a database with the schema and nothing else."""

    postgres: Postgres
    valkey: Valkey
    template: str
    folder: Path

    @contextmanager
    def place(self, *, cards: int = 0) -> Iterator[Place]:
        """Give a new database with so many inactive cards, `card-0` and on, and an empty broker."""
        with (
            database(self.postgres, template=self.template) as url,
            Redis.from_url(self.valkey.url) as redis,
        ):
            pids = (self.postgres.pid, self.valkey.pid)
            place = Place(url, self.valkey.url, redis, self.folder, *pids)
            if cards:
                place.add_cards(cards)
            place.clear()
            yield place

    def versions(self) -> dict[str, str]:
        """Return the versions of both servers, and how PostgreSQL is set up."""
        names = ["server_version", *POSTGRESQL]
        with psycopg.connect(self.postgres.url) as connection:
            asked = f"SELECT {', '.join('current_setting(%s)' for _ in names)}"
            row = connection.execute(asked, names).fetchone()
        with Redis.from_url(self.valkey.url) as redis:
            about: Any = redis.info("server")
        assert row is not None
        valkey = about.get("valkey_version", about["redis_version"])
        number, *settings = row
        told = ", ".join(f"{name} {value}" for name, value in zip(names[1:], settings, strict=True))
        return {"PostgreSQL": f"{number} ({told})", "Valkey": str(valkey)}


@contextmanager
def stage() -> Iterator[Stage]:
    """Run the servers, on loopback and ports of their own; leave nothing of them.

    PostgreSQL waits for the disk at every commit. Valkey writes its log once a second.
    """
    if not PEERS_PYTHON.exists():
        raise Failed("the peers aren't installed: run make bench")
    with (
        TemporaryDirectory(prefix="card_worker-bench-") as name,
        postgres(durable=True, settings=POSTGRESQL) as server,
        valkey(Path(name) / "valkey") as broker,
        database(server) as url,
    ):
        _migrate(url)
        template = make_url(url).database
        assert template is not None
        yield Stage(server, broker, template, Path(name))


def _migrate(url: str) -> None:
    """Give the database its schema, as an operator does."""
    environment = {**os.environ, "CARD_WORKER_DATABASE_URL": url}
    subprocess.run(
        [ours("card-worker"), "migrate"],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def ours(name: str) -> str:
    """Return the path of a program of card_worker's environment."""
    return str(Path(sys.executable).with_name(name))
