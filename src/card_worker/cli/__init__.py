"""The command line: `card-worker`.

Exit codes: 0 success, 1 refused or differences found, 2 wrong usage, 130 interrupted.
"""

import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_group

from card_worker.cli.streams import Unwritable, check_streams

NAME = "card-worker"
INTERRUPTED = 130
"""The exit code that a shell reports for a command that Ctrl-C ended."""

SURROGATE = re.compile("[\ud800-\udfff]")

COMMANDS = {
    "demo": ("demo", "Run the whole system once on this machine, and show what it does."),
    "dev": ("dev", "Run the whole system on this machine until Ctrl-C."),
    "worker": ("processes", "Handle commands."),
    "relay": ("processes", "Publish events from the outbox."),
    "beat": ("processes", "Start the sweeps at their intervals."),
    "migrate": ("processes", "Bring the database to the newest schema."),
    "status": ("status", "Show how the whole system is doing."),
    "doctor": (
        "doctor.command",
        "Check settings, servers and data for faults.",
    ),
    "send": ("send", "Publish a command and show its answer."),
    "send-file": ("send_file.command", "Send a command for each line of a file."),
    "card": ("cards", "Show cards and their history."),
    "export": ("export", "Write cards, transactions or events as CSV or JSON lines."),
    "batch": ("batches", "Order batches of cards, watch them, and handle their files."),
    "codes": ("codes", "Make keys, and open encrypted tokens and PINs."),
    "account": ("accounts", "Show and set the rules of an account."),
    "producer": ("producers", "Make and register the keys that sign commands."),
    "events": ("events", "Print events from the stream."),
    "dead-letters": ("dead_letters", "Show, requeue and drop dead letters."),
    "reconcile": ("reconcile", "Check the books."),
    "report": ("report.command", "Write the financial report."),
    "acl": ("acl", "Print the users of Redis and their rights."),
    "contract": ("contract", "Write the generated reference."),
}
"""The module and the summary of each command.

A module is imported when its command runs, so that the list of commands and shell completion don't
load the libraries of all commands.
"""


class _Commands(TyperGroup):
    """The group of all commands, which loads a command when it runs."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(args[0]) if command else None, rest


def load(name: str) -> Any:
    """Import a command, or a group of commands, from COMMANDS."""
    module, summary = COMMANDS[name]
    group = get_group(import_module(f"{__name__}.{module}").app)
    group.help = summary
    for command in (group, *group.commands.values()):
        command.rich_markup_mode = "markdown"  # type: ignore[attr-defined]  # joins lines
    return group.commands.get(name, group)


def _not_loaded() -> None:
    """Stand for a command in the list of commands."""


app = typer.Typer(
    cls=_Commands,
    help="Gift cards on Celery: commands in, one answer each, and books that add up.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, (_, _summary) in COMMANDS.items():
    app.command(_name, help=_summary)(_not_loaded)


def main() -> None:
    """Run the command line. Expected errors are printed in one line, without a traceback."""
    check_streams()
    try:
        code = _run(sys.argv[1:])
        sys.stdout.flush()
    except Unwritable as error:
        code = _print_error(str(error))
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    """Run a command; return the exit code of the process."""
    for number, argument in enumerate(arguments, start=1):
        # No database can store such text, and no line can show it.
        if SURROGATE.search(argument):
            return _print_error(f"argument {number} is not UTF-8: {argument}", code=2)
    try:
        # A command returns nothing; the code of an Exit that it raises is returned as a number.
        return app(args=arguments, prog_name=NAME, standalone_mode=False) or 0
    except typer.Exit as end:
        return end.exit_code
    except TyperException as error:
        return _print_usage_error(error)
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Exception as error:
        code = _print_expected(error)
        if code is None:
            raise
        return code


def _print_expected(error: Exception) -> int | None:
    """Print an error that is no defect; return the exit code, or None for a defect."""
    # Imported here, because a command that succeeds may need none of these libraries.
    from click import Abort, ClickException
    from kombu.exceptions import OperationalError
    from redis.exceptions import RedisError
    from sqlalchemy.exc import DBAPIError

    from card_worker.embedded.valkey import NoServer
    from card_worker.settings import WrongSetting
    from card_worker.transport.access import Refused

    match error:
        case ClickException():  # of Celery's commands
            return _print_usage_error(error)
        case Abort():
            return INTERRUPTED
        case WrongSetting():
            return _print_error(str(error), code=2)
        case Refused():
            return _print_error(str(error))
        case NoServer():
            return _print_error(f"no embedded server: {error}")
        case OperationalError() | RedisError():
            return _print_error(f"Redis: {error}")
        case DBAPIError():
            return _print_error(f"database: {str(error.orig).strip()}")
        case OSError(filename=None):
            return _print_error(str(error))
        case OSError():
            return _print_error(f"{error.filename}: {error.strerror}", code=2)
    return None


def _print_usage_error(error: Any) -> int:
    """Print in one line what is wrong with the arguments, for an error of Typer's or Celery's."""
    # Typer's texts may name the underlying error, Celery's may say how it was found.
    text = error.format_message().replace("Value error, ", "").partition("\nReason: ")[0]
    if text:  # otherwise a command is missing, and the help has been printed
        context = getattr(error, "ctx", None)
        hint = f"; see {context.command_path} --help" if context else ""
        _print_error(" ".join(text.split()).removesuffix(".") + hint)
    return int(error.exit_code)


def _print_error(text: str, *, code: int = 1) -> int:
    from card_worker.cli.console import refuse

    return refuse(text, code=code).exit_code
