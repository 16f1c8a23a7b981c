"""The faults of servers and parts in short: `make chaos-servers` is the long form."""

from pathlib import Path

import pytest

from card_worker.embedded.valkey import NoServer
from tests import servers
from tests.chaos.servers.faults import KINDS, chosen, left_out
from tests.chaos.servers.kinds import Kind
from tests.chaos.servers.run import run

SEED = 1
COMMANDS = 3_000
SHORT = (
    "redis-killed",
    "redis-writes-paused",
    "redis-loading",
    "redis-clients-killed",
    "postgres-crashed",
    "postgres-sessions-ended",
    "postgres-read-only",
    "entry-of-5-mb",
    "worker-killed",
    "relay-killed",
)
"""Kinds that together take a minute."""


def test_nothing_is_lost_doubled_off_or_late(tmp_path: Path) -> None:
    kinds = chosen(SHORT, len(SHORT), SEED, is_long=False)
    try:
        report = run(tmp_path, kinds, commands=COMMANDS, seed=SEED, is_long=False)
    except NoServer as error:
        servers.missing(error, servers.DATABASE_FROM)
    print(report)  # noqa: T201
    assert report.failures == []
    assert report.commands >= COMMANDS
    assert {waits.kind for waits in report.waits} == set(SHORT)
    assert all(waits.commands for waits in report.waits)


def test_each_kind_is_done_before_one_is_done_again() -> None:
    names = [kind.name for kind in chosen((), 200, SEED, is_long=True)]
    able = len(KINDS) - len(left_out((), is_long=True))
    assert len(set(names[:able])) == able
    assert names == [kind.name for kind in chosen((), 200, SEED, is_long=True)]
    assert names != [kind.name for kind in chosen((), 200, SEED + 1, is_long=True)]


def test_what_is_left_out_is_told_with_its_need() -> None:
    assert left_out(["entry-of-500-mb"], is_long=False) == {"entry-of-500-mb": "a long run"}
    assert chosen(["entry-of-500-mb"], 1, SEED, is_long=False) == []


def test_there_are_enough_kinds() -> None:
    assert len(KINDS) >= 25


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_a_kind_says_what_it_does(kind: Kind) -> None:
    assert kind.what.endswith(".")
