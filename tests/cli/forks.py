"""Running `card-worker` many times, each in a fork of a process that has imported it.

`python -m tests.cli.forks FOLDER` reads cases as lines of JSON, and writes their results.
"""

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import card_worker.cli

NOBODY = "redis://127.0.0.1:1/0"
FULL = "/dev/full"
CLOSED_PIPE = "closed pipe"
CLOSED = "closed"
ALIVE_S_MAX = 60
"""A command that runs longer is killed and has no exit code."""


@dataclass(frozen=True)
class Case:
    """A command, its settings without their prefix, and the targets of its stdout and stderr."""

    arguments: Sequence[str]
    settings: dict[str, str] = field(default_factory=dict)
    stdout: str = ""
    """The path of a file, FULL, CLOSED_PIPE, CLOSED, or empty: the output is returned."""
    stderr: str = ""


@dataclass(frozen=True)
class Ended:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


class Forks:
    """A process that has imported all commands, and runs them in forks of itself."""

    def __init__(self, folder: Path) -> None:
        home = {"HOME": str(folder), "TMPDIR": str(folder), "TERM": "dumb"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(folder)],
            env={"PATH": os.defpath, "CARD_WORKER_BROKER_URL": NOBODY, **home},
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *cases: Case) -> list[Ended]:
        """Run commands one after the other, without a terminal."""
        return [self._one(case) for case in cases]

    def close(self) -> None:
        self._process.communicate()

    def _one(self, case: Case) -> Ended:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{json.dumps(asdict(case))}\n")
        stdin.flush()
        return Ended(**json.loads(stdout.readline()))


def _run(folder: Path, case: dict[str, Any]) -> Ended:
    out, err = folder / "stdout", folder / "stderr"
    for file in (out, err):
        file.write_bytes(b"")
    child = os.fork()
    if child == 0:
        _become(case, out, err)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return Ended(code, out.read_text("utf-8"), err.read_text("utf-8"))


def _become(case: dict[str, Any], out: Path, err: Path) -> None:
    """Run the command and exit, as an interpreter that was started with it."""
    code = 99
    try:
        signal.alarm(ALIVE_S_MAX)
        os.chdir(out.parent)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        streams = [(1, case["stdout"] or str(out)), (2, case["stderr"] or str(err))]
        # Closed last: the next file that is opened takes the number.
        for number, where in sorted(streams, key=lambda stream: stream[1] == CLOSED):
            _lead(number, where)
        os.environ.update({f"CARD_WORKER_{name}": text for name, text in case["settings"].items()})
        sys.argv = ["card-worker", *case["arguments"]]
        # As an interpreter does for a closed stream.
        if case["stdout"] == CLOSED:
            sys.stdout = sys.__stdout__ = None  # type: ignore[misc]
        try:
            card_worker.cli.main()
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
        sys.stdout.flush()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _lead(number: int, where: str) -> None:
    if where == CLOSED:
        os.close(number)
    elif where == CLOSED_PIPE:
        reading, writing = os.pipe()
        os.dup2(writing, number)
        os.close(reading)
        os.close(writing)
    else:
        os.dup2(os.open(where, os.O_WRONLY | os.O_CREAT, 0o600), number)


LOADED = (
    *(f"card_worker.cli.{module}" for module, _ in card_worker.cli.COMMANDS.values()),
    "card_worker.worker.tasks",
    *("card_worker.cli.barcodes", "card_worker.embedded.valkey", "card_worker.client"),
    *("celery.bin.celery", "celery.bin.worker", "rich.progress", "sqlalchemy.dialects.sqlite"),
)
"""Modules that commands import late."""

if __name__ == "__main__":
    for module in LOADED:
        import_module(module)
    gc.freeze()  # else each fork copies all memory
    gc.disable()
    for text in iter(sys.stdin.readline, ""):
        ended = _run(Path(sys.argv[1]), json.loads(text))
        print(json.dumps(asdict(ended)), flush=True)  # noqa: T201
