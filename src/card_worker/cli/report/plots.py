"""The plots of the report, as SVG without scripts. Colours are variables of the page's style."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

import pygal
from markupsafe import Markup
from pygal.style import Style

from card_worker.cli.report.figures import COLUMNS, Book, Cohort, RollForward, words
from card_worker.cli.report.periods import month_label
from card_worker.cli.report.tables import COHORTS_MAX, Expiries, newest_cohorts
from card_worker.contracts.enums import CardType
from card_worker.money import Currency

MONTHS_IN_HALF = 13
"""The largest number of labels of a plot beside which another has its place."""

LABEL_CHARS_MAX = 45
"""The largest length of all labels of a plot together before they are turned."""


class Plot(NamedTuple):
    """A plot, and its legend: names with their colours."""

    svg: Markup
    legend: list[tuple[str, str]]


def _style(colours: Sequence[str]) -> Style:
    return Style(
        background="transparent",
        plot_background="transparent",
        foreground="var(--muted)",
        foreground_strong="var(--ink)",
        foreground_subtle="var(--line)",
        opacity="1",
        opacity_hover=".7",
        font_family="inherit",
        label_font_size=13,
        major_label_font_size=13,
        legend_font_size=13,
        title_font_size=15,
        colors=colours,
        # Otherwise the library computes them from the colours, which it can't read.
        value_colors=["var(--ink)"] * len(colours),
    )


_DISTINCT = _style([f"var(--c{number})" for number in range(len(COLUMNS))])
_FROM_OLD_TO_NEW = _style(
    [
        f"color-mix(in oklch, var(--c0) {100 * number // (COHORTS_MAX - 1)}%, var(--c1))"
        for number in range(COHORTS_MAX)
    ]
)


def draw_liability(currency: Currency, books: Mapping[Book, RollForward]) -> Plot:
    """Return what cards had at the end of each period, as bars."""
    series = {
        card_type: [row.closing for row in books[currency, card_type].rows]
        for card_type in CardType
        if (currency, card_type) in books
    }
    return _bars(f"Liability at the end, {currency}", _labels(books), _by_type(series))


def draw_movements(currency: Currency, books: Mapping[Book, RollForward]) -> Plot:
    """Return what moved in each period: upwards what was put onto cards, downwards what left."""
    forwards = [forward.rows for (of, _), forward in books.items() if of == currency]
    series = {
        heading: [sum(row.moved[column] for row in rows) for rows in zip(*forwards, strict=True)]
        for column, heading in COLUMNS.items()
    }
    return _bars(f"In and out, {currency}", _labels(books), series)


def draw_expiries(currency: Currency, expiries: Expiries) -> Plot:
    """Return the liability by month of expiry, as bars."""
    of_currency = {book[1]: of for book, of in expiries.amounts.items() if book[0] == currency}
    series = _by_type(of_currency)
    return _bars(f"Liability by month of expiry, {currency}", expiries.labels, series)


def _by_type(amounts: Mapping[CardType, Sequence[int]]) -> dict[str, Sequence[int]]:
    """Return a series for each type, also if there is nothing, so that it keeps its colour."""
    return {f"{words(card_type)}s": amounts.get(card_type, ()) for card_type in CardType}


def draw_redemption(book: Book, found: Sequence[Cohort]) -> Plot:
    """Return the share that was spent of the newest cohorts of a book, by age, as lines."""
    shown = newest_cohorts(book, found)
    longest = max((len(cohort.ages) for cohort in shown), default=0)
    title, labels = f"Share spent, {words(book[1])}s, {book[0]}", [*map(str, range(longest))]
    chart = pygal.Line(
        **_options(title, labels, is_half=False),
        style=_FROM_OLD_TO_NEW,
        formatter=_percent,
        value_formatter=_percent,
        show_dots=False,
        x_title="months after activation",
        range=(0, max([1.0, *(each.share or 0 for cohort in shown for each in cohort.ages)])),
    )
    for cohort in shown:
        chart.add(month_label(cohort.month), [each.share for each in cohort.ages])
    return _plot(chart)


def _labels(books: Mapping[Book, RollForward]) -> list[str]:
    (first, *_) = books.values()
    return [row.label[:7] for row in first.rows]


def _bars(title: str, labels: Sequence[str], series: Mapping[str, Sequence[int]]) -> Plot:
    chart = pygal.StackedBar(
        **_options(title, labels, is_half=len(labels) <= MONTHS_IN_HALF),
        style=_DISTINCT,
        formatter=_units,
        value_formatter=_units,
    )
    for heading, amounts in series.items():
        chart.add(heading, [amount / 100 for amount in amounts])
    return _plot(chart)


def _units(value: float) -> str:
    return f"{value:,.0f}"


def _percent(share: float) -> str:
    return f"{share:.0%}"


def _options(title: str, labels: Sequence[str], *, is_half: bool) -> dict[str, Any]:
    return {
        "js": (),
        "disable_xml_declaration": True,
        "width": 640 if is_half else 960,
        "height": 300,
        "margin": 8,
        "show_legend": False,
        "truncate_label": -1,
        "x_label_rotation": 35 if len("".join(labels)) > LABEL_CHARS_MAX else 0,
        "x_labels": labels,
        "title": title,
    }


def _plot(chart: Any) -> Plot:
    chart.uuid = "".join(c if c.isalnum() else "-" for c in chart.config.title.lower())
    chart.add_xml_filter(_without_scripts)
    # Written by the library, which escapes the texts.
    svg = Markup(chart.render(is_unicode=True))  # noqa: S704
    series = zip(chart.raw_series, chart.config.style.colors, strict=False)
    return Plot(svg, [(str(of["title"]), colour) for (values, of), colour in series if any(values)])


def _without_scripts(root: Element) -> Element:
    for parent in root.iter():
        for child in parent.findall("script"):
            parent.remove(child)
    return root
