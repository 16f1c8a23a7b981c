"""`card-worker demo`: the whole system once, on this machine, without any server; and its books."""

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
    from card_worker.cli.stack import Stack
    from card_worker.cli.story import Event, Sent, Till
    from card_worker.storage.dead_letters import DeadLetter


PREFIX = "card_worker-demo-"
"""How the names of temporary folders begin."""


def demo(
    keep: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Run in this new folder, and leave data and logs."),
    ] = None,
) -> None:
    """Show all of it once, on this machine, without any server. Ends by itself."""
    from card_worker.cli.stack import Interrupted, StackFailed, catching_signals, running

    started = monotonic()
    try:
        with catching_signals() as asked, _folder(keep) as folder:
            out.print("Starting a broker, a database, a worker and a relay, just for this ...")
            with running(folder, asked) as stack:
                wrong = _show(stack)
    except Interrupted:
        raise refuse("interrupted; nothing is left running") from None
    except StackFailed as failure:
        raise refuse(str(failure)) from None
    if keep:
        out.print(f"Its data, logs and a sheet of labels to print are in {keep}.", soft_wrap=True)
    out.print(f"Nothing is left running. It took {monotonic() - started:.1f} s.")
    if wrong:
        raise refuse("; ".join(wrong))
    out.print("The books add up.")


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    from card_worker.cli.stack import remove_abandoned

    if keep is None:
        remove_abandoned(Path(gettempdir()).glob(f"{PREFIX}*"))
        with TemporaryDirectory(prefix=PREFIX) as folder:
            yield Path(folder)
    elif keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise refuse(f"{keep} is there already, and not an empty folder", code=2)
    else:
        yield keep


def _show(stack: "Stack") -> list[str]:
    """Tell the story and print what came of it; return what is not as it should be."""
    from card_worker.cli.story import ACCOUNT, Till, tell
    from card_worker.client import Client

    out.print(f"They are ready. The shop {ACCOUNT} begins its day ...\n")
    with Client(stack.broker_url, seal_to=[stack.recipient]) as client:
        till = Till(stack, client)
        stream, letter = tell(till)
    _print_sent(till.sent)
    _print_stream(till.sent)
    _print_refusals(till.sent)
    _print_printed(stack, till)
    _print_letter(letter)
    return [*till.wrong, *_prove(stack, stream)]


def _print_sent(sent: "list[Sent]") -> None:
    rows = [(one.number, one.task, one.about, one.asks) for one in sent]
    out.print(table("What was sent", "#>", "task", "card", "asks for", rows=rows), "")


def _print_stream(sent: "list[Sent]") -> None:
    """Print the events in their order; those of a list that say the same are one row."""
    from card_worker.cli.story import outcome

    rows, place = list[tuple[object, ...]](), 1
    for one in sent:
        for _, same in groupby(one.events, outcome):
            events = list(same)
            last = place + len(events) - 1
            places = str(place) if last == place else f"{place}-{last}"
            about = events[0]["subject"] if last == place else one.about
            rows.append((places, one.number, events[0]["type"], about, _says(events)))
            place = last + 1
    columns = ("#>", "to>", "type", "about", "says")
    out.print(table("What came back on the stream, in its order", *columns, rows=rows))
    resent, unread = (one.number for one in sent if not one.events)
    out.print(f"No event for #{resent}: it had been answered, so it changes nothing.")
    out.print(f"No event for #{unread}: it can't be read, so it is kept as a dead letter.\n")


def _says(events: "list[Event]") -> str:
    from card_worker.cli.story import outcome

    data = events[0]["data"]
    card = data.get("card")
    if card:
        each = " each" if len(events) > 1 else ""
        locked = f", {in_units(card['amount_reserved'])} locked" if card["amount_reserved"] else ""
        return f"{money(card['amount_balance'], card['currency'])}{each}{locked}, {card['status']}"
    return f"{data['created']:,} cards" if "created" in data else outcome(events[0])


def _print_refusals(sent: "list[Sent]") -> None:
    rows = []
    for one in sent:
        for event in one.events:
            data = event["data"]
            if "reason" in data:
                problems = [
                    f"{each['field']}: {each['message']}" for each in data.get("problems", ())
                ]
                rows.append((one.number, data["reason"], "; ".join(problems) or data["message"]))
    out.print(table("What was refused, and why", "#>", "reason", "that is", rows=rows), "")


def _print_printed(stack: "Stack", till: "Till") -> None:
    """Print what the bureau reads, and draw it as it will print it."""
    from card_worker.cli.barcodes import draw_sheet
    from card_worker.secrets.formats import Barcode

    rows = [(row["card_id"], row["token"], row["pin"]) for row in till.printed]
    title = "What the bureau reads: it alone can open the sealed file of order-2"
    out.print(table(title, "card", "token", "PIN", rows=rows))
    out.print("The database keeps hashes of these; no message, log or event holds one.\n")
    (stack.folder / "labels.pdf").write_bytes(draw_sheet(till.printed, Barcode.CODE_128))
    (stack.folder / "bureau-identity.txt").write_text(f"{till.bureau.secret}\n", "ascii")


def _print_letter(letter: "DeadLetter") -> None:
    rows = [
        ("queue", letter.queue),
        ("task", letter.task),
        ("why", letter.explanation),
    ]
    rows.append(("message", letter.body.decode()))
    out.print(
        table("The dead letter: what nobody could read, kept as it came", "", "", rows=rows), ""
    )


def _issued(moved: dict[str, Any]) -> int:
    """Return what a transaction brought into the world, or took out of it."""
    sides = {moved["debit"]: moved["amount"], moved["credit"]: -moved["amount"]}
    return int(sides.get(Side.ISSUER, 0))


def _prove(stack: "Stack", stream: "list[Event]") -> list[str]:
    """Print the books; return what contradicts them, or what the stream told of them."""
    with reading(stack.engine) as connection:
        wrong, sums = list(differences(connection)), totals(connection)
    out.print(totals_table(sums), "")
    told = Counter[str]()
    for event in stream:
        if moved := event["data"].get("transaction"):
            told[moved["currency"]] += _issued(moved)
    problems = [f"{one.subject}: {one.what} is {one.stands}, not {one.proven}" for one in wrong]
    if not all(one.adds_up for one in sums):
        problems.append("what was issued is not what the cards hold")
    if told != {one.currency.value: one.issued for one in sums}:
        problems.append("what the events tell is not what the books say")
    return problems
