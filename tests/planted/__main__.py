"""Plant bugs, one at a time, into a copy of the project, and see which test catches each.

python -m tests.planted [--only WORD] [--trust] [--list]
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from tests.planted.bugs import BUGS, Bug, Misplaced
from tests.planted.tree import Tree

TIMEOUT_S, WELL_TIMEOUT_S = 600.0, 3600.0
FAILED = re.compile(r"^FAILED (.+?)(?: - .*)?$", re.MULTILINE)
TAIL_LINES = 30
CAUGHT = 1
"""What pytest ends with when a test failed."""


def main() -> int:
    """Print for each bug the test that caught it; 1 if one wasn't caught or couldn't be planted."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--only", default="", help="bugs whose name has this in it")
    options.add_argument("--trust", action="store_true", help="don't run the tests without a bug")
    options.add_argument("--list", action="store_true", help="show the bugs and plant none")
    asked = options.parse_args()
    bugs = [bug for bug in BUGS if asked.only in bug.name]
    if not bugs:
        options.error("there is no such bug")
    if asked.list:
        for bug in bugs:
            _print(f"{bug.name}: {bug.file}, {' '.join(bug.tests)}")
        return 0
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        tree = Tree(Path(folder))
        if not asked.trust and not _is_well(tree, bugs):
            return 1
        missed = [bug for bug in bugs if not _is_caught(tree, bug)]
    _print(f"{len(bugs) - len(missed)} of {len(bugs)} bugs were caught")
    for bug in missed:
        _print(f"NOT CAUGHT: {bug.name}")
    return 1 if missed else 0


def _is_well(tree: Tree, bugs: Sequence[Bug]) -> bool:
    """Say whether the tests pass without a bug; else none of them could catch one."""
    selected = sorted({test for bug in bugs for test in bug.tests})
    status, output = tree.pytest(selected, WELL_TIMEOUT_S)
    if status != 0:
        _print(f"{_tail(output)}\nWITHOUT A BUG the tests don't pass: {_first(output)}")
    return status == 0


def _is_caught(tree: Tree, bug: Bug) -> bool:
    began = monotonic()
    try:
        with bug.planted(tree.root):
            status, output = tree.pytest(bug.tests, TIMEOUT_S)
    except Misplaced as problem:
        _print(f"MISPLACED  {bug.name}: {problem}")
        return False
    first, took = _first(output), f"{monotonic() - began:.0f} s"
    if status == CAUGHT and first is not None:
        _print(f"caught     {bug.name}: {first} ({took})")
        return True
    how = "the tests hung" if status is None else f"pytest ended with {status}"
    _print(f"{_tail(output)}\nNOT CAUGHT {bug.name}: {how} ({took})")
    return False


def _first(output: str) -> str | None:
    found = FAILED.search(output)
    return found.group(1) if found else None


def _tail(output: str) -> str:
    return "\n".join(output.splitlines()[-TAIL_LINES:])


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
