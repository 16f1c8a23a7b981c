"""The acceptance run of orders in short: `make chaos-batch` is the long one."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from card_worker.embedded.valkey import NoServer
from tests import servers
from tests.chaos import orders
from tests.flow.system import System
from tests.servers import Postgres

CARDS, KILLS, SEED = 25_000, 9, 1


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A PostgreSQL to be killed."""
    with ExitStack() as running:
        try:
            server = running.enter_context(servers.postgres(durable=True))
        except NoServer as error:
            servers.missing(error, servers.DATABASE_FROM)
        yield server


def test_an_order_is_whole_whatever_dies(tmp_path: Path, own_postgres: Postgres) -> None:
    report = orders.run(tmp_path, own_postgres, cards_wanted=CARDS, kills=KILLS, seed=SEED)
    print(report)  # noqa: T201
    assert report.violations == []
    assert {"Redis", "PostgreSQL", "workers"} <= report.killed.keys()
    assert report.with_a_chunk > 0
    assert report.too_late == 0


def test_what_does_not_agree_would_be_seen(tmp_path: Path, own_postgres: Postgres) -> None:
    def spoil(running: System) -> None:
        running.sql("DELETE FROM pins WHERE id = (SELECT id FROM cards LIMIT 1)")
        running.sql("DELETE FROM tokens WHERE card = (SELECT id FROM cards LIMIT 1)")

    report = orders.run(tmp_path, own_postgres, cards_wanted=2_000, kills=0, seed=SEED, spoil=spoil)
    assert "the tokens are not those of the file" in report.violations
    assert "the PINs are not those of the file" in report.violations
