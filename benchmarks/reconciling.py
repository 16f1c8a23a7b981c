"""`python -m benchmarks.reconciling`: time and memory of `card-worker reconcile`. No part of bench.

On a PostgreSQL of its own: an order of cards with a token and a PIN each. A seventh of the cards
is activated, with a drawdown each, and a hold on each tenth of these. All events are published.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any, LiteralString

import psycopg
from sqlalchemy import Engine

from benchmarks.programs import ROOT
from benchmarks.rounds import say
from benchmarks.stage import POSTGRESQL
from card_worker.contracts.message import UnreadableItem, read_commands
from card_worker.handler import handle
from card_worker.storage.engine import begin, open_engine
from card_worker.storage.migrations import upgrade
from tests.codes import VAULT
from tests.orders import ACCOUNT, CODES, Orders
from tests.servers import database, postgres

TOGETHER = 1_000


def main() -> None:
    """Fill a database, check its books, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cards", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    with postgres(settings=POSTGRESQL) as server, database(server) as url:
        upgrade(url)
        engine = open_engine(url, reply_max_s=None)
        _fill(engine, options.cards, url)
        engine.dispose()
        _run(url, "DELETE FROM unpublished", "VACUUM ANALYZE")
        for _ in range(options.rounds):
            _reconcile(url)


def _run(url: str, *statements: LiteralString) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def _fill(engine: Engine, count: int, url: str) -> None:
    orders = Orders(engine)
    pattern = {"count": count, "card_id_pattern": "B-{n:08d}"}
    orders.ask("cards.batch_create", "order", batch_id="B", **pattern, **CODES)
    orders.work()
    _run(url, "VACUUM ANALYZE")  # as autovacuum does, which is off here
    active = [f"B-{number:08d}" for number in range(1, count + 1, 7)]
    for task, names, fields in (
        ("cards.activate", active, {"amount": 50_000}),
        ("transactions.create", active, {"amount": 1_000, "ref_id": "drawdown"}),
        ("transactions.create", active[::10], {"amount": 2_000, "ref_id": "hold", "pending": True}),
    ):
        for start in range(0, len(names), TOGETHER):
            _do(orders, task, names[start : start + TOGETHER], {"currency": "NOK", **fields})


def _do(orders: Orders, task: str, names: Iterable[str], fields: dict[str, Any]) -> None:
    commands = []
    for name in names:
        named = {"account_id": ACCOUNT, "card_id": name, **fields}
        (command,) = read_commands(task, f"{task} {name} {fields.get('ref_id')}", named, VAULT)
        assert not isinstance(command, UnreadableItem)
        commands.append(command)
    with begin(orders.engine) as (connection, now):
        answers = handle(connection, commands, now, orders.issuer)
    assert all(answer.reason is None for answer in answers)


def _reconcile(url: str) -> None:
    program = [sys.executable, "-m", "card_worker.cli", "reconcile"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CARD_WORKER_DATABASE_URL": url}
    started = time.perf_counter()
    process = subprocess.Popen(program, env=environment, stderr=subprocess.STDOUT)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, status
    wall, cpu = time.perf_counter() - started, used.ru_utime + used.ru_stime
    say(f"{wall:.1f} s, of which {cpu:.1f} s of CPU; peak {used.ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
