"""`card-worker dev`: run the whole system on this machine until Ctrl-C."""

import importlib.util
import shlex
import sys
from itertools import count
from pathlib import Path
from time import sleep
from typing import Annotated

from typer import Option, Typer

from card_worker.cli.console import out, refuse
from card_worker.embedded.errors import Interrupted, StackFailed
from card_worker.embedded.signals import catching_signals
from card_worker.embedded.stack import Stack, running
from card_worker.storage import queries
from card_worker.storage.engine import reading

app = Typer()

FOLDER = Path(".card-worker-dev")
ACCOUNT = "T00000001"
POLL_S = 0.2
NO_FLOWER = "not installed: pip install 'card-worker[flower]'"


@app.command()
def dev(
    folder: Annotated[Path, Option(help="The folder for cards, keys and logs.")] = FOLDER,
) -> None:
    """Run the whole system on this machine until Ctrl-C, with beat and Flower. Needs no server.

    Cards and ports are kept for the next start.
    """
    has_flower = importlib.util.find_spec("flower") is not None
    try:
        with catching_signals() as stop:
            out.print("Starting a broker, a worker, a relay and beat ...")
            with running(folder, stop, beat=True, flower=has_flower) as stack:
                _print_addresses(stack)
                try:
                    while True:  # until a process ends or the user stops the command
                        stack.check()
                        sleep(POLL_S)
                finally:
                    out.print("\nStopping ...")
    except Interrupted:
        out.print("All processes have ended. The cards are kept for the next start.")
    except StackFailed as error:
        raise refuse(str(error)) from None


def _print_addresses(stack: Stack) -> None:
    program, card_id = _program(), _free_card_id(stack)
    lines = (
        "",
        "The system is running. Ctrl-C ends it.",
        "",
        f"  Flower  {stack.flower_url or NO_FLOWER}",
        f"  logs    {stack.logs}",
        "",
        "Paste this into another terminal, for producers, consumers and card-worker:",
        "",
        *(f"export {name}={shlex.quote(value)}" for name, value in stack.settings.items()),
        "",
        "Then make a card, show the answer, and look at the card:",
        "",
        f"{program} send cards.create account_id={ACCOUNT} card_id={card_id}"
        " amount=50000 currency=NOK --wait",
        f"{program} card show {card_id} --account {ACCOUNT}",
        "",
        "Change it by a command that is signed with the key of the producer dev:",
        "",
        f"{program} send cards.update account_id={ACCOUNT} card_id={card_id} name=signed"
        f" --key {shlex.quote(str(stack.key_file))} --wait",
        f"{program} --help",
    )
    # Not wrapped on a narrow terminal, because the lines are copied.
    out.print(*lines, sep="\n", soft_wrap=True)


def _program() -> str:
    """Return a command that starts card-worker in a terminal with any PATH."""
    script = Path(sys.executable).with_name("card-worker")
    if script.exists():
        return shlex.quote(str(script))
    return f"{shlex.quote(sys.executable)} -m card_worker.cli"


def _free_card_id(stack: Stack) -> str:
    """Return an unused card_id, so that the example works at each start."""
    with reading(stack.engine) as connection:
        ids = (f"card-{number:02}" for number in count(1))
        return next(each for each in ids if queries.find_card(connection, ACCOUNT, each) is None)
