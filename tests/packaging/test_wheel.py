"""What an installation holds."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    subprocess.run([*build, str(folder)], cwd=ROOT, check=True, capture_output=True, timeout=60)
    (path,) = folder.glob("*.whl")
    with ZipFile(path) as archive:
        return set(archive.namelist())


def test_the_wheel_installs_the_package_and_nothing_else(wheel: set[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"card_worker"}
    assert "card_worker/py.typed" in wheel


def test_the_wheel_holds_every_migration(wheel: set[str]) -> None:
    migrations = list((ROOT / "src/card_worker/storage/migrations").rglob("*.py"))
    assert any(path.parent.name == "versions" for path in migrations)
    assert {path.relative_to(ROOT / "src").as_posix() for path in migrations} <= wheel


def test_the_wheel_holds_every_module(wheel: set[str]) -> None:
    modules = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
    assert {name for name in wheel if name.endswith(".py")} == modules


@pytest.mark.parametrize("name", ["celeryconfig", "tests", "benchmarks"])
def test_the_top_level_of_the_repository_is_not_importable(name: str, tmp_path: Path) -> None:
    # -I: neither this folder nor PYTHONPATH helps.
    find = f"import importlib.util as u; print(u.find_spec({name!r}) is not None)"
    found = subprocess.run(
        [sys.executable, "-I", "-c", find],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.stdout.strip() == "False"
