"""`card-worker batch`: order a batch, watch it being made, open its file, let its secrets go."""

import json
from pathlib import Path
from time import sleep
from typing import Annotated, Any
from uuid import uuid4

import typer
from pydantic import ValidationError
from sqlalchemy import Engine

from card_worker.cli.cards import AccountId
from card_worker.cli.codes import (
    Identity,
    Images,
    Output,
    Sheet,
    Symbol,
    read_opened,
    show_secrets,
    write_opened,
)
from card_worker.cli.console import (
    AsJson,
    database,
    err,
    looking,
    out,
    print_json,
    refuse,
    table,
    visible,
)
from card_worker.contracts.batches import CARDS_PER_ORDER_MAX, CreateBatch
from card_worker.contracts.enums import BatchState, CardType
from card_worker.contracts.message import problems_of
from card_worker.domain.rows import Batch, File
from card_worker.domain.views import batch_view, file_view
from card_worker.files import NotConfirmed
from card_worker.files import confirm as confirm_files
from card_worker.settings import load_settings
from card_worker.storage.batches import find_batch
from card_worker.storage.engine import begin
from card_worker.storage.files import find_files, request_rewrite
from card_worker.storage.idempotency import find_answer

app = typer.Typer(
    help="Order a batch of cards, watch it, and see to its files.", no_args_is_help=True
)

ANSWER_S = 30.0
LOOK_S = 0.25

BatchId = Annotated[str, typer.Argument(help="What its order called it.")]
FilePath = Annotated[
    Path, typer.Argument(help="The file as it lies where it was put.", exists=True, dir_okay=False)
]


@app.command()
def create(
    account: AccountId,
    *,
    count: Annotated[
        int, typer.Option(min=1, max=CARDS_PER_ORDER_MAX, help="How many cards, numbered from 1.")
    ],
    pattern: Annotated[
        str, typer.Option(help="How they are called: JUL26-{n:08d}, GC{n:010d}{luhn}.")
    ],
    batch_id: Annotated[
        str | None, typer.Option(help="What to call it. Without: the order's command_id.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    kind: Annotated[
        CardType, typer.Option("--type", help="What the cards are.")
    ] = CardType.GIFT_CARD,
    tokens: Annotated[bool, typer.Option("--tokens", help="Make each with a token.")] = False,
    pins: Annotated[bool, typer.Option("--pins", help="Make each with a PIN.")] = False,
    seal_to: Annotated[
        list[str] | None,
        typer.Option(help="Who can open its file, age1…; several times for several."),
    ] = None,
    seal_pins_to: Annotated[
        list[str] | None,
        typer.Option(help="Who can open the PINs, which then have a file of their own."),
    ] = None,
    created_by: Annotated[str | None, typer.Option(help="Who orders.")] = None,
    needs_approval: Annotated[
        bool, typer.Option("--needs-approval", help="Wait until somebody else approves.")
    ] = False,
    command_id: Annotated[
        str | None, typer.Option(help="The order's idempotency key. Without: a new one.")
    ] = None,
    watch_it: Annotated[bool, typer.Option("--watch", help="Watch it being made.")] = False,
    as_json: AsJson = False,
) -> None:
    """Order cards whose names follow a pattern. Exit 1 when the order is refused.

    For tokens and PINs of another format, and for lists of cards: card-worker send.
    """
    wanted = (("card_token", tokens), ("pin", pins))
    options: dict[str, Any] = {name: {} for name, is_wanted in wanted if is_wanted}
    asked: dict[str, Any] = {
        "account_id": account,
        "command_id": command_id or str(uuid4()),
        "count": count,
        "card_id_pattern": pattern,
        "batch_id": batch_id,
        "name": name,
        "type": kind.value,
        "options": options or None,
        "seal_to": seal_to or None,
        "seal_pins_to": seal_pins_to or None,
        "created_by": created_by,
        "needs_approval": needs_approval,
    }
    try:
        order = CreateBatch.model_validate(asked)
    except ValidationError as error:
        problems = "; ".join(f"{one.field}: {one.message}" for one in problems_of(error))
        raise refuse(problems, code=2) from None
    answer = _answer(order, is_new=command_id is None)
    if as_json:
        print_json(answer)
    elif answer["type"] == "command.rejected":
        data = answer["data"]
        said = [f"{one['field']}: {one['message']}" for one in data.get("problems", ())]
        raise refuse("\n".join([f"{data['reason']}: {data['message']}", *said]))
    else:
        out.print(f"{answer['type']}: {order.called}")
    if answer["type"] == "command.rejected":
        raise typer.Exit(1)
    if watch_it:
        with database() as engine:
            _watch(engine, account, order.called, as_json=as_json)


def _answer(order: CreateBatch, *, is_new: bool) -> dict[str, Any]:
    """Send an order, unless the database knows what it was answered before; return its answer."""
    from card_worker.client import Client

    settings = load_settings()
    with Client(
        settings.broker(), events_url=settings.events_url, stream=settings.event_stream
    ) as client:
        after = client.newest()
        # An order that is sent again isn't answered again.
        if not is_new and settings.database_url is not None:
            known = _answer_before(order)
            if known is not None:
                return known
        client.send(order)
        answers = client.answers([order.command_id], after=after, timeout_s=ANSWER_S)
    if order.command_id not in answers:
        raise refuse(
            f"no answer within {ANSWER_S:g} s; the order is sent, and one that was answered before"
            " isn't answered again. Look at it with"
            f" card-worker batch show {order.called} --account {order.account_id}"
        )
    return answers[order.command_id]


def _answer_before(order: CreateBatch) -> dict[str, Any] | None:
    with looking() as connection:
        answer = find_answer(connection, order)
    return None if answer is None else dict(json.loads(answer.event))


@app.command()
def watch(batch_id: BatchId, account: AccountId, as_json: AsJson = False) -> None:
    """Watch an order being made. Exit 0 when it is complete, 1 when it is cancelled."""
    with database() as engine:
        _watch(engine, account, batch_id, as_json=as_json)


def _watch(engine: Engine, account: str, batch_id: str, *, as_json: bool) -> None:
    """Show how far a batch is until it has ended; print what it is then."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
    )
    batch = _found(engine, account, batch_id)
    with Progress(*columns, console=err) as bar:
        shown = bar.add_task(
            visible(batch_id), total=batch.requested, completed=batch.created, rate=""
        )
        while batch.state in (BatchState.AWAITING_APPROVAL, BatchState.RUNNING):
            speed = bar.tasks[0].speed
            rate = "waits for approval" if batch.state is BatchState.AWAITING_APPROVAL else ""
            rate = f"{speed:,.0f} cards/s" if speed and not rate else rate
            bar.update(shown, completed=batch.created, rate=visible(batch.last_error or rate))
            sleep(LOOK_S)
            batch = _found(engine, account, batch_id)
        bar.update(shown, completed=batch.created, rate=batch.state.value)
    if as_json:
        print_json(_told(engine, batch))
    else:
        out.print(f"{batch_id}: {batch.state.value}, {batch.created:,} cards")
    if batch.state is BatchState.CANCELLED:
        raise typer.Exit(1)


def _found(engine: Engine, account: str, batch_id: str) -> Batch:
    with begin(engine) as (connection, _):
        batch = find_batch(connection, account, batch_id)
    if batch is None:
        raise refuse(f"{account} has no batch {batch_id}")
    return batch


@app.command()
def show(batch_id: BatchId, account: AccountId, as_json: AsJson = False) -> None:
    """Show a batch, and what became of its files."""
    with database() as engine:
        told = _told(engine, _found(engine, account, batch_id))
    if as_json:
        print_json(told)
        return
    rows = [(name, value) for name, value in told.items() if name != "files"]
    rows += [(f"file {name}", value) for file in told["files"] for name, value in file.items()]
    out.print(table(f"Batch {batch_id}", "", "", rows=rows))


def _told(engine: Engine, batch: Batch) -> dict[str, Any]:
    with begin(engine) as (connection, _):
        files = find_files(connection, *batch.key)
    return {
        **batch_view(batch),
        "files": [{**file_view(file), **_became(file)} for file in files],
    }


@app.command(name="open")
def open_file(
    file: FilePath,
    *,
    identity: Identity,
    output: Output = None,
    images: Images = None,
    sheet: Sheet = None,
    symbol: Symbol = None,
) -> None:
    """Open the file of a batch: its lines as CSV, or its tokens as barcodes. Needs no server."""
    if images is None and sheet is None:
        write_opened(file, identity, output)
        return
    show_secrets(
        read_opened(file, identity), output=output, images=images, sheet=sheet, symbol=symbol
    )


@app.command(name="write")
def write_again(batch_id: BatchId, account: AccountId) -> None:
    """Have the files put in their place once more, byte for byte, by a worker's next sweep."""
    with database() as engine, begin(engine) as (connection, _):
        files = find_files(connection, account, batch_id)
        if not files:
            raise refuse(f"there is no file of a batch {batch_id}")
        kept = [file for file in files if file.confirmed_at is None]
        for file in kept:
            request_rewrite(connection, file)
    if len(kept) < len(files):
        # What a recall has left holds no secrets, and nobody confirms it.
        rest = "; that of the cards refused will be written again" if kept else ""
        raise refuse(f"the file of {batch_id} was confirmed; its secrets are deleted{rest}")
    out.print(f"The files of {batch_id} will be written again.")


@app.command()
def confirm(
    batch_id: BatchId,
    account: AccountId,
    by: Annotated[
        str | None, typer.Option(help="Who says so; it is told with the event.", show_default=False)
    ] = None,
) -> None:
    """Say that the files have arrived: their secrets are deleted here and can't be made again."""
    with database() as engine:
        try:
            confirm_files(engine, account, batch_id, by)
        except NotConfirmed as reason:
            raise refuse(str(reason)) from None
    out.print(f"The secrets of {batch_id} are deleted here.")


def _became(file: File) -> dict[str, object]:
    return {
        "kind": file.kind,
        "written_at": file.written_at,
        "confirmed_at": file.confirmed_at,
        "last_error": file.last_error,
    }
