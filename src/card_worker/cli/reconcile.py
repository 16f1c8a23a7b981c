"""`card-worker reconcile`: check the books."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from itertools import islice

from rich.progress import MofNCompleteColumn, TimeElapsedColumn
from rich.table import Table
from typer import Exit, Typer

from card_worker.cli.connections import database
from card_worker.cli.console import AsJson, err, out, plural, print_json, progress_bar, table
from card_worker.money import in_units
from card_worker.storage.engine import snapshot
from card_worker.storage.reconcile import (
    CurrencyTotals,
    Difference,
    Progress,
    differences,
    totals,
)

app = Typer()

PUBLISHED_WITHIN = timedelta(minutes=5)
SHOWN_MAX = 1_000
"""Number of differences that are shown; more are only counted."""
REPLY_MAX_S = 3600.0
"""Time limit of a statement: one statement may read all cards and transactions."""


@app.command()
def reconcile(as_json: AsJson = False) -> None:
    """Compare each row with all other rows that say the same. Exit 1 and list any differences."""
    with (
        database(reply_max_s=REPLY_MAX_S) as engine,
        snapshot(engine) as connection,
        _progress() as progress,
    ):
        found = differences(connection, progress, published_within=PUBLISHED_WITHIN)
        shown = list(islice(found, SHOWN_MAX))
        count = len(shown) + sum(1 for _ in found)
        sums = totals(connection)
    if as_json:
        lists = {"differences": [*map(asdict, shown)], "totals": [*map(asdict, sums)]}
        print_json({"found": count, **lists})
    else:
        out.print(totals_table(sums))
        if count:
            err.print(_differences_table(shown, count))
        else:
            out.print("The books add up.")
    if count:
        raise Exit(1)


@contextmanager
def _progress() -> Iterator[Progress]:
    """Give a function that shows the progress of each pass over the database on a terminal."""
    columns = (MofNCompleteColumn(), TimeElapsedColumn())
    with progress_bar(*columns, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("")
        yield lambda name, done, total: bar.update(
            task, description=name, completed=done, total=total
        )


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


def _differences_table(shown: list[Difference], count: int) -> Table:
    rows = [
        (each.account_id, each.subject, each.what, each.stands, each.proven, each.check)
        for each in shown
    ]
    title = plural(count, "difference") + (
        f", the first {SHOWN_MAX:,}" if count > len(rows) else ""
    )
    columns = ("account", "about", "what", "value>", "should be>", "found by")
    return table(title, *columns, rows=rows)
