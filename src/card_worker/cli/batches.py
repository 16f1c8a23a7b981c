"""`card-worker batch`: order a batch of cards, watch it, and handle its files."""

from pathlib import Path
from time import sleep
from typing import Annotated, Any
from uuid import uuid4

from pydantic import ValidationError
from rich import progress
from sqlalchemy import Engine
from typer import Argument, Exit, Option, Typer

from card_worker.cli import opening
from card_worker.cli.connections import database, open_client
from card_worker.cli.console import (
    AsJson,
    explanation,
    out,
    plural,
    print_json,
    print_views,
    progress_bar,
    refuse,
    table,
    visible,
)
from card_worker.cli.filters import AccountId
from card_worker.contracts.batches import CARDS_PER_ORDER_MAX, CreateBatch
from card_worker.contracts.enums import BatchState, CardType
from card_worker.contracts.message import problems_of
from card_worker.domain.rows import Batch
from card_worker.domain.views import batch_view, file_view
from card_worker.files import NotConfirmed
from card_worker.files import confirm as confirm_files
from card_worker.storage.batches import find_batch
from card_worker.storage.engine import begin
from card_worker.storage.files import find_files, request_rewrite

app = Typer(no_args_is_help=True)

ANSWER_TIMEOUT_S = 30.0
POLL_S = 0.25

BatchId = Annotated[str, Argument(help="The batch_id.")]
FilePath = Annotated[
    Path, Argument(help="The encrypted file of the batch.", exists=True, dir_okay=False)
]


@app.command()
def create(
    account: AccountId,
    *,
    count: Annotated[
        int, Option(min=1, max=CARDS_PER_ORDER_MAX, help="Number of cards, counted from 1.")
    ],
    pattern: Annotated[str, Option(help="Pattern of card_ids: JUL26-{n:08d} or GC{n:010d}{luhn}.")],
    batch_id: Annotated[
        str | None, Option(help="The batch_id. Default: the command_id of the order.")
    ] = None,
    name: Annotated[str | None, Option(help="A name of the batch, for people.")] = None,
    kind: Annotated[CardType, Option("--type", help="The type of the cards.")] = CardType.GIFT_CARD,
    tokens: Annotated[bool, Option("--tokens", help="Make a token for each card.")] = False,
    pins: Annotated[bool, Option("--pins", help="Make a PIN for each card.")] = False,
    seal_to: Annotated[
        list[str] | None,
        Option(help="Age recipient of the file, age1…; repeat the option for several."),
    ] = None,
    seal_pins_to: Annotated[
        list[str] | None,
        Option(help="Age recipient of the PINs, which then are in a file of their own."),
    ] = None,
    created_by: Annotated[str | None, Option(help="The person who orders.")] = None,
    needs_approval: Annotated[
        bool, Option("--needs-approval", help="Wait until another person approves the order.")
    ] = False,
    command_id: Annotated[
        str | None, Option(help="The order's idempotency key. Default: a new one.")
    ] = None,
    watch_it: Annotated[
        bool, Option("--watch", help="Show the progress until the batch is complete.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Order cards whose card_ids follow a pattern. Exit 1 when the order is refused.

    For tokens and PINs of another format, and for lists of cards: card-worker send.
    """
    options = [*(["card_token"] if tokens else []), *(["pin"] if pins else [])]
    fields: dict[str, Any] = {
        "account_id": account,
        "command_id": command_id or str(uuid4()),
        "count": count,
        "card_id_pattern": pattern,
        "batch_id": batch_id,
        "name": name,
        "type": kind.value,
        "options": {option: {} for option in options} or None,
        "seal_to": seal_to or None,
        "seal_pins_to": seal_pins_to or None,
        "created_by": created_by,
        "needs_approval": needs_approval,
    }
    try:
        order = CreateBatch.model_validate(fields)
    except ValidationError as error:
        problems = "; ".join(f"{each.field}: {each.message}" for each in problems_of(error))
        raise refuse(problems, code=2) from None
    answer = _send(order)
    is_refused, data = answer["type"] == "command.rejected", answer["data"]
    if as_json:
        print_json(answer)
    elif is_refused:
        raise refuse(f"{data['reason']}: {explanation(data)}")
    else:
        out.print(f"{answer['type']}: {order.called}")
    if is_refused:
        raise Exit(1)
    if watch_it:
        watch(order.called, account, as_json=as_json)


def _send(order: CreateBatch) -> dict[str, Any]:
    """Send an order and return its answer."""
    with open_client() as client:
        after = client.newest()
        client.send(order)
        answers = client.answers(
            [order.command_id],
            account_id=order.account_id,
            after=after,
            timeout_s=ANSWER_TIMEOUT_S,
        )
    if order.command_id not in answers:
        raise refuse(
            f"no answer within {ANSWER_TIMEOUT_S:g} s. The order was sent. See"
            f" card-worker batch show {order.called} --account {order.account_id}"
        )
    return answers[order.command_id]


@app.command()
def watch(batch_id: BatchId, account: AccountId, as_json: AsJson = False) -> None:
    """Show the progress of an order. Exit 0 when it is complete, 1 when it is cancelled."""
    columns = (
        progress.TaskProgressColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}", markup=False),
        progress.TimeRemainingColumn(),
    )
    with database() as engine:
        batch = _find(engine, account, batch_id)
        with progress_bar(*columns) as bar:
            task = bar.add_task(
                visible(batch_id), total=batch.requested, completed=batch.created, rate=""
            )
            while batch.state in (BatchState.AWAITING_APPROVAL, BatchState.RUNNING):
                rate = visible(batch.last_error or _rate(batch, bar.tasks[0].speed))
                bar.update(task, completed=batch.created, rate=rate)
                sleep(POLL_S)
                batch = _find(engine, account, batch_id)
            bar.update(task, completed=batch.created, rate=batch.state.value)
        if as_json:
            print_json(_view(engine, batch))
        else:
            out.print(f"{batch_id}: {batch.state.value}, {plural(batch.created, 'card')}")
    if batch.state is BatchState.CANCELLED:
        raise Exit(1)


def _rate(batch: Batch, speed: float | None) -> str:
    if batch.state is BatchState.AWAITING_APPROVAL:
        return "waits for approval"
    return f"{speed:,.0f} cards/s" if speed else ""


def _find(engine: Engine, account: str, batch_id: str) -> Batch:
    with begin(engine) as (connection, _):
        batch = find_batch(connection, account, batch_id)
    if batch is None:
        raise refuse(f"{account} has no batch {batch_id}")
    return batch


@app.command()
def show(batch_id: BatchId, account: AccountId, as_json: AsJson = False) -> None:
    """Show a batch and its files."""
    with database() as engine:
        view = _view(engine, _find(engine, account, batch_id))
    rows = [(name, value) for name, value in view.items() if name != "files"]
    rows += [(f"file {name}", file[name]) for file in view["files"] for name in file]
    print_views([view], table(f"Batch {batch_id}", "", "", rows=rows), as_json=as_json)


def _view(engine: Engine, batch: Batch) -> dict[str, Any]:
    with begin(engine) as (connection, _):
        files = find_files(connection, *batch.key)
    shown = ("kind", "written_at", "confirmed_at", "last_error")
    views = [{**file_view(file), **{name: getattr(file, name) for name in shown}} for file in files]
    return {**batch_view(batch), "files": views}


@app.command(name="open")
def open_file(
    file: FilePath,
    *,
    identity: opening.Identity,
    output: opening.Output = None,
    images: opening.Images = None,
    sheet: opening.Sheet = None,
    symbol: opening.Symbol = None,
) -> None:
    """Open the file of a batch: its lines as CSV, or its tokens as barcodes. Needs no server."""
    if images is None and sheet is None:
        opening.copy_opened(file, identity, output)
        return
    lines = opening.open_bureau_file(file, identity)
    opening.show_secrets(lines, output=output, images=images, sheet=sheet, symbol=symbol)


@app.command()
def write(batch_id: BatchId, account: AccountId) -> None:
    """Write the files of a batch again, byte for byte. The next sweep of a worker does it."""
    with database() as engine, begin(engine) as (connection, _):
        files = find_files(connection, account, batch_id)
        if not files:
            raise refuse(f"there is no file of a batch {batch_id}")
        unconfirmed = [file for file in files if file.confirmed_at is None]
        for file in unconfirmed:
            request_rewrite(connection, file)
    if len(unconfirmed) < len(files):
        # The file of a recall holds no secrets, and is never confirmed.
        other = "; that of the cards refused will be written again" if unconfirmed else ""
        raise refuse(f"the file of {batch_id} was confirmed; its secrets are deleted{other}")
    out.print(f"The files of {batch_id} will be written again.")


@app.command()
def confirm(
    batch_id: BatchId,
    account: AccountId,
    by: Annotated[str | None, Option(help="The person who confirms, named in the event.")] = None,
) -> None:
    """Confirm that the files have arrived. Their secrets are deleted in the database for good."""
    with database() as engine:
        try:
            confirm_files(engine, account, batch_id, by)
        except NotConfirmed as error:
            raise refuse(str(error)) from None
    out.print(
        f"The files of {batch_id} are confirmed; the encrypted copy in the database is deleted."
    )
