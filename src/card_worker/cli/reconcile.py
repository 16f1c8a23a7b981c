"""`card-worker reconcile`: prove the books."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from itertools import islice

import typer

from card_worker.cli.console import AsJson, database, err, out, print_json, table
from card_worker.money import in_units
from card_worker.storage.engine import snapshot
from card_worker.storage.reconcile import (
    CurrencyTotals,
    Difference,
    Progress,
    differences,
    totals,
)

PUBLISHED_WITHIN = timedelta(minutes=5)
SHOWN_MAX = 1_000
"""So many differences are kept to be shown; more are only counted."""
REPLY_MAX_S = 3600.0
"""A single statement reads all cards and transactions there are."""


def reconcile(as_json: AsJson = False) -> None:
    """Prove every row against those it must agree with; exit 1 and list where they differ."""
    with (
        database(reply_max_s=REPLY_MAX_S) as engine,
        snapshot(engine) as connection,
        _progress() as progress,
    ):
        found = differences(connection, progress, published_within=PUBLISHED_WITHIN)
        wrong = list(islice(found, SHOWN_MAX))
        count = len(wrong) + sum(1 for _ in found)
        sums = totals(connection)
    if as_json:
        print_json(
            {
                "found": count,
                "differences": [asdict(one) for one in wrong],
                "totals": [asdict(one) for one in sums],
            }
        )
    else:
        out.print(totals_table(sums))
        if count:
            err.print(_differences_table(wrong, count))
        else:
            out.print("The books add up.")
    if count:
        raise typer.Exit(1)


@contextmanager
def _progress() -> Iterator[Progress]:
    """Give what shows on a terminal how far each pass over the database is."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        task = bars.add_task("")
        yield lambda name, done, total: bars.update(
            task, description=name, completed=done, total=total
        )


def totals_table(sums: list[CurrencyTotals]) -> object:
    """Return a table of where money came from and where it is, by currency."""
    rows = [
        (
            one.currency,
            one.cards,
            *map(in_units, (one.issued, one.spent, one.ended, one.on_cards)),
            "yes" if one.adds_up else "NO",
        )
        for one in sums
    ]
    columns = ("currency", "cards>", "issued>", "spent>", "ended>", "on cards>", "adds up")
    return table("The books", *columns, rows=rows)


def _differences_table(wrong: list[Difference], count: int) -> object:
    rows = [
        (one.account_id, one.subject, one.what, one.stands, one.proven, one.check) for one in wrong
    ]
    title = f"{count:,} differences" + (f", the first {len(rows):,}" if count > len(rows) else "")
    columns = ("account", "about", "what", "stands>", "should be>", "found by")
    return table(title, *columns, rows=rows)
