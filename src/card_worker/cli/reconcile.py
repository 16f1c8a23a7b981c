"""`card-worker reconcile`: check the books."""

from dataclasses import asdict
from datetime import timedelta

from rich.progress import MofNCompleteColumn, TimeElapsedColumn
from rich.table import Table
from typer import Exit, Typer

from card_worker.cli.connections import database
from card_worker.cli.console import AsJson, err, out, plural, print_json, progress_bar, table
from card_worker.money import in_units
from card_worker.storage.engine import snapshot
from card_worker.storage.reconcile import CurrencyTotals, Differences, differences, totals

app = Typer()

PUBLISHED_WITHIN = timedelta(minutes=5)
SHOWN_MAX = 1_000
"""Number of differences that are shown; more are only counted."""
REPLY_MAX_S = 3600.0
"""Time limit of a statement: one statement may read all cards and transactions."""


@app.command()
def reconcile(as_json: AsJson = False) -> None:
    """Compare each row with the rows that it must agree with. List any differences, and exit 1."""
    columns = (MofNCompleteColumn(), TimeElapsedColumn())
    with (
        database(reply_max_s=REPLY_MAX_S) as engine,
        snapshot(engine) as connection,
        progress_bar(*columns, transient=True, disable=not err.is_terminal) as bar,
    ):
        task = bar.add_task("")

        def progress(name: str, done: int, total: int) -> None:
            bar.update(task, description=name, completed=done, total=total)

        found = differences(
            connection, progress, published_within=PUBLISHED_WITHIN, limit=SHOWN_MAX
        )
        sums = totals(connection)
    if as_json:
        lists = {"differences": [*map(asdict, found)], "totals": [*map(asdict, sums)]}
        print_json({"found": found.total, **lists})
    else:
        out.print(totals_table(sums))
        if found:
            err.print(_differences_table(found))
        else:
            out.print("The books add up.")
    if found:
        raise Exit(1)


def totals_table(sums: list[CurrencyTotals]) -> Table:
    """Return a table of the money in each currency: where it came from and where it is."""
    rows = [
        (
            each.currency,
            each.cards,
            *map(in_units, (each.issued, each.spent, each.ended, each.on_cards)),
            "yes" if each.adds_up else "NO",
        )
        for each in sums
    ]
    columns = ("currency", "cards>", "issued>", "spent>", "ended>", "on cards>", "adds up")
    return table("The books", *columns, rows=rows)


def _differences_table(found: Differences) -> Table:
    rows = [
        (each.account_id, each.subject, each.what, each.actual, each.expected, each.check)
        for each in found
    ]
    first = f", the first {len(found):,}" if found.total > len(found) else ""
    columns = ("account", "subject", "what", "actual>", "expected>", "found by")
    return table(f"{plural(found.total, 'difference')}{first}", *columns, rows=rows)
