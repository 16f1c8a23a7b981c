"""`card-worker report`: what the issuer owes the holders of cards, and how that came about."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from typer import Exit, Option, Typer

from card_worker.cli.connections import database
from card_worker.cli.console import err, out, plural, refuse
from card_worker.cli.files import check_new, file_errors, write_new
from card_worker.cli.report.csv_files import (
    liability_csv,
    order_csv,
    redemption_csv,
    roll_forward_csv,
)
from card_worker.cli.report.periods import NotAPeriod, day_after, first_day, midnight, month_number
from card_worker.cli.report.reading import Scope, read_figures
from card_worker.contracts.fields import is_account_id
from card_worker.contracts.json_text import write_time
from card_worker.storage.engine import snapshot
from card_worker.storage.settled import MARGIN, NotSettled, Settled, settled

app = Typer()

REPLY_MAX_S = 3600.0
"""Time limit of a statement: one statement may read all cards and transactions."""
MONTHS_MAX = 240
"""Largest number of months of a report."""
FILES = ("report.html", "roll-forward.csv", "liability.csv", "orders.csv", "redemption.csv")


@app.command()
def report(
    from_: Annotated[
        str, Option("--from", help="First month, such as 2026-01, or first day: 2026-01-15.")
    ],
    to: Annotated[str, Option("--to", help="Last month or day. It is part of the report.")],
    out_: Annotated[
        Path, Option("--out", file_okay=False, help="Folder for the page and the CSV files.")
    ],
    account: Annotated[
        str | None, Option("--account", "-a", help="Only this account, such as T00000001.")
    ] = None,
    timezone: Annotated[str, Option(help="Time zone of the months, such as Europe/Oslo.")] = "UTC",
) -> None:
    """Write the financial report: a page and CSV files. Exit 1 if the figures don't add up."""
    scope = _read_scope(from_, to, account, timezone)
    for file in FILES:
        check_new(out_ / file)
    try:
        from card_worker.cli.report.page import write_page
    except ImportError as error:
        raise refuse(f"{error.name} is missing: pip install 'card-worker[report]'") from None
    with database(reply_max_s=REPLY_MAX_S) as engine:
        try:
            moment = settled(engine)
        except NotSettled as error:
            raise refuse(str(error)) from None
        check_settled(scope, moment)
        with snapshot(engine) as connection:
            found = read_figures(connection, scope, moment.now)
    contents = (
        write_page(scope, moment.now, found),
        roll_forward_csv(found.books),
        liability_csv(found.held, found.expiries),
        order_csv(found.ordered),
        redemption_csv(found.cohorts),
    )
    with file_errors(out_):
        out_.mkdir(parents=True, exist_ok=True)
    for file, content in zip(FILES, contents, strict=True):
        write_new(out_ / file, content)
    out.print(f"{out_ / FILES[0]} and {plural(len(FILES) - 1, 'CSV file')}")
    for each in found.differences:
        err.print(f"card-worker: {each.text}; run card-worker reconcile")
    if found.differences:
        raise Exit(1)


def _read_scope(from_: str, to: str, account: str | None, timezone: str) -> Scope:
    if account is not None and not is_account_id(account):
        raise refuse(f"--account: {account} is not an account such as T00000001", code=2)
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise refuse(f"--timezone: there is no time zone {timezone}", code=2) from None
    first, last = _read_day("--from", from_, first_day), _read_day("--to", to, day_after)
    if first >= last:
        raise refuse(f"--to: {to} is before --from {from_}", code=2)
    if month_number(last) - month_number(first) > MONTHS_MAX:
        raise refuse(f"--from: a report has at most {MONTHS_MAX} months", code=2)
    return Scope(account, first, last, zone, timezone)


def _read_day(option: str, text: str, read: Callable[[str], date]) -> date:
    try:
        return read(text)
    except NotAPeriod as error:
        raise refuse(f"{option}: {error}", code=2) from None


def check_settled(scope: Scope, moment: Settled) -> None:
    """Refuse a report of a time in which commits that are open may still post something."""
    end = midnight(scope.last, scope.zone)
    if end <= moment.until:
        return
    if end > moment.now - MARGIN:
        reason = "it is not over"
    else:
        reason = f"a commit has been open since {_seconds(moment.until + MARGIN)}"
    raise refuse(
        f"the report ends at {_seconds(end)}, and {reason}; it can be made for a time until"
        f" {_seconds(moment.until)}, or from {_seconds(end + MARGIN)} on when no commit is open"
    )


def _seconds(time: datetime) -> str:
    return write_time(time.astimezone(UTC))
