"""The acceptance run in short: `make chaos` is the long one."""

from pathlib import Path
from typing import Any

from card_worker.embedded.valkey import valkey
from tests.chaos import kills
from tests.chaos.transports import Stock
from tests.flow.system import System, system

SEED = 1


def _report(tmp_path: Path, url: str, **options: Any) -> kills.Report:
    with (
        valkey(tmp_path / "broker") as broker,
        system(tmp_path, database_url=url, broker_url=broker.url) as running,
    ):
        report = kills.run(running, seed=SEED, **options)
    print(report)  # noqa: T201
    return report


def test_killed_workers_lose_nothing_and_do_nothing_twice(
    tmp_path: Path, postgres_url: str
) -> None:
    report = _report(tmp_path, postgres_url, messages=1_000, kills=5)
    assert report.is_clean
    assert report.held_at_kills > 0


class Careless(Stock):
    """A transport that forgets what a dead worker held, as a pop does that nobody noted."""

    name = "careless"

    def give_back(self, system: System) -> None:
        system.redis.delete("unacked")


def test_what_is_lost_would_be_seen(tmp_path: Path, postgres_url: str) -> None:
    report = _report(tmp_path, postgres_url, messages=100, kills=1, transport=Careless())
    assert report.lost
    assert not report.is_clean
    assert f"lost                                  {len(report.lost)}" in str(report)
