"""The short form of `make soak`: a worker doesn't keep growing."""

import sys
from pathlib import Path

import pytest

from tests.chaos import soak
from tests.flow.system import system

COMMANDS = 12_000


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the memory")
def test_commands_leave_no_memory_behind(
    tmp_path: Path, postgres_url: str, broker_url: str
) -> None:
    with system(tmp_path, database_url=postgres_url, broker_url=broker_url) as own:
        readings = soak.run(own, COMMANDS)
    # After so few some caches, which are bounded, aren't full yet.
    assert soak.growth(readings) < 100, readings
