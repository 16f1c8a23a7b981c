"""`card-worker reconcile`: check the books."""

from dataclasses import asdict
from datetime import timedelta
from math import inf
from time import sleep
from typing import Annotated, NoReturn

import structlog
from rich.progress import MofNCompleteColumn, TimeElapsedColumn
from rich.table import Table
from typer import Exit, Option, Typer

from card_worker import metrics
from card_worker.cli.connections import database
from card_worker.cli.console import AsJson, err, out, plural, print_json, progress_bar, table
from card_worker.cli.serving import serve_metrics
from card_worker.money import in_units
from card_worker.pauses import Pauses, keep_trying
from card_worker.settings import LogFormat, load_settings
from card_worker.storage.engine import snapshot
from card_worker.storage.errors import is_retryable, needs_operator
from card_worker.storage.reconcile import CurrencyTotals, Differences, differences, totals
from card_worker.telemetry import configure_logs

app = Typer()

PUBLISHED_WITHIN = timedelta(minutes=5)
SHOWN_MAX = 1_000
"""Number of differences that are shown; more are only counted."""
REPLY_MAX_S = 3600.0
"""Time limit of a statement: one statement may read all cards and transactions."""

log = structlog.get_logger(__name__)


@app.command()
def reconcile(
    every: Annotated[
        float | None,
        Option(
            min=1,
            max=2_678_400,
            metavar="SECONDS",
            help="Repeat it at this interval until stopped. Log the number of differences, and"
            " serve it on METRICS_PORT.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare each row with the rows that it must agree with. List any differences, and exit 1."""
    if every is not None:
        _repeat(every)
    found, sums = _compare()
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


def _repeat(every_s: float) -> NoReturn:
    from prometheus_client.metrics_core import GaugeMetricFamily

    settings = load_settings()
    configure_logs(as_json=settings.log_format is LogFormat.JSON)
    gauge = GaugeMetricFamily(
        "card_worker_reconcile_differences", "Differences that the last check has found."
    )
    serve_metrics(settings, "reconcile", stalled_s=inf, gauges=lambda: [gauge])
    while True:
        found, _ = keep_trying(
            _compare,
            "database unavailable",
            pauses=Pauses(first_s=1, max_s=60),
            is_retryable=is_retryable,
            is_alarming=needs_operator,
        )
        gauge.samples.clear()
        gauge.add_metric((), found.total)
        metrics.stamp(metrics.RECONCILE_DONE)
        if found:
            log.error("books differ", differences=found.total)
        else:
            log.info("books add up")
        sleep(every_s)


def _compare() -> tuple[Differences, list[CurrencyTotals]]:
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
        return found, totals(connection)


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
