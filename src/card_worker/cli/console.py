"""How the command line shows things: tables for people, JSON for programs.

What senders have written is shown as text, whatever it looks like to a terminal.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection, Engine

from card_worker.contracts.json_text import write_json, write_time
from card_worker.contracts.text import NOT_IN_TEXT
from card_worker.money import Currency, in_words
from card_worker.settings import load_settings
from card_worker.storage.engine import REPLY_MAX_S, open_engine, reading

_STEERING = re.compile(rf"(?![\t\n])[{NOT_IN_TEXT}\ud800-\udfff]")
"""What a terminal obeys, or what isn't Unicode; of the former, not the tab and the new line."""
# JSON leaves these in its texts, and those below it has escaped already.
_STEERING_IN_JSON = {
    code: f"\\u{code:04x}" for code in range(0x7F, 0xD800) if _STEERING.match(chr(code))
}


def visible(text: str) -> str:
    """Return `text` with what a terminal would obey written out."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class _Plain(Console):
    """A console to which every text is what it says: without markup, emoji and control codes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return what is shown of a text; that of tables comes by here, too."""
        return super().render_str(visible(text), **options)


out = _Plain()
err = _Plain(stderr=True, soft_wrap=True)

TIMEOUT_S_MAX = 10 * 24 * 3600.0
"""The longest that somebody may want to wait."""
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def print_json(value: Any) -> None:
    """Print one line of JSON, never wrapped or coloured; times as events have them."""
    typer.echo(write_json(value).translate(_STEERING_IN_JSON))


def table(title: str, *columns: str, rows: Iterable[Sequence[object]]) -> Table:
    """Return a table; a column whose name ends with `>` is set to the right."""
    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        show_header=any(columns),
    )
    for column in columns:
        made.add_column(
            column.removesuffix(">"),
            justify="right" if column.endswith(">") else "left",
            # An id that is cut can't be copied.
            overflow="fold",
        )
    for row in rows:
        made.add_row(*map(_cell, row))
    return made


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return write_time(value)
    return "-" if value is None else str(value)


def money(amount_minor: int, currency: str | None) -> str:
    """Return an amount as an event gives it, in words."""
    return in_words(amount_minor, Currency(currency) if currency else None)


def plural(count: int, noun: str) -> str:
    """Return a count with its noun, such as `1 card` or `2,000 cards`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def refuse(why: str, *, code: int = 1) -> typer.Exit:
    """Print why not; return what to raise."""
    err.print(f"card-worker: {why}")
    return typer.Exit(code)


@contextmanager
def database(*, reply_max_s: float | None = None) -> Iterator[Engine]:
    """Give the database that the settings name. A reply may take REPLY_MAX_S or `reply_max_s`."""
    engine = open_engine(load_settings().database(), reply_max_s=reply_max_s or REPLY_MAX_S)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def looking() -> Iterator[Connection]:
    """Give a connection to look at the database with."""
    with database() as engine, reading(engine) as connection:
        yield connection
