"""`card-worker codes`: keys for tokens and PINs, and a look into what was sealed to one's own."""

import csv
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from pydantic import TypeAdapter, ValidationError

from card_worker.cli.console import AsJson, err, print_json, refuse
from card_worker.secret_issuer import COLUMNS
from card_worker.secrets.formats import Barcode
from card_worker.secrets.peppers import new_pepper
from card_worker.secrets.sealing import NotOpened, new_identity, open_pieces, open_sealed

app = typer.Typer(help="Make keys, and open what was sealed to yours.", no_args_is_help=True)

Identity = Annotated[
    Path,
    typer.Option(
        "--identity", "-i", help="A file with your age identity.", exists=True, dir_okay=False
    ),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write to this new file, not to the screen.")
]
Images = Annotated[
    Path | None, typer.Option(help="Draw each token as a barcode, an SVG in this folder.")
]
Sheet = Annotated[Path | None, typer.Option(help="Draw all tokens as labels: a PDF to print.")]
Symbol = Annotated[
    Barcode | None, typer.Option(help="Which barcode. Without it: Code 128.", show_default=False)
]
Row = dict[str, str]


@app.command(name="new-identity")
def make_identity(
    file: Annotated[Path, typer.Argument(help="The new file that only you will be able to read.")],
) -> None:
    """Make an age identity in a file; print its recipient, which others seal to."""
    made = new_identity()
    _write_new(file, f"# public key: {made.recipient}\n{made.secret}\n".encode())
    typer.echo(made.recipient)


@app.command(name="new-pepper")
def make_pepper(
    name: Annotated[str, typer.Argument(help="What the key is called, such as k1.")],
) -> None:
    """Print a new key for TOKEN_PEPPERS or PIN_PEPPERS. Put it before those that are there."""
    try:
        typer.echo(new_pepper(name))
    except ValueError as problem:
        raise refuse(str(problem), code=2) from None


@app.command(name="open")
def open_answer(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="The text `sealed` of an answer. Without it: from stdin.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    *,
    identity: Identity,
    as_json: AsJson = False,
    output: Output = None,
    images: Images = None,
    sheet: Sheet = None,
    symbol: Symbol = None,
) -> None:
    """Open what an answer has sealed: a card's token, its PIN, or both."""
    sealed = sys.stdin.buffer.read() if file is None else _read(file)
    told = _told(_opened(sealed, identity))
    if as_json:
        print_json(told)
        return
    row = {name: told.get(name, "") for name in COLUMNS}
    show_codes([row], output=output, images=images, sheet=sheet, symbol=symbol)


def _told(plain: bytes) -> Row:
    try:
        return TypeAdapter(Row).validate_json(plain)
    except ValidationError:
        raise refuse(
            "no answer is sealed there; open the file of a batch with card-worker batch open"
        ) from None


def write_opened(file: Path, identity: Path, output: Path | None) -> None:
    """Write what a batch's file has sealed, however long it is: to a new file, or to the screen."""
    with ExitStack() as opened_files:
        try:
            sealed = opened_files.enter_context(file.open("rb"))
        except OSError as error:
            raise refuse(f"{file}: {error.strerror}") from None
        plain = sys.stdout.buffer
        if output is not None:
            plain = opened_files.enter_context(_new_file(output))
        try:
            open_pieces(identities_in(identity), sealed, plain.write)
        except NotOpened as reason:
            raise refuse(f"{file}: {reason}") from None
        except OSError as error:
            raise refuse(f"{output or 'stdout'}: {error.strerror}") from None


def opened(file: Path, identity: Path) -> list[Row]:
    """Return the lines of a batch's file, opened with an identity."""
    plain = _opened(_read(file), identity)
    try:
        head, *lines = csv.reader(io.StringIO(plain.decode(), newline=""), strict=True)
        rows = [dict(zip(head, line, strict=True)) for line in lines]
    except (csv.Error, ValueError):
        head, rows = [], []
    if tuple(head) != COLUMNS:
        raise refuse(f"{file}: no lines of a batch are sealed there")
    return rows


def show_codes(
    rows: Sequence[Row],
    *,
    output: Path | None,
    images: Path | None,
    sheet: Path | None,
    symbol: Barcode | None,
) -> None:
    """Do what the options ask for with opened lines; without options, print them."""
    from card_worker.cli.barcodes import NotDrawn, draw_images, draw_sheet

    kind = symbol or Barcode.CODE_128
    try:
        if images is not None:
            err.print(f"{draw_images(rows, kind, images)} barcodes in {images}")
        if sheet is not None:
            _write_new(sheet, draw_sheet(rows, kind))
            err.print(f"{len(rows)} labels in {sheet}")
    except NotDrawn as reason:
        raise refuse(str(reason)) from None
    except (FileExistsError, NotADirectoryError):
        raise refuse(f"{images} is not a folder", code=2) from None
    except OSError as error:
        raise refuse(f"{images}: {error.strerror}") from None
    if output is not None:
        _write_new(output, "".join(_csv(rows)).encode())
    elif images is None and sheet is None:
        for line in _csv(rows):
            typer.echo(line, nl=False)


def _csv(rows: Sequence[Row]) -> Iterator[str]:
    for values in (COLUMNS, *(tuple(row[name] for name in COLUMNS) for row in rows)):
        line = io.StringIO(newline="")
        csv.writer(line).writerow(values)
        yield line.getvalue()


def identities_in(file: Path) -> list[str]:
    """Return the identities that stand in a file, one a line, among comments and empty lines."""
    # Some editors begin a file with a mark that says it is UTF-8.
    lines = map(str.strip, _read(file).decode("utf-8-sig", errors="replace").splitlines())
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise refuse(f"{file}: there is no age identity in it")
    return found


def _opened(sealed: bytes, identity: Path) -> bytes:
    try:
        return open_sealed(identities_in(identity), sealed)
    except NotOpened as reason:
        raise refuse(str(reason)) from None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise refuse(f"{file}: {error.strerror}") from None


def _write_new(file: Path, content: bytes) -> None:
    with _new_file(file) as opened_file:
        opened_file.write(content)


@contextmanager
def _new_file(file: Path) -> Iterator[BinaryIO]:
    """Open a file that only its owner may read, to be written whole or not at all.

    One that is there is left alone.
    """
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise refuse(f"{file}: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as opened_file:
            yield opened_file
    except BaseException as failure:
        file.unlink()
        if isinstance(failure, OSError):
            raise refuse(f"{file}: {failure.strerror}") from None
        raise
