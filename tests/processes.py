"""The program as a user starts it, and whatever it leaves running."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

PROGRAM = Path(sys.executable).with_name("card-worker")


@dataclass
class Run:
    """A program in an empty folder, and what it printed."""

    process: subprocess.Popen[bytes]
    folder: Path
    _output: Path

    @property
    def output(self) -> str:
        return self._output.read_text()

    def leftovers(self) -> list[str]:
        """Return the command lines of all that the program started and that still runs."""
        lines = []
        for each in self._started():
            with suppress(psutil.NoSuchProcess):  # it may end while it is looked at
                lines.append(" ".join(each.cmdline()))
        return lines

    def end(self) -> None:
        """Kill the program and all that it started."""
        for each in self._started():
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self.process.wait()

    def _started(self) -> Iterator[psutil.Process]:
        # Known by where they work: Valkey writes its title over the environment it was given.
        around = str(self.folder.parent.resolve())
        for each in psutil.process_iter():
            with suppress(psutil.Error):
                if each.cwd().startswith(around):
                    yield each


@contextmanager
def program(folder: Path, *arguments: str, **environment: str) -> Iterator[Run]:
    """Start `card-worker` in a new folder with nothing set but `environment`; leave none of it.

    Temporary files go to `tmp` beside the folder.
    """
    cwd, tmp, output = folder / "cwd", folder / "tmp", folder / "output"
    for each in (cwd, tmp):
        each.mkdir(exist_ok=True)
    bare = {"PATH": os.defpath, "HOME": str(folder), "TMPDIR": str(tmp)}
    with output.open("wb") as file:
        process = subprocess.Popen(
            [PROGRAM, *arguments],
            cwd=cwd,
            env=bare | environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    run = Run(process, cwd, output)
    try:
        yield run
    finally:
        run.end()
