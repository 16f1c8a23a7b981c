"""How the command line shows things: tables for people, JSON for programs."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection, Engine

from card_worker.money import Currency, in_words
from card_worker.settings import load_settings
from card_worker.storage.engine import open_engine, reading

out = Console(highlight=False)
err = Console(stderr=True, highlight=False, soft_wrap=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def print_json(value: Any) -> None:
    """Print one line of JSON, never wrapped or coloured."""
    typer.echo(json.dumps(value, default=str, ensure_ascii=False))


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
        made.add_row(*("-" if cell is None else str(cell) for cell in row))
    return made


def money(amount_minor: int, currency: str | None) -> str:
    """Return an amount as an event gives it, in words."""
    return in_words(amount_minor, Currency(currency) if currency else None)


def refuse(why: str, *, code: int = 1) -> typer.Exit:
    """Print why not; return what to raise."""
    err.print(f"card-worker: {why}", markup=False)
    return typer.Exit(code)


@contextmanager
def database() -> Iterator[Engine]:
    """Give the database that the settings name."""
    engine = open_engine(load_settings().database())
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def looking() -> Iterator[Connection]:
    """Give a connection to look at the database with."""
    with database() as engine, reading(engine) as connection:
        yield connection
