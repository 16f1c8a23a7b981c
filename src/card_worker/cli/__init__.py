"""The command line: `card-worker`. Exit 0 done, 1 refused or found wrong, 2 wrong usage."""

import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from card_worker.cli import (
    accounts,
    batches,
    cards,
    codes,
    dead_letters,
    events,
    parts,
    reconcile,
    send,
)
from card_worker.cli.console import refuse
from card_worker.cli.contract import contract
from card_worker.cli.demo import demo
from card_worker.cli.dev import dev
from card_worker.cli.send_file import send_file
from card_worker.settings import WrongSetting

app = typer.Typer(
    name="card-worker",
    help="Gift cards on Celery: commands in, one answer each, and books that add up.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(dev)
app.command(context_settings=parts.PASSED_ON)(parts.worker)
app.command()(parts.relay)
app.command(context_settings=parts.PASSED_ON)(parts.beat)
app.command()(parts.migrate)
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
    """Run the command line; what stops a start is one line, not a traceback."""
    from kombu.exceptions import OperationalError as BrokerAway
    from redis.exceptions import RedisError
    from sqlalchemy.exc import DBAPIError

    from card_worker.cli.embedded import NoServer
    from card_worker.transport.access import Refused

    try:
        _check_arguments(sys.argv[1:])
        app()
    except WrongSetting as wrong:
        _stop(str(wrong))
    except Refused as refused:
        _stop(str(refused))
    except NoServer as missing:
        _stop(f"no embedded server: {missing}")
    except (BrokerAway, RedisError) as away:
        _stop(f"Redis: {away}")
    except DBAPIError as error:
        _stop(f"database: {str(error.orig).strip()}")


def _check_arguments(given: Sequence[str]) -> None:
    # What isn't text no command can use: no database holds it, and no line shows it.
    for place, argument in enumerate(given, start=1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            _stop(f"argument {place} is not UTF-8: {argument}", code=2)


def _stop(why: str, *, code: int = 1) -> NoReturn:
    sys.exit(refuse(why, code=code).exit_code)
