"""`python -m benchmarks.reporting`: time and memory of `card-worker report` and `export`.

No part of bench. On a PostgreSQL of its own with random cards and transactions, or on SQLite.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from benchmarks.rounds import say
from benchmarks.stage import POSTGRESQL
from card_worker.storage.engine import open_engine
from card_worker.storage.migrations import upgrade
from tests.report.memory import peak_kib
from tests.report.rows import ACCOUNTS, insert_rows, random_rows
from tests.servers import database, postgres

AT_ONCE = 100_000
REPORT = ("report", "--from", "2025-01", "--to", "2025-12", "--out")
EXPORT = ("export", "transactions", "--account", ACCOUNTS[0])


def main() -> None:
    """Fill a database, and print what a report and an export of it take."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transactions", type=int, default=1_000_000)
    parser.add_argument("--sqlite", action="store_true")
    options = parser.parse_args()
    with TemporaryDirectory() as folder, _database(folder, is_sqlite=options.sqlite) as url:
        upgrade(url)
        engine = open_engine(url, reply_max_s=None)
        for seed in range(1, options.transactions // AT_ONCE + 1):
            insert_rows(engine, random_rows(AT_ONCE, seed))
        engine.dispose()
        if not options.sqlite:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE")
        for name in ("first", "second"):
            say(f"report: {_run(url, *REPORT, f'{folder}/{name}')}")
        for limit in (options.transactions // 100, options.transactions):
            output = f"{folder}/{limit}.csv"
            took = _run(url, *EXPORT, "--limit", str(limit), "--output", output)
            rows = Path(output).read_bytes().count(b"\n") - 1
            say(f"export of {rows:,} transactions: {took}")


@contextmanager
def _database(folder: str, *, is_sqlite: bool) -> Iterator[str]:
    if is_sqlite:
        yield f"sqlite:///{folder}/cards.db"
    else:
        with postgres(settings=POSTGRESQL) as server, database(server) as url:
            yield url


def _run(url: str, *arguments: str) -> str:
    """Run a command; return what it took."""
    started = time.perf_counter()
    peak = peak_kib(url, *arguments)
    return f"{time.perf_counter() - started:.1f} s; peak {peak / 1024:.0f} MiB"


if __name__ == "__main__":
    main()
