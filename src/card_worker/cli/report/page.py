"""The page of the report: one HTML file that needs no network and no script."""

from datetime import datetime, timedelta

from jinja2 import Environment, PackageLoader, StrictUndefined

from card_worker.cli.report import plots, tables
from card_worker.cli.report.figures import in_order
from card_worker.cli.report.reading import Figures, Scope
from card_worker.money import Currency, in_words

_ENVIRONMENT = Environment(
    autoescape=True,
    loader=PackageLoader("card_worker.cli.report", "."),
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)


def write_page(scope: Scope, now: datetime, found: Figures) -> bytes:
    """Return the page, in UTF-8."""
    moved = dict.fromkeys(currency for currency, _ in found.books)
    books = in_order({*found.books, *found.expiries.amounts})
    owed = dict.fromkeys(currency for currency, _ in books)
    page = _ENVIRONMENT.get_template("page.html").render(
        account=scope.account_id or "all accounts",
        first=scope.first,
        last=scope.last - timedelta(days=1),
        zone=scope.zone_name,
        now=f"{now.astimezone(scope.zone):%Y-%m-%d %H:%M:%S}",
        differences=[each.text for each in found.differences],
        tiles=[_tiles(currency, found) for currency in owed],
        roll_forwards=[tables.roll_forward_table(*each) for each in found.books.items()],
        liabilities=[plots.draw_liability(each, found.books) for each in moved],
        movements=[plots.draw_movements(each, found.books) for each in moved],
        ages=tables.age_table(found.held),
        expiries=found.expiries.table(),
        expiry_plots=[plots.draw_expiries(each, found.expiries) for each in owed],
        statuses=tables.status_table(found.held),
        orders=tables.order_table(found.ordered),
        redemptions=[
            (table, plots.draw_redemption(book, found.cohorts))
            for book in found.books
            if (table := tables.redemption_table(book, found.cohorts)).rows
        ],
    )
    return page.encode()


def _tiles(currency: Currency, found: Figures) -> list[tuple[str, str]]:
    """Return the most important figures of a currency: each a heading and an amount."""
    totals = [book.total for (of, _), book in found.books.items() if of == currency]
    held = [each for each in found.held if each.currency is currency]
    amounts = {
        "liability at the end": sum(each.closing for each in totals),
        "sold": sum(each.moved["sold"] for each in totals),
        "drawn down": -sum(each.moved["drawn_down"] for each in totals),
        "on hold now": sum(each.reserved for each in held),
    }
    return [(heading, in_words(amount, currency)) for heading, amount in amounts.items()]
