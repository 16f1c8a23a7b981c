"""Forked processes behave like started ones; other tests depend on that."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.flow.processes import until
from tests.forks import Fork

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there, parts are no forks")

SHOWS_ITSELF = """
import gc, json, os, sys, threading
print(json.dumps({
    "arguments": sys.argv[1:],
    "environment": dict(os.environ),
    "folder": os.getcwd(),
    "name": __name__,
    "leads its session": os.getsid(0) == os.getpid(),
    "threads": threading.active_count(),
    "descriptors": sorted(int(each) for each in os.listdir("/proc/self/fd"))[:-1],
    "collects garbage": gc.isenabled(),
}))
print("to stderr", file=sys.stderr)
sys.exit(3)
"""
WAITS = "import signal\nprint('here', flush=True)\nwhile True: signal.pause()\n"
STARTS_ONE_MORE = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.forks import Fork
print(Fork("waits", env=os.environ, cwd=Path(sys.argv[2]), stdout=Path(os.devnull)).pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def waiting(tmp_path: Path) -> Fork:
    (tmp_path / "waits.py").write_text(WAITS)
    log = tmp_path / "log"
    fork = Fork("waits", env={}, cwd=tmp_path, stdout=log)
    until(lambda: log.read_text() == "here\n", "its line")
    return fork


def test_a_fork_has_what_it_was_given_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "shows_itself.py").write_text(SHOWS_ITSELF)
    out, err = tmp_path / "out", tmp_path / "err"
    fork = Fork("shows_itself", "-a", "b", env={"A": "1"}, cwd=tmp_path, stdout=out, stderr=err)
    assert fork.wait(60) == fork.wait() == fork.poll() == 3
    assert json.loads(out.read_text()) == {
        "arguments": ["-a", "b"],
        "environment": {"A": "1"},
        "folder": str(tmp_path),
        "name": "__main__",
        "leads its session": True,
        "threads": 1,
        "descriptors": [0, 1, 2],
        "collects garbage": True,
    }
    assert err.read_text() == "to stderr\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_a_fork(number: signal.Signals, waiting: Fork) -> None:
    assert waiting.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0)
    os.killpg(waiting.pid, number)
    assert waiting.wait(60) == -number
    waiting.terminate()  # does nothing: another process may have the number now


def test_a_fork_ends_with_its_starter_even_by_kill_9(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_ONE_MORE, root, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as starter:
        assert starter.stdout is not None
        fork = psutil.Process(int(starter.stdout.readline()))
        server = fork.parent()
        assert server is not None
        starter.kill()
        _, alive = psutil.wait_procs([fork, server], timeout=60)
        assert alive == []
