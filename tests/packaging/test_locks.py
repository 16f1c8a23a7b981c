"""The lock files: what is installed is what was tested, from wherever it is fetched."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
LOCKS = [
    *("requirements.lock", "requirements-runtime.lock", "requirements-audit.lock"),
    "requirements-node.lock",
    "benchmarks/requirements.lock",
]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def entries(lock: str) -> list[str]:
    """Return a lock file's requirements, each with its hashes, as one line each."""
    text = re.sub(r"^#.*\n", "", (ROOT / lock).read_text(), flags=re.MULTILINE)
    return text.replace("\\\n", " ").splitlines()


def pins(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", "\n".join(entries(lock)), re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_is_pinned_and_has_hashes(lock: str) -> None:
    pinned = re.compile(r"[a-z0-9-]+==[\w.]+( ; [^#]+?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*")
    assert entries(lock)
    assert [entry for entry in entries(lock) if not pinned.fullmatch(entry)] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_no_host_or_path_is_in_it(lock: str) -> None:
    assert not re.search(r"[/@]|--(index|extra|find|trusted)", (ROOT / lock).read_text())


def test_production_runs_the_versions_that_were_tested() -> None:
    assert pins("requirements-runtime.lock").items() <= pins("requirements.lock").items()


def test_the_lock_satisfies_the_project() -> None:
    project = PYPROJECT["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
        *PYPROJECT["dependency-groups"]["dev"],
        *PYPROJECT["build-system"]["requires"],
    ]
    locked = pins("requirements.lock")
    stale = [
        text
        for text in wanted
        if locked.get((requirement := Requirement(text)).name.lower()) is None
        or locked[requirement.name.lower()] not in requirement.specifier
    ]
    assert stale == [], "run `make lock`"
