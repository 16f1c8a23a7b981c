"""`card-worker dev`: the whole system kept running on this machine, without any server."""

import importlib.util
import shlex
import sys
from itertools import count
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Annotated

import typer

from card_worker.cli.console import out, refuse
from card_worker.storage import queries
from card_worker.storage.engine import reading

if TYPE_CHECKING:
    from card_worker.cli.stack import Stack

FOLDER = Path(".card-worker-dev")
ACCOUNT = "T00000001"
LOOK_S = 0.2


def dev(
    folder: Annotated[Path, typer.Option(help="Where the cards and the logs are kept.")] = FOLDER,
) -> None:
    """Keep all of it running on this machine, with beat and Flower, until Ctrl-C."""
    from card_worker.cli.stack import Interrupted, StackFailed, catching_signals, running

    has_flower = importlib.util.find_spec("flower") is not None
    try:
        with catching_signals() as asked:
            out.print("Starting a broker, a worker, a relay and beat ...")
            with running(folder, asked, beat=True, flower=has_flower) as stack:
                _print_addresses(stack)
                _keep(stack)
    except Interrupted:
        out.print("Nothing is left running. The cards are kept for the next time.")
    except StackFailed as failure:
        raise refuse(str(failure)) from None


def _keep(stack: "Stack") -> None:
    """Return never: an end is an exception."""
    try:
        while True:
            stack.check()
            sleep(LOOK_S)
    finally:
        out.print("\nStopping ...")


def _print_addresses(stack: "Stack") -> None:
    settings = [f"export {name}={shlex.quote(value)}" for name, value in stack.settings.items()]
    program, card_id = _program(), _free_card_id(stack)
    _print(
        "",
        "Everything runs. Ctrl-C ends it.",
        "",
        f"  broker    {stack.broker_url}",
        f"  database  {stack.database_url}",
        f"  Flower    {stack.flower_url or _NO_FLOWER}",
        f"  logs      {stack.logs}",
        "",
        "Paste this into another terminal: it makes a card and shows the answer.",
        "",
        " ".join(
            [
                *(f"{name}={shlex.quote(value)}" for name, value in stack.settings.items()),
                f"{program} send cards.create account_id={ACCOUNT} card_id={card_id}",
                "amount=50000 currency=NOK --wait",
            ]
        ),
        "",
        "To go on there:",
        "",
        *settings,
        f"{program} card show {card_id} --account {ACCOUNT}",
        f"{program} --help",
    )


_NO_FLOWER = "not installed: pip install 'card-worker[flower]'"


def _program() -> str:
    """Return how another terminal calls us, which may have another PATH."""
    script = Path(sys.executable).with_name("card-worker")
    if script.exists():
        return shlex.quote(str(script))
    return f"{shlex.quote(sys.executable)} -m card_worker.cli"


def _free_card_id(stack: "Stack") -> str:
    """Return a card_id that isn't taken, so that the example works the second time, too."""
    with reading(stack.engine) as connection:
        ids = (f"card-{number:02}" for number in count(1))
        return next(each for each in ids if queries.find_card(connection, ACCOUNT, each) is None)


def _print(*lines: str) -> None:
    # Whole lines, however narrow the terminal: they are to be copied.
    out.print(*lines, sep="\n", soft_wrap=True)
