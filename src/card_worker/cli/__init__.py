"""The command line: `card-worker`. Exit 0 done, 1 refused or found wrong, 2 wrong usage."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer
from typer import Abort, Exit
from typer.exceptions import TyperException

from card_worker.cli import (
    accounts,
    batches,
    cards,
    codes,
    dead_letters,
    events,
    processes,
    reconcile,
    send,
)
from card_worker.cli.console import refuse
from card_worker.cli.contract import contract
from card_worker.cli.demo import demo
from card_worker.cli.dev import dev
from card_worker.cli.send_file.command import send_file
from card_worker.cli.streams import Unwritable, check_streams
from card_worker.settings import WrongSetting

if TYPE_CHECKING:
    from click import ClickException

NAME = "card-worker"
INTERRUPTED = 130
"""What a shell's command exits with that Ctrl-C has ended."""

app = typer.Typer(
    name=NAME,
    help="Gift cards on Celery: commands in, one answer each, and books that add up.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(dev)
app.command(context_settings=processes.PASSED_ON)(processes.worker)
app.command()(processes.relay)
app.command(context_settings=processes.PASSED_ON)(processes.beat)
app.command()(processes.migrate)
app.command()(send.send)
app.command()(send_file)
app.add_typer(cards.app, name="card")
app.add_typer(batches.app, name="batch")
app.add_typer(codes.app, name="codes")
app.add_typer(accounts.app, name="account")
app.add_typer(events.app, name="events")
app.add_typer(dead_letters.app, name="dead-letters")
app.command()(reconcile.reconcile)
app.command()(contract)


def main() -> None:
    """Run the command line; what stops it is one line, not a traceback."""
    check_streams()
    try:
        code = _run(sys.argv[1:])
        sys.stdout.flush()
    except Unwritable as reason:
        code = _refused(str(reason))
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    """Run a command; return what the process exits with."""
    from click import Abort as CeleryAborted
    from click import ClickException
    from kombu.exceptions import OperationalError as BrokerAway
    from redis.exceptions import RedisError
    from sqlalchemy.exc import DBAPIError

    from card_worker.embedded.valkey import NoServer
    from card_worker.transport.access import Refused

    try:
        _check_arguments(arguments)
        # A command returns nothing; what it raises to exit with comes back as a number.
        return app(args=arguments, prog_name=NAME, standalone_mode=False) or 0
    except Exit as done:
        return done.exit_code
    except (TyperException, ClickException) as wrong:
        return _misused(wrong)
    except (Abort, CeleryAborted, KeyboardInterrupt):
        return INTERRUPTED
    except WrongSetting as wrong:
        return _refused(str(wrong), code=2)
    except Refused as refused:
        return _refused(str(refused))
    except NoServer as missing:
        return _refused(f"no embedded server: {missing}")
    except (BrokerAway, RedisError) as away:
        return _refused(f"Redis: {away}")
    except DBAPIError as error:
        return _refused(f"database: {str(error.orig).strip()}")
    except OSError as error:
        if error.filename is None:
            return _refused(str(error))
        return _refused(f"{error.filename}: {error.strerror}", code=2)


def _check_arguments(given: Sequence[str]) -> None:
    # What isn't text no command can use: no database holds it, and no line shows it.
    for place, argument in enumerate(given, start=1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise refuse(f"argument {place} is not UTF-8: {argument}", code=2) from None


def _misused(wrong: "TyperException | ClickException") -> int:
    """Say in one line what is wrong with the arguments, Typer's or Celery's."""
    # Typer's reasons name the error that they come from, Celery's how they were found.
    said = wrong.format_message().replace("Value error, ", "").partition("\nReason: ")[0]
    if said:  # else commands without a command, whose help has been printed
        context = getattr(wrong, "ctx", None)
        hint = f"; see {context.command_path} --help" if context else ""
        _refused(" ".join(said.split()).removesuffix(".") + hint)
    return wrong.exit_code


def _refused(why: str, *, code: int = 1) -> int:
    return refuse(why, code=code).exit_code
