"""The acceptance run in short: `make chaos` is the long one."""

from pathlib import Path

from card_worker.cli.embedded import valkey
from tests.chaos import kills
from tests.flow.system import system

MESSAGES, KILLS, SEED = 600, 2, 1


def test_a_killed_worker_does_nothing_twice_and_nothing_by_halves(
    tmp_path: Path, postgres_url: str
) -> None:
    with (
        valkey(tmp_path / "broker") as broker,
        system(tmp_path, database_url=postgres_url, broker_url=broker.url) as running,
    ):
        report = kills.run(running, messages=MESSAGES, kills=KILLS, seed=SEED)
    print(report)  # noqa: T201
    assert report.violations == []
    assert report.rows["transactions"] == MESSAGES
