"""The private parts of psycopg that are used."""

import inspect
import tomllib
from pathlib import Path

import psycopg
import pytest
from packaging.requirements import Requirement
from psycopg import Pipeline, errors, generators

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        (Pipeline, "_enqueue_sync", ["self"]),
        (Pipeline, "_communicate_gen", ["self"]),
        (Pipeline, "_process_results", ["self", "queued", "results"]),
        (generators, "fetch_many", ["pgconn"]),
        (psycopg.Connection, "wait", ["self", "gen", "interval", "timeout"]),
    ],
)
def test_private_functions_have_the_expected_parameters(
    owner: object, name: str, parameters: list[str]
) -> None:
    assert list(inspect.signature(getattr(owner, name)).parameters)[:4] == parameters


def test_private_attributes_exist() -> None:
    assert "result_queue" in inspect.get_annotations(Pipeline.__mro__[1])
    assert issubclass(errors._WaitTimeout, Exception)


def test_the_minor_version_is_pinned() -> None:
    """A new minor version needs a look at these parts first."""
    with PYPROJECT.open("rb") as file:
        wanted = tomllib.load(file)["project"]["dependencies"]
    (psycopg_wanted,) = (r for r in map(Requirement, wanted) if r.name == "psycopg")
    major, minor = map(int, psycopg.__version__.split(".")[:2])
    assert psycopg.__version__ in psycopg_wanted.specifier
    assert f"{major}.{minor + 1}.0" not in psycopg_wanted.specifier
