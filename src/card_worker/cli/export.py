"""`card-worker export`: write the cards, transactions or events of an account."""

import csv
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from enum import StrEnum
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, BinaryIO
from uuid import UUID

from rich.progress import MofNCompleteColumn, TimeElapsedColumn
from sqlalchemy import Connection, Select
from typer import Option, Typer

from card_worker.cli.connections import database
from card_worker.cli.console import UNSAFE_IN_JSON, err, out, plural, progress_bar, refuse, visible
from card_worker.cli.files import new_file
from card_worker.cli.filters import (
    AccountId,
    AvailableMax,
    AvailableMin,
    CreatedBefore,
    CreatedFrom,
    ExpiresBefore,
    OfBatch,
    OfCustomer,
    OfStatus,
    OfType,
    card_filter,
)
from card_worker.cli.streams import reader_is_gone
from card_worker.cli.times import read_time_option
from card_worker.contracts.enums import EventType, TransactionType
from card_worker.contracts.events import is_pruned
from card_worker.contracts.json_text import write_json, write_time
from card_worker.contracts.views import CardView, TransactionView
from card_worker.domain.rows import Card, Transaction
from card_worker.domain.views import card_view, transaction_view
from card_worker.secrets.formats import FORMULA_SIGNS
from card_worker.storage import exports, queries
from card_worker.storage.engine import begin, snapshot
from card_worker.storage.exports import NoSuchRow, RowFilter, StoredEvent

app = Typer(no_args_is_help=True)

REPLY_MAX_S = 3600.0
"""Time limit of a statement: the database may have to sort all rows before the first."""
CODES = ("tokens", "pin")
"""Fields of a card that need more rights than those of a reader; `card show` has them."""
CARD_NAMES = [name for name in CardView.__annotations__ if name not in CODES]
TRANSACTION_NAMES = [*TransactionView.__annotations__]
_FORMULA = re.compile(rf"(^|;)(?=[\t\r\n{re.escape(FORMULA_SIGNS)}])")


class Format(StrEnum):
    """The format of an export."""

    CSV = "csv"
    JSONL = "jsonl"


AsFormat = Annotated[Format, Option("--format", help="CSV, or a JSON object on each line.")]
Output = Annotated[
    Path | None, Option("--output", "-o", help="Write to this new file instead of stdout.")
]
Limit = Annotated[int | None, Option(min=1, max=10**12, help="Largest number of rows.")]
CardId = Annotated[str | None, Option("--card", help="Only of the card with this card_id.")]
Row = dict[str, Any]


@app.command()
def cards(
    account: AccountId,
    *,
    status: OfStatus = None,
    card_type: OfType = None,
    customer: OfCustomer = None,
    batch: OfBatch = None,
    available_min: AvailableMin = None,
    available_max: AvailableMax = None,
    created_from: CreatedFrom = None,
    created_before: CreatedBefore = None,
    expires_before: ExpiresBefore = None,
    after: Annotated[str | None, Option(help="Start after this card_id.")] = None,
    limit: Limit = None,
    format_: AsFormat = Format.CSV,
    output: Output = None,
) -> None:
    """Write cards as they are now, ordered by card_id, without tokens and PINs."""
    filter_ = card_filter(
        status=status,
        type=card_type,
        customer_id=customer,
        batch_id=batch,
        available_min=available_min,
        available_max=available_max,
        created_from=created_from,
        created_before=created_before,
        expires_before=expires_before,
    )

    def select_rows(connection: Connection, now: datetime) -> Select[Any]:
        return queries.select_cards(account, filter_, now, after=after)

    def view(row: Sequence[Any], now: datetime) -> Row:
        of_card: Row = {**card_view(Card._make(row), now, (), None)}
        return {name: of_card[name] for name in CARD_NAMES}

    _export(select_rows, CARD_NAMES, view, format_=format_, output=output, limit=limit)


@app.command()
def transactions(
    account: AccountId,
    *,
    card: CardId = None,
    type_: Annotated[
        TransactionType | None, Option("--type", help="Only transactions of this type.")
    ] = None,
    created_from: CreatedFrom = None,
    created_before: CreatedBefore = None,
    after: Annotated[UUID | None, Option(help="Start after the transaction with this id.")] = None,
    limit: Limit = None,
    format_: AsFormat = Format.CSV,
    output: Output = None,
) -> None:
    """Write transactions in the order of time."""
    filter_ = _row_filter(account, card, type_, created_from, created_before)

    def select_rows(connection: Connection, _now: datetime) -> Select[Any]:
        return exports.select_transactions(connection, filter_, after)

    def view(row: Sequence[Any], _now: datetime) -> Row:
        return {**transaction_view(Transaction._make(row[1:]), row[0])}

    _export(select_rows, TRANSACTION_NAMES, view, format_=format_, output=output, limit=limit)


@app.command()
def events(
    account: AccountId,
    *,
    card: CardId = None,
    type_: Annotated[EventType | None, Option("--type", help="Only events of this type.")] = None,
    created_from: CreatedFrom = None,
    created_before: CreatedBefore = None,
    after: Annotated[UUID | None, Option(help="Start after the event with this id.")] = None,
    limit: Limit = None,
    format_: AsFormat = Format.CSV,
    output: Output = None,
) -> None:
    """Write events in the order of the outbox, published or not. JSON lines are as published.

    One whose content is no longer stored has `event` empty.
    """
    filter_ = _row_filter(account, card, type_, created_from, created_before)

    def select_rows(connection: Connection, _now: datetime) -> Select[Any]:
        return exports.select_events(connection, filter_, after)

    def view(row: Sequence[Any], _now: datetime) -> Row:
        of_event = StoredEvent._make(row)._asdict()
        return {**of_event, "event": None if is_pruned(of_event["event"]) else of_event["event"]}

    _export(select_rows, StoredEvent._fields, view, format_=format_, output=output, limit=limit)


def _row_filter(
    account: str,
    card: str | None,
    type_: TransactionType | EventType | None,
    created_from: str | None,
    created_before: str | None,
) -> RowFilter:
    return RowFilter(
        account_id=account,
        card_id=card,
        type=type_,
        created_from=read_time_option("--created-from", created_from),
        created_before=read_time_option("--created-before", created_before),
    )


def _export(
    select_rows: Callable[[Connection, datetime], Select[Any]],
    names: Sequence[str],
    view: Callable[[Sequence[Any], datetime], Row],
    *,
    format_: Format,
    output: Path | None,
    limit: int | None,
) -> None:
    """Write the view of each row, which has these `names`; a progress bar shows how far it is."""
    columns = (MofNCompleteColumn(), TimeElapsedColumn())
    is_shown = err.is_terminal and not (output is None and out.is_terminal)
    with ExitStack() as opened:
        engine = opened.enter_context(database(reply_max_s=REPLY_MAX_S))
        # In a commit of its own, because its planner is told to use indexes only.
        with begin(engine, writing=False) as (_, now):
            pass
        connection = opened.enter_context(snapshot(engine))
        try:
            statement = select_rows(connection, now).limit(limit)
        except NoSuchRow:
            raise refuse("--after: the account has no row with this id") from None
        with (
            _destination(output) as file,
            progress_bar(*columns, transient=True, disable=not is_shown) as bar,
        ):
            total = exports.count_rows(connection, statement) if is_shown else None
            task = bar.add_task("rows", total=total)
            count = 0
            if format_ is Format.CSV:
                file.write(_write_csv([names]))
            for rows in exports.read_slices(connection, statement):
                views = [view(row, now) for row in rows]
                if format_ is Format.CSV:
                    file.write(_write_csv([each[name] for name in names] for each in views))
                else:
                    file.write(_write_json(views))
                count += len(rows)
                bar.update(task, completed=count)
                if output is None and reader_is_gone():
                    break
    if output is not None:
        err.print(f"{plural(count, 'row')} in {output}")


@contextmanager
def _destination(output: Path | None) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    else:
        with new_file(output) as opened:
            yield opened


def _write_json(rows: Sequence[Row]) -> bytes:
    lines = (row.get("event") or write_json(row) for row in rows)
    return "".join(f"{line}\n" for line in lines).translate(UNSAFE_IN_JSON).encode()


def _write_csv(rows: Iterable[Sequence[Any]]) -> bytes:
    text = StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(map(_cell, row) for row in rows)
    return visible(text.getvalue()).encode()


def _cell(value: Any) -> Any:
    match value:
        case None:
            return ""
        case str():
            # Most texts have none of these, and a search in each would take long.
            is_safe = value[:1].isalnum() and ";" not in value
            return value if is_safe else _FORMULA.sub(r"\1'", value)
        case datetime():
            return write_time(value)
        case dict():
            return _cell(write_json(value))
    return value
