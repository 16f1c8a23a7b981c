"""`card-worker batch`: look at a batch, open its file, write it again, let its secrets go."""

import json
from pathlib import Path
from typing import Annotated

import typer

from card_worker.cli.cards import AccountId
from card_worker.cli.codes import Identity, Images, Output, Sheet, Symbol, opened, show_codes
from card_worker.cli.console import AsJson, database, out, print_json, refuse, table
from card_worker.contracts.events import write
from card_worker.domain.answers import shown_batch, shown_file
from card_worker.domain.rows import File
from card_worker.storage.engine import begin
from card_worker.storage.files import confirmed, find_file, written
from card_worker.storage.looks import find_batch

app = typer.Typer(help="Look at a batch of cards, and at its sealed file.", no_args_is_help=True)

BatchId = Annotated[str, typer.Argument(help="What its order called it.")]
FilePath = Annotated[
    Path, typer.Argument(help="The file as it lies where it was put.", exists=True, dir_okay=False)
]


@app.command()
def show(batch_id: BatchId, account: AccountId, as_json: AsJson = False) -> None:
    """Show a batch, and what became of its file."""
    with database() as engine, begin(engine) as (connection, _):
        batch = find_batch(connection, account, batch_id)
        file = find_file(connection, account, batch_id)
    if batch is None:
        raise refuse(f"{account} has no batch {batch_id}")
    told = json.loads(write(shown_batch(batch)))
    told["file"] = None if file is None else {**shown_file(file), **_became(file)}
    if as_json:
        print_json(told)
        return
    rows = [(name, value) for name, value in told.items() if name != "file"]
    rows += [(f"file {name}", value) for name, value in (told["file"] or {}).items()]
    out.print(table(f"Batch {batch_id}", "", "", rows=rows))


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
    show_codes(opened(file, identity), output=output, images=images, sheet=sheet, symbol=symbol)


@app.command(name="write")
def write_again(batch_id: BatchId, account: AccountId) -> None:
    """Have the file put in its place once more, byte for byte, by a worker's next sweep."""
    with database() as engine, begin(engine) as (connection, _):
        written(connection, _waiting(find_file(connection, account, batch_id), batch_id), None)
    out.print(f"The file of {batch_id} will be written again.", markup=False)


@app.command()
def confirm(batch_id: BatchId, account: AccountId) -> None:
    """Say that the file has arrived: its secrets are deleted here, and it can't be made again."""
    with database() as engine, begin(engine) as (connection, now):
        file = _waiting(find_file(connection, account, batch_id), batch_id)
        if file.written_at is None:
            raise refuse(f"the file of {batch_id} hasn't been written yet")
        confirmed(connection, file, now)
    out.print(f"The secrets of {batch_id} are deleted here.", markup=False)


def _waiting(file: File | None, batch_id: str) -> File:
    if file is None:
        raise refuse(f"there is no file of a batch {batch_id}")
    if file.confirmed_at is not None:
        raise refuse(f"the file of {batch_id} was confirmed; its secrets are deleted")
    return file


def _became(file: File) -> dict[str, object]:
    return {"written_at": file.written_at, "confirmed_at": file.confirmed_at}
