"""Output of the command line: tables for people, JSON for programs.

Texts of producers are shown literally, so that a terminal interprets nothing in them.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from card_worker.contracts.json_text import write_json, write_time
from card_worker.contracts.text import NOT_IN_TEXT
from card_worker.money import Currency, in_words

_UNSAFE = re.compile(rf"(?![\t\n])[{NOT_IN_TEXT}\ud800-\udfff]")
"""Characters that a terminal interprets, except tab and newline, and halves of surrogate pairs."""
# JSON itself escapes the control characters below these.
UNSAFE_IN_JSON = {
    code: f"\\u{code:04x}" for code in range(0x7F, 0xD800) if _UNSAFE.match(chr(code))
}

TIMEOUT_S_MAX = 10 * 24 * 3600.0
"""The largest value of an option --timeout."""
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def visible(text: str) -> str:
    """Return `text` with unsafe characters escaped."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


class _Literal(Console):
    """A console that shows every text literally: without markup, emoji and control codes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Render a text, also that of a cell of a table."""
        return super().render_str(visible(text), **options)


out = _Literal()
err = _Literal(stderr=True, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print one line of JSON without colours, never wrapped; times are written as in events."""
    typer.echo(write_json(value).translate(UNSAFE_IN_JSON))


def table(title: str, *columns: str, rows: Iterable[Sequence[object]]) -> Table:
    """Return a table; a column whose name ends with `>` is aligned to the right."""
    result = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        show_header=any(columns),
    )
    for column in columns:
        justify: Any = "right" if column.endswith(">") else "left"
        # Folded, because an id that is cut can't be copied.
        result.add_column(column.removesuffix(">"), justify=justify, overflow="fold")
    for row in rows:
        result.add_row(*map(_cell, row))
    return result


def print_views(views: Iterable[dict[str, Any]], as_table: Table, *, as_json: bool) -> None:
    """Print each view as a line of JSON, or all of them as a table."""
    if as_json:
        for view in views:
            print_json(view)
    else:
        out.print(as_table)


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return write_time(value)
    if isinstance(value, tuple):
        return "\n".join(value)
    return "-" if value is None else str(value)


def progress_bar(*columns: ProgressColumn, **options: Any) -> Progress:
    """Return a progress bar on stderr, with a description before it and `columns` behind it."""
    description = TextColumn("{task.description}", markup=False)
    return Progress(description, BarColumn(), *columns, console=err, **options)


def money(amount_minor: int, currency: str | None) -> str:
    """Return an amount of an event with its currency, such as `500.00 NOK`."""
    return in_words(amount_minor, Currency(currency) if currency else None)


def first_line(error: Exception) -> str:
    """Return the first line of an error of a server, or its type if it has no text."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def plural(count: int, noun: str) -> str:
    """Return a count with its noun, such as `1 card` or `2,000 cards`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def explanation(data: dict[str, Any]) -> str:
    """Return the problems of a refusal, each as `field: message`; its message if it has none."""
    problems = [f"{each['field']}: {each['message']}" for each in data.get("problems", ())]
    return "; ".join(problems) or str(data["message"])


def refuse(text: str, *, code: int = 1) -> typer.Exit:
    """Print an error; return the exception to raise, which ends the command with `code`."""
    err.print(f"card-worker: {text}")
    return typer.Exit(code)
