"""Running `card-worker` in this process, on a database or on nothing at all."""

from typing import Any

from typer.main import get_command
from typer.testing import CliRunner, Result

from card_worker.cli import COMMANDS, app, load
from card_worker.contracts.json_text import read_json


def run(*arguments: object, **settings: str) -> Result:
    """Run a command with nothing but these settings."""
    named = {f"CARD_WORKER_{name}": value for name, value in settings.items()}
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=named)


def all_commands() -> Any:
    """Return the group of all commands, with each of them loaded."""
    group: Any = get_command(app)
    group.commands = {name: load(name) for name in COMMANDS}
    return group


def lines_of_json(done: Result) -> list[Any]:
    """Return what a command has printed, line by line."""
    return [
        read_json(line.encode(), bytes_max=1_000_000, levels_max=20)
        for line in done.stdout.splitlines()
    ]


def refused(done: Result) -> tuple[int, str]:
    """Return what a command has ended with, and the one line that says why."""
    assert isinstance(done.exception, SystemExit), done.exception
    (line,) = done.stderr.splitlines()
    assert done.stdout == ""
    return done.exit_code, line.removeprefix("card-worker: ")
