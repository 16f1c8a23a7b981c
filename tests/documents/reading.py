"""Markdown documents: their blocks of code, and a reader who does what they say."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.flow.processes import until

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    # A change log names pages as they were called at the time.
    *(path for path in sorted(ROOT.glob("*.md")) if path.name != "CHANGELOG.md"),
    *(path for folder in ("docs", "benchmarks") for path in sorted((ROOT / folder).rglob("*.md"))),
]
"""All documents of the repository."""

ELSEWHERE = {"make test"}
"""Commands that a reader of the tests' own doesn't run, since the tests would start themselves."""
LASTING = re.compile(r"make dev|python consumer\.py")
"""Commands that run until Ctrl-C, each in a terminal of its own."""
REPEATABLE = re.compile(
    r"card-worker (batch show|dead-letters list) .*|card-worker dead-letters list"
)
"""Commands that only look, which a reader runs again until they show what the document says."""
DEV_READY = "card-worker --help"
"""The end of what `make dev` prints."""
COMMAND_MAX_S = 300.0


class Block(NamedTuple):
    """A block of code between two lines of ```."""

    language: str
    text: str
    line: int
    """The number of its first line in the document, from 1."""


def blocks(document: Path) -> list[Block]:
    """Return the blocks of code of a document in their order."""
    found: list[Block] = []
    language, start, lines = "", 0, list[str]()
    for number, line in enumerate(document.read_text().splitlines(), start=1):
        if not line.lstrip().startswith("```"):
            lines.append(line)
        elif start:
            found.append(Block(language, "\n".join(lines), start))
            start = 0
        else:
            language, start, lines = line.strip().removeprefix("```"), number + 1, []
    assert not start, f"{document}: the block at line {start} has no end"
    return found


def without_blocks(document: Path) -> str:
    """Return the text of a document without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(block: Block) -> list[str]:
    """Return the commands of a block of `sh`: continued lines joined, without comments."""
    joined = block.text.replace("\\\n", " ")
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.splitlines())
    return [" ".join(line.split()) for line in lines if line]


class Reader:
    """Does what a document says, in a folder that looks like a checkout after its set-up.

    - `sh` blocks run in bash, in their order; variables last to the end of the document. What
      `make dev` prints as `export …` is pasted into the other terminals.
    - `python` blocks are saved under the name that their first line gives.
    - `text` blocks are printed by the commands before them, or by one that still runs; `…` stands
      for any text of one line.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkout"
        self.dev_output = ""
        """What `make dev` has printed until it was ready."""
        self._tmp = folder / "tmp"
        self._state = folder / "state.sh"
        self._last: Path | None = None
        self._again = ""
        self._running: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
        self._tmp.mkdir()
        self._state.touch()
        _check_out(self.folder)

    def follow(self, document: Path) -> None:
        """Do all that a document says, and check that it prints what the document says."""
        for block in blocks(document):
            where = f"{document.name}:{block.line}"
            match block.language:
                case "sh":
                    self._run(block, where)
                case "python":
                    name = block.text.partition("\n")[0].removeprefix("# ")
                    assert re.fullmatch(r"\w+\.py", name), f"{where}: begins without a file's name"
                    (self.folder / name).write_text(f"{block.text}\n")
                case "text":
                    self._expect(block.text, where)
                case other:
                    assert other == "mermaid", f"{where}: a block of {other!r}"

    def interrupt(self, command: str) -> str:
        """Press Ctrl-C in the terminal of a lasting command; return all that it has printed."""
        process, log = self._running.pop(command)
        os.killpg(process.pid, signal.SIGINT)
        process.wait(COMMAND_MAX_S)
        return log.read_text()

    def runs(self, command: str) -> bool:
        """Say whether a lasting command still runs."""
        return self._running[command][0].poll() is None

    def end(self) -> None:
        """Leave nothing running."""
        for process, _ in self._running.values():
            started = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            for each in started:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            process.wait()

    def _run(self, block: Block, where: str) -> None:
        asked = [command for command in commands(block) if command not in ELSEWHERE]
        self._last = self._state.with_name(f"output-{block.line}")
        self._again = ""
        if len(asked) == 1 and LASTING.fullmatch(asked[0]):
            self._running[asked[0]] = self._start(asked[0], self._last), self._last
            if asked[0] == "make dev":
                self._paste_exports(where)
            return
        text = block.text if len(asked) == len(commands(block)) else "\n".join(asked)
        self._again = text if len(asked) == 1 and REPEATABLE.fullmatch(asked[0]) else ""
        self._finish(text, where)

    def _finish(self, text: str, where: str) -> None:
        assert self._last is not None
        process = self._start(f"{text}\nexport -p > {self._state}", self._last)
        status = process.wait(COMMAND_MAX_S)
        assert status == 0, f"{where} exits with {status}:\n{self._last.read_text()}"

    def _paste_exports(self, where: str) -> None:
        assert self._last is not None
        output = self._last
        until(lambda: DEV_READY in output.read_text(), where, within_s=COMMAND_MAX_S)
        self.dev_output = output.read_text()
        exports = re.findall(r"^export .*$", self.dev_output, re.MULTILINE)
        self._state.write_text("\n".join(exports))

    def _start(self, script: str, log: Path) -> subprocess.Popen[bytes]:
        start = f"set -aeo pipefail; source {self._state}; cd {self.folder}\n"
        # Whatever is set where the tests run is not what the reader has.
        bare = {"PATH": os.defpath, "HOME": str(self.folder), "TMPDIR": str(self._tmp)}
        with log.open("wb") as output:
            return subprocess.Popen(
                ["/bin/bash", "-c", start + script],
                env=bare,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _expect(self, text: str, where: str) -> None:
        assert self._last is not None
        pattern = re.compile(re.escape(text).replace("…", ".*"))
        logs = [self._last, *(log for _, log in self._running.values())]

        def is_printed() -> bool:
            if self._again:
                self._finish(self._again, where)
            return any(pattern.search(log.read_text()) for log in logs)

        until(
            lambda: is_printed() or not all(map(self.runs, self._running)),
            where,
            within_s=COMMAND_MAX_S,
        )
        assert is_printed(), f"{where}: printed was\n{[log.read_text() for log in logs]}"


@contextmanager
def reading(folder: Path) -> Iterator[Reader]:
    """Give a reader with a checkout of its own in `folder`; leave nothing of it running."""
    reader = Reader(folder)
    try:
        yield reader
    finally:
        reader.end()


def _check_out(folder: Path) -> None:
    """Make a folder that make takes for this repository, with this Python's environment set up."""
    environment = folder / ".venv"
    environment.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "src"):
        (folder / name).symlink_to(ROOT / name)
    for path in Path(sys.prefix).iterdir():
        if path.name not in ("locked", "ready"):
            (environment / path.name).symlink_to(path)
    # Newer than all that they are made from, so that make installs nothing.
    for name in ("locked", "ready"):
        (environment / name).touch()
