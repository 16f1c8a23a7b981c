"""A command loads the libraries that it needs, and the list of commands loads none of them."""

import os
import subprocess
import sys

import pytest

from card_worker.cli import COMMANDS, load

LIBRARIES = {"alembic", "celery", "kombu", "redis", "reportlab", "sqlalchemy"}
DATABASE = {"redis", "sqlalchemy"}
"""What commands that open the database load; the settings have Redis's addresses."""
SETTINGS = {
    "CARD_WORKER_BROKER_URL": "redis://127.0.0.1:1/0",
    "CARD_WORKER_DATABASE_URL": "sqlite:////nonexistent/cards.db",
}


def loaded(program: str, **environment: str) -> tuple[set[str], str]:
    """Return which of LIBRARIES a program loads, and what it prints before."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}\nprint('loaded:', *sys.modules)"],
        env={"PATH": os.defpath, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    output, _, modules = done.stdout.partition("loaded: ")
    return LIBRARIES & set(modules.split()), output


def run(*arguments: str) -> str:
    return f"from card_worker.cli import _run; _run({arguments!r})"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--help",), set()),
        (("codes", "--help"), set()),
        (("codes", "new-pepper", "k1"), set()),
        (("card", "list", "--help"), DATABASE),
        (("dead-letters", "--help"), DATABASE),
        (("worker", "--help"), DATABASE),
        (("send", "--help"), DATABASE),
    ],
)
def test_a_command_loads_what_it_needs(arguments: tuple[str, ...], expected: set[str]) -> None:
    libraries, output = loaded(run(*arguments))
    assert output
    assert libraries <= expected


def test_the_names_of_commands_are_completed_without_loading_one() -> None:
    words = {"COMP_WORDS": "card-worker co", "COMP_CWORD": "1"}
    libraries, output = loaded(run(), **words, _CARD_WORKER_COMPLETE="complete_bash")
    assert output.split() == ["codes", "contract"]
    assert libraries == set()


def test_a_worker_does_not_load_the_migrations() -> None:
    libraries, _ = loaded("import card_worker.worker.tasks", **SETTINGS)
    assert libraries == LIBRARIES - {"alembic", "reportlab"}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_and_each_option_has_help(name: str) -> None:
    command = load(name)
    for each in (command, *getattr(command, "commands", {}).values()):
        assert each.help
        assert all(parameter.help for parameter in each.params), each.name


def test_a_mistyped_command_is_answered_with_the_closest() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "card_worker.cli", "wrker"],
        capture_output=True,
        text=True,
        check=False,
    )
    line = "card-worker: No such command 'wrker'. Did you mean 'worker'?; see card-worker --help\n"
    assert (done.returncode, done.stderr) == (2, line)
