"""`card-worker demo`: run the whole system once on this machine, and show what it does."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from time import monotonic
from typing import Annotated

from typer import Option, Typer

from card_worker.cli.console import explanation, money, out, refuse, table
from card_worker.cli.reconcile import totals_table
from card_worker.client import Client
from card_worker.contracts.enums import Side
from card_worker.embedded.demo_scenario import ACCOUNT, Event, Sent, Till, outcome, play
from card_worker.embedded.errors import Interrupted, StackFailed
from card_worker.embedded.folder import remove_abandoned
from card_worker.embedded.signals import catching_signals
from card_worker.embedded.stack import Stack, running
from card_worker.money import in_units
from card_worker.secrets.formats import Barcode
from card_worker.storage.engine import reading
from card_worker.storage.reconcile import differences, totals

app = Typer()

PREFIX = "card_worker-demo-"
"""The beginning of the names of temporary folders."""


@app.command()
def demo(
    keep: Annotated[
        Path | None,
        Option(metavar="FOLDER", help="Run in this new folder, and keep its data and logs."),
    ] = None,
) -> None:
    """Run the whole system once on this machine, and show what it does. Needs no server."""
    started = monotonic()
    try:
        with catching_signals() as stop, _folder(keep) as folder:
            out.print("Starting a broker, a database, a worker and a relay for this demo ...")
            with running(folder, stop) as stack:
                problems = _run(stack)
    except Interrupted:
        raise refuse("interrupted; nothing is left running") from None
    except StackFailed as error:
        raise refuse(str(error)) from None
    if keep:
        out.print(f"Data, logs and a sheet of labels to print are in {keep}.", soft_wrap=True)
    out.print(f"All processes have ended. The demo took {monotonic() - started:.1f} s.")
    if problems:
        raise refuse("; ".join(problems))
    out.print("The books add up.")


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        remove_abandoned(Path(gettempdir()).glob(f"{PREFIX}*"))
        with TemporaryDirectory(prefix=PREFIX) as folder:
            yield Path(folder)
    elif keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise refuse(f"{keep} exists and is not an empty folder", code=2)
    else:
        yield keep


def _run(stack: Stack) -> list[str]:
    """Run the scenario and print its outcome; return problems."""
    out.print(f"They are ready. The account {ACCOUNT} sends its commands ...\n")
    with Client(stack.broker_url, seal_to=[stack.recipient]) as client:
        till = Till(stack, client)
        stream, letter = play(till)
    rows: list[tuple[object, ...]] = [
        (message.number, message.task, message.about, message.purpose) for message in till.sent
    ]
    out.print(table("Messages sent", "#>", "task", "card", "purpose", rows=rows), "")
    _print_events(till.sent)
    rows = [
        (message.number, data["reason"], explanation(data))
        for message in till.sent
        for data in (event["data"] for event in message.events)
        if "reason" in data
    ]
    out.print(table("Refusals", "#>", "reason", "in words", rows=rows), "")
    _print_bureau_file(stack, till)
    title = "The dead letter: an unreadable message, kept as received"
    rows = [("queue", letter.queue), ("task", letter.task), ("reason", letter.explanation)]
    rows += [("message", letter.body.decode())]
    out.print(table(title, "", "", rows=rows), "")
    return [*till.wrong, *_check_books(stack, stream)]


def _print_events(sent: list[Sent]) -> None:
    """Print the events in order; equal events of one list share a row."""
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
    ids = [(message.number, event["id"]) for message in sent for event in message.events]
    first = {id: number for number, id in reversed(ids)}
    resent = next(number for number, id in ids if number != first[id])
    (unreadable,) = (message.number for message in sent if not message.events)
    out.print(f"#{resent} was sent before: it changes nothing, and gets its first answer again.")
    out.print(f"No event for #{unreadable}: it is unreadable, and kept as a dead letter.\n")


def _outcome_of(events: list[Event]) -> str:
    data = events[0]["data"]
    if card := data.get("card"):
        each = " each" if len(events) > 1 else ""
        held = f", {in_units(card['amount_reserved'])} held" if card["amount_reserved"] else ""
        return f"{money(card['amount_balance'], card['currency'])}{each}{held}, {card['status']}"
    return f"{data['created']:,} cards" if "created" in data else outcome(events[0])


def _print_bureau_file(stack: Stack, till: Till) -> None:
    """Print the lines of the bureau file, and draw its labels."""
    from card_worker.cli.barcodes import draw_sheet

    rows = [(row["card_id"], row["token"], row["pin"]) for row in till.printed]
    title = "The encrypted file of order-2, opened by the printing company with its identity"
    out.print(table(title, "card", "token", "PIN", rows=rows))
    out.print("The database holds only hashes of these; no message, log or event has one.\n")
    (stack.folder / "labels.pdf").write_bytes(draw_sheet(till.printed, Barcode.CODE_128))
    (stack.folder / "bureau-identity.txt").write_text(f"{till.bureau.identity}\n", "ascii")


def _check_books(stack: Stack, stream: list[Event]) -> list[str]:
    """Print the books; return the differences between rows, and between rows and events."""
    with reading(stack.engine) as connection:
        found, sums = differences(connection), totals(connection)
    out.print(totals_table(sums), "")
    published = Counter[str]()
    # As a consumer does it: an event that comes again has the same id.
    for event in {event["id"]: event for event in stream}.values():
        if moved := event["data"].get("transaction"):
            sign = (moved["debit"] == Side.ISSUER) - (moved["credit"] == Side.ISSUER)
            published[moved["currency"]] += sign * moved["amount"]
    problems = [
        f"{each.subject}: {each.what} is {each.actual}, not {each.expected}" for each in found
    ]
    if not all(each.adds_up for each in sums):
        problems.append("the amount issued is not the amount on the cards, spent and ended")
    if published != {each.currency: each.issued for each in sums}:
        problems.append("the events and the books differ")
    return problems
