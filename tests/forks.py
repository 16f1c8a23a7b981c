"""Processes forked off one that has imported what the parts need, which costs 2 s of CPU each time.

`Fork` is what parts need of `subprocess.Popen`, for `python -m MODULE`. The child has a session, an
environment, a working directory and streams of its own. It gets SIGTERM when the server ends. The
server ends with the process that started it, even after SIGKILL, because its stdin ends then.
"""

import atexit
import ctypes
import gc
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

PRELOADED = (
    "card_worker.batches",
    "card_worker.cli.processes",
    "card_worker.embedded.valkey",
    "card_worker.client",
    "card_worker.file_store",
    "card_worker.relay",
    "card_worker.storage.migrations",
    "card_worker.sweeps",
    "card_worker.telemetry",
    "card_worker.transport",
    "celery.app.log",
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.backends.redis",
    "celery.bin.celery",
    "celery.concurrency.solo",
    "celery.fixups.django",
    "celery.worker.components",
    "celery.worker.consumer",
    "celery.worker.strategy",
    "psycopg",
    "rich.progress",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite",
)
"""What parts import, except what reads settings or makes shared memory when it is imported."""
PR_SET_PDEATHSIG = 1


class Fork:
    """A child of the server."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        env: Mapping[str, str],
        cwd: Path,
        stdout: Path,
        stderr: Path | None = None,
    ) -> None:
        """Run a module as `python -m` does; append its output to files, by default to one."""
        started = {
            "module": module,
            "arguments": arguments,
            "env": dict(env),
            "cwd": str(cwd),
            "streams": [os.devnull, str(stdout), str(stderr or stdout)],
        }
        self.pid: int = _server().ask("start", started)
        self._ends = os.pidfd_open(self.pid)
        self._code: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs; negative is the signal that ended it."""
        with self._lock:
            if self._code is None:
                self._code = _server().ask("poll", self.pid)
                if self._code is not None:
                    os.close(self._ends)
            return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code; raises `subprocess.TimeoutExpired`."""
        if self._code is None and not select.select([self._ends], [], [], timeout)[0]:
            assert timeout is not None
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class _Server:
    """The process that forks, as its starter sees it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            # Nothing that is imported may depend on the environment of the tests.
            env={"PATH": os.defpath},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        atexit.register(self._process.communicate)

    def ask(self, what: str, subject: object) -> Any:
        asking, answering = self._process.stdin, self._process.stdout
        assert asking is not None
        assert answering is not None
        with self._lock:
            asking.write(f"{json.dumps([what, subject])}\n")
            asking.flush()
            return json.loads(answering.readline())


@cache
def _server() -> _Server:
    return _Server()


def _serve() -> dict[str, Any]:
    """Fork children; return in each of them, with how it was started."""
    for request in iter(sys.stdin.readline, ""):
        what, subject = json.loads(request)
        if what == "poll":
            pid, status = os.waitpid(subject, os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            server, (ready, becoming) = os.getpid(), os.pipe()
            answer = os.fork()
            if answer == 0:
                _become(subject, server)
                os.close(ready)
                os.close(becoming)
                return subject  # type: ignore[no-any-return]
            os.close(becoming)
            os.read(ready, 1)
            os.close(ready)
        print(json.dumps(answer), flush=True)  # noqa: T201
    os._exit(0)


def _become(started: dict[str, Any], server: int) -> None:
    """Take over everything that a new interpreter would be given."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != server:
        os._exit(1)
    for number, path in enumerate(started["streams"]):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_APPEND | os.O_CREAT
        file = os.open(path, flags, 0o600)
        os.dup2(file, number)
        os.close(file)
    os.chdir(started["cwd"])
    os.environ.clear()
    os.environ.update(started["env"])
    time.tzset()
    sys.path[0] = started["cwd"]
    sys.argv[1:] = started["arguments"]
    gc.enable()


if __name__ == "__main__":
    for name in PRELOADED:
        import_module(name)
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "threads don't survive a fork"
    mappings = Path("/proc/self/maps").read_text().splitlines()
    assert not any("rw-s" in line for line in mappings), "forks would share memory"
    gc.collect()
    gc.freeze()  # else each fork copies all memory
    gc.disable()
    runpy.run_module(_serve()["module"], run_name="__main__", alter_sys=True)
