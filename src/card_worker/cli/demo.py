"""`card-worker demo`: run the whole system once on this machine, and print what it did."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from card_worker.cli.console import money, out, refuse, table
from card_worker.cli.reconcile import totals_table
from card_worker.contracts.enums import Side
from card_worker.money import in_units
from card_worker.storage.engine import reading
from card_worker.storage.reconcile import differences, totals

if TYPE_CHECKING:
    from card_worker.embedded.demo_scenario import Event, Sent, Till
    from card_worker.embedded.stack import Stack
    from card_worker.storage.dead_letters import DeadLetter


PREFIX = "card_worker-demo-"
"""The names of temporary folders begin like this."""


def demo(
    keep: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Run in this new folder, and keep its data and logs."),
    ] = None,
) -> None:
    """Run the whole system once on this machine, and show what it does. Needs no server."""
    from card_worker.embedded.errors import Interrupted, StackFailed
    from card_worker.embedded.signals import catching_signals
    from card_worker.embedded.stack import running

    started = monotonic()
    try:
        with catching_signals() as stop, _folder(keep) as folder:
            out.print("Starting a broker, a database, a worker and a relay for this demo ...")
            with running(folder, stop) as stack:
                wrong = _show(stack)
    except Interrupted:
        raise refuse("interrupted; nothing is left running") from None
    except StackFailed as failure:
        raise refuse(str(failure)) from None
    if keep:
        out.print(f"Data, logs and a sheet of labels to print are in {keep}.", soft_wrap=True)
    out.print(f"All processes have ended. The demo took {monotonic() - started:.1f} s.")
    if wrong:
        raise refuse("; ".join(wrong))
    out.print("The books add up.")


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    from card_worker.embedded.folder import remove_abandoned

    if keep is None:
        remove_abandoned(Path(gettempdir()).glob(f"{PREFIX}*"))
        with TemporaryDirectory(prefix=PREFIX) as folder:
            yield Path(folder)
    elif keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise refuse(f"{keep} exists and is not an empty folder", code=2)
    else:
        yield keep


def _show(stack: "Stack") -> list[str]:
    """Play the scenario and print its outcome; return what is wrong."""
    from card_worker.client import Client
    from card_worker.embedded.demo_scenario import ACCOUNT, Till, play

    out.print(f"They are ready. The account {ACCOUNT} sends its commands ...\n")
    with Client(stack.broker_url, seal_to=[stack.recipient]) as client:
        till = Till(stack, client)
        stream, letter = play(till)
    _print_sent(till.sent)
    _print_stream(till.sent)
    _print_refusals(till.sent)
    _print_printed(stack, till)
    _print_letter(letter)
    return [*till.wrong, *_prove(stack, stream)]


def _print_sent(sent: "list[Sent]") -> None:
    rows = [(message.number, message.task, message.about, message.purpose) for message in sent]
    out.print(table("Messages sent", "#>", "task", "card", "purpose", rows=rows), "")


def _print_stream(sent: "list[Sent]") -> None:
    """Print the events in order; equal events of one list share a row."""
    from card_worker.embedded.demo_scenario import outcome

    rows, place = list[tuple[object, ...]](), 1
    for message in sent:
        for _, same in groupby(message.events, outcome):
            events = list(same)
            last = place + len(events) - 1
            places = str(place) if last == place else f"{place}-{last}"
            about = events[0]["subject"] if last == place else message.about
            rows.append((places, message.number, events[0]["type"], about, _outcome_of(events)))
            place = last + 1
    columns = ("#>", "to>", "type", "about", "outcome")
    out.print(table("Events on the stream, in order", *columns, rows=rows))
    resent, unreadable = (message.number for message in sent if not message.events)
    out.print(f"No event for #{resent}: it was answered before, so it changes nothing.")
    out.print(f"No event for #{unreadable}: it is unreadable, and kept as a dead letter.\n")


def _outcome_of(events: "list[Event]") -> str:
    from card_worker.embedded.demo_scenario import outcome

    data = events[0]["data"]
    card = data.get("card")
    if card:
        each = " each" if len(events) > 1 else ""
        held = f", {in_units(card['amount_reserved'])} held" if card["amount_reserved"] else ""
        return f"{money(card['amount_balance'], card['currency'])}{each}{held}, {card['status']}"
    return f"{data['created']:,} cards" if "created" in data else outcome(events[0])


def _print_refusals(sent: "list[Sent]") -> None:
    rows = []
    for message in sent:
        for event in message.events:
            data = event["data"]
            if "reason" in data:
                problems = [
                    f"{each['field']}: {each['message']}" for each in data.get("problems", ())
                ]
                rows.append(
                    (message.number, data["reason"], "; ".join(problems) or data["message"])
                )
    out.print(table("Refusals", "#>", "reason", "in words", rows=rows), "")


def _print_printed(stack: "Stack", till: "Till") -> None:
    """Print the lines of the bureau file, and draw its labels."""
    from card_worker.cli.barcodes import draw_sheet
    from card_worker.secrets.formats import Barcode

    rows = [(row["card_id"], row["token"], row["pin"]) for row in till.printed]
    title = "The sealed file of order-2, opened by the bureau with its identity"
    out.print(table(title, "card", "token", "PIN", rows=rows))
    out.print("The database holds only hashes of these; no message, log or event has one.\n")
    (stack.folder / "labels.pdf").write_bytes(draw_sheet(till.printed, Barcode.CODE_128))
    (stack.folder / "bureau-identity.txt").write_text(f"{till.bureau.identity}\n", "ascii")


def _print_letter(letter: "DeadLetter") -> None:
    rows = [("queue", letter.queue), ("task", letter.task), ("reason", letter.explanation)]
    rows.append(("message", letter.body.decode()))
    out.print(
        table("The dead letter: an unreadable message, kept as received", "", "", rows=rows), ""
    )


def _issued(transaction: dict[str, Any]) -> int:
    """Return the amount that a transaction issued; negative if it took money back."""
    amount = transaction["amount"]
    sides = {transaction["debit"]: amount, transaction["credit"]: -amount}
    return int(sides.get(Side.ISSUER, 0))


def _prove(stack: "Stack", stream: "list[Event]") -> list[str]:
    """Print the books; return where rows or events contradict them."""
    with reading(stack.engine) as connection:
        wrong, sums = list(differences(connection)), totals(connection)
    out.print(totals_table(sums), "")
    published = Counter[str]()
    for event in stream:
        if transaction := event["data"].get("transaction"):
            published[transaction["currency"]] += _issued(transaction)
    problems = [f"{one.subject}: {one.what} is {one.stands}, not {one.proven}" for one in wrong]
    if not all(one.adds_up for one in sums):
        problems.append("the amount issued is not the amount on the cards, spent and ended")
    if published != {one.currency.value: one.issued for one in sums}:
        problems.append("the events and the books differ")
    return problems
