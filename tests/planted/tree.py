"""A copy of the project with an interpreter that imports `card_worker` from it and nowhere else.

The parts that tests start as processes get a bare environment, so no variable could say where to
import from. The copy has a virtual environment of its own instead: its interpreter finds the
project's libraries, which hold no `card_worker`, and the copy's `src`.
"""

import os
import shutil
import subprocess
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = "#!{python}\nimport sys\nfrom card_worker.cli import main\nsys.exit(main())\n"
WHERE = "import card_worker; print(card_worker.__file__)"


class Tree:
    """The copy, in a folder that is empty."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        self.python = folder / "venv" / "bin" / "python"
        for name in _tracked():
            copy = self.root / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy)
        venv.create(folder / "venv", symlinks=True)
        self._let_import(folder / "venv")
        self._check()

    def _let_import(self, own: Path) -> None:
        site = Path(sysconfig.get_path("purelib", vars={"base": str(own), "platbase": str(own)}))
        # A path in such a file is searched; the editable install beside it isn't obeyed.
        paths = [sysconfig.get_path("purelib"), self.root / "src"]
        (site / "planted.pth").write_text("".join(f"{path}\n" for path in paths))
        program = self.python.with_name("card-worker")
        program.write_text(PROGRAM.format(python=self.python))
        program.chmod(0o755)

    def _check(self) -> None:
        """Make sure that a process with a bare environment imports the copy."""
        environment = {"PATH": os.defpath, "CARD_WORKER_BROKER_URL": "redis://127.0.0.1:1/0"}
        told = subprocess.run(
            [self.python, "-c", WHERE],
            env=environment,
            cwd="/",
            check=True,
            capture_output=True,
            text=True,
        )
        found = Path(told.stdout.strip()).resolve()
        if found != (self.root / "src" / "card_worker" / "__init__.py").resolve():
            raise AssertionError(f"the copy isn't what is imported, but {found}")

    def pytest(self, arguments: Sequence[str], timeout_s: float) -> tuple[int | None, str]:
        """Run tests of the copy; return pytest's exit code and output, and None if it hung."""
        command = [
            str(self.python),
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            *arguments,
        ]
        with subprocess.Popen(
            command,
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as running:
            try:
                output, _ = running.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                # As Ctrl-C, so that it ends its servers.
                running.terminate()
                output, _ = running.communicate()
                return None, output
        return running.returncode, output


def _tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"],  # noqa: S607
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
