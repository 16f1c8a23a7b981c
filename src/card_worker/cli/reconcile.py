"""`card-worker reconcile`: prove the books."""

from dataclasses import asdict

import typer

from card_worker.cli.console import AsJson, err, looking, out, print_json, table
from card_worker.money import in_units
from card_worker.storage.reconcile import CurrencyTotals, Difference, differences, totals

REPLY_MAX_S = 3600.0
"""A single statement reads all cards and transactions there are."""


def reconcile(as_json: AsJson = False) -> None:
    """Prove every balance against the rows that made it; exit 1 and list where they differ."""
    with looking(reply_max_s=REPLY_MAX_S) as connection:
        wrong, sums = list(differences(connection)), totals(connection)
    if as_json:
        print_json(
            {"differences": [asdict(one) for one in wrong], "totals": [asdict(one) for one in sums]}
        )
    else:
        out.print(totals_table(sums))
        if wrong:
            err.print(_differences_table(wrong))
        else:
            out.print("The books add up.")
    if wrong:
        raise typer.Exit(1)


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


def _differences_table(wrong: list[Difference]) -> object:
    rows = [(one.account_id, one.subject, one.what, one.stands, one.proven) for one in wrong]
    return table(
        f"{len(rows)} differences", "account", "about", "what", "stands>", "proven>", rows=rows
    )
