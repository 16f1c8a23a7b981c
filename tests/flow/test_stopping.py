"""Stopping workers: promptly, in each pool, and without losing a message."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from card_worker.embedded.valkey import Valkey
from tests import servers
from tests.flow.processes import Part, until
from tests.flow.system import System, card, envelope, note_starts, system
from tests.proxy import proxy

POOLS: dict[str, Sequence[str]] = {
    "solo": (),
    "processes": ("--pool=processes", "--concurrency=2"),
    "threads": ("--pool=threads", "--concurrency=2"),
}
WARM, COLD = signal.SIGTERM, signal.SIGQUIT
AWAY = "database unavailable, retrying"


@contextmanager
def locked(own: System, card_id: str) -> Iterator[None]:
    with own.engine.begin() as connection:
        connection.execute(
            text("SELECT FROM cards WHERE card_id = :id FOR UPDATE"), {"id": card_id}
        )
        yield


def stop(worker: Part, how: signal.Signals) -> None:
    os.kill(worker.pid, how)
    worker.ended()


@pytest.mark.parametrize("how", [WARM, COLD], ids=["warm", "cold"])
@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_stops_while_the_database_is_unavailable(
    pool: str,
    how: signal.Signals,
    tmp_path: Path,
    own_postgres: servers.Postgres,
    own_broker: Valkey,
) -> None:
    with system(tmp_path, database_url=own_postgres.url, broker_url=own_broker.url) as own:
        worker = own.start("worker", *POOLS[pool])
        worker.says("ready.")
        own_postgres.stop()
        own.create("waits")
        own.push(envelope("cards.explode", "unreadable"))
        worker.says(AWAY)
        stop(worker, how)
        assert (own.redis.llen("cards"), own.held()) == (2, 0)
        own_postgres.start()
        own.start("worker")
        own.start("relay")
        assert own.types("waits") == ["card.created"]
        assert own.letter("unreadable").reason == "task_unknown"


def send_suspects(own: System) -> None:
    """Ask for payments in messages that workers have died of, and that have one start left."""
    for ref, deaths in (("once", 1), ("often", 4)):
        message = envelope("transactions.create", ref, card("locked", amount=10, ref_id=ref))
        note_starts(own, message, 3)
        own.push(message, returns=deaths)


@pytest.mark.parametrize("how", [WARM, COLD], ids=["warm", "cold"])
@pytest.mark.parametrize("pool", ["solo", "processes"])
def test_stopping_while_a_row_is_locked_makes_no_dead_letter(
    pool: str, how: signal.Signals, own: System
) -> None:
    own.start("relay")
    worker = own.start("worker", *POOLS[pool])
    own.create("locked")
    own.send("cards.activate", "active", **card("locked"))
    own.answers("locked", "active")
    with locked(own, "locked"):
        send_suspects(own)
        for _ in range(2):
            until(lambda: _waits_for_a_lock(own), "the worker at the locked card")
            stop(worker, how)
            assert own.held() == 0
            worker = own.start("worker", *POOLS[pool])
    assert own.types("once", "often") == ["card.drawn_down", "card.drawn_down"]
    assert own.letters() == []


def _waits_for_a_lock(own: System) -> bool:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'card_worker' AND wait_event_type = 'Lock'"
    )
    with own.engine.connect() as connection:
        return bool(connection.execute(waiting).scalar_one())


def test_stopping_while_the_database_fails_makes_no_dead_letter(
    tmp_path: Path, postgres_url: str, own_broker: Valkey
) -> None:
    address = make_url(postgres_url)
    assert address.port is not None
    with proxy(address.port) as between:
        through = address.set(port=between.port).render_as_string(hide_password=False)
        with system(tmp_path, database_url=postgres_url, broker_url=own_broker.url) as own:
            own.start("relay")
            worker = own.start("worker", DATABASE_URL=through)
            own.create("locked")
            own.send("cards.activate", "active", **card("locked"))
            own.answers("locked", "active")
            with locked(own, "locked"):
                send_suspects(own)
                for _ in range(2):
                    until(lambda: _waits_for_a_lock(own), "the worker at the locked card")
                    between.refuse()
                    worker.says(AWAY)
                    stop(worker, WARM)
                    assert own.held() == 0
                    between.accept()
                    until(lambda: not _waits_for_a_lock(own), "the end of its session")
                    worker = own.start("worker", DATABASE_URL=through)
            assert own.types("once", "often") == ["card.drawn_down", "card.drawn_down"]
            assert own.letters() == []


SIGNALLED_IN_A_DESTRUCTOR = """
import os, signal, sys
from card_worker.cli import main
from card_worker.worker.beat import Scheduler

class Dropped:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

def send(self, entry, send=Scheduler._send):
    Dropped()
    send(self, entry)

Scheduler._send = send
sys.argv = ["card-worker", "beat"]
main()
"""


def test_a_signal_that_arrives_in_a_destructor_ends_beat(own: System) -> None:
    """Python drops what is raised there. Clients of Redis have destructors."""
    beat = own.parts.run("-c", SIGNALLED_IN_A_DESTRUCTOR, name="beat", SWEEP_INTERVAL_S="0.1")
    assert beat.ended() == 0
