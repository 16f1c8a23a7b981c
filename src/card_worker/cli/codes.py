"""`card-worker codes`: make keys, and open sealed tokens and PINs."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from pydantic import TypeAdapter, ValidationError

from card_worker.bureau_file import COLUMNS, Line, NotBureauFile, read_csv, write_csv
from card_worker.cli.console import AsJson, err, plural, print_json, refuse
from card_worker.secrets.formats import Barcode
from card_worker.secrets.peppers import new_pepper
from card_worker.secrets.sealing import NotOpened, new_key_pair, open_pieces, open_sealed

app = typer.Typer(help="Make keys, and open sealed tokens and PINs.", no_args_is_help=True)

Identity = Annotated[
    Path,
    typer.Option(
        "--identity", "-i", help="A file with your age identity.", exists=True, dir_okay=False
    ),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write to this new file instead of stdout.")
]
Images = Annotated[
    Path | None, typer.Option(help="Draw each token as a barcode: SVG files in this folder.")
]
Sheet = Annotated[Path | None, typer.Option(help="Draw all tokens as labels: a new PDF file.")]
Symbol = Annotated[
    Barcode | None, typer.Option(help="Kind of barcode. Default: Code 128.", show_default=False)
]


@app.command(name="new-identity")
def make_identity(
    file: Annotated[Path, typer.Argument(help="The new file. Only you will be able to read it.")],
) -> None:
    """Write a new age identity to a file; print its recipient, which others seal to."""
    made = new_key_pair()
    _write_new(file, f"# public key: {made.recipient}\n{made.identity}\n".encode())
    typer.echo(made.recipient)


@app.command(name="new-pepper")
def make_pepper(
    name: Annotated[str, typer.Argument(help="The name of the key, such as k1.")],
) -> None:
    """Print a new key for TOKEN_PEPPERS or PIN_PEPPERS. Put it before the existing ones."""
    try:
        typer.echo(new_pepper(name))
    except ValueError as problem:
        raise refuse(str(problem), code=2) from None


@app.command(name="open")
def open_answer(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="A file with the text in the field `sealed` of an answer. Default: stdin.",
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
    """Open the token and the PIN that are sealed in an answer."""
    sealed = sys.stdin.buffer.read() if file is None else _read(file)
    secrets = _read_answer(_opened(sealed, identity))
    if as_json:
        print_json(secrets)
        return
    line = {name: secrets.get(name, "") for name in COLUMNS}
    show_secrets([line], output=output, images=images, sheet=sheet, symbol=symbol)


def _read_answer(plain: bytes) -> Line:
    try:
        return TypeAdapter(Line).validate_json(plain)
    except ValidationError:
        raise refuse(
            "this is not from an answer; open the file of a batch with card-worker batch open"
        ) from None


def write_opened(file: Path, identity: Path, output: Path | None) -> None:
    """Open a bureau file of any length into a new file, or to stdout."""
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


def read_opened(file: Path, identity: Path) -> list[Line]:
    """Return the lines of a bureau file, opened with an identity."""
    try:
        return read_csv(_opened(_read(file), identity))
    except NotBureauFile:
        raise refuse(f"{file}: its content is not that of a batch file") from None


def show_secrets(
    lines: Sequence[Line],
    *,
    output: Path | None,
    images: Path | None,
    sheet: Path | None,
    symbol: Barcode | None,
) -> None:
    """Draw or write the lines as the options say; without options, print them."""
    from card_worker.cli.barcodes import NotDrawn, draw_images, draw_sheet

    kind = symbol or Barcode.CODE_128
    try:
        if images is not None:
            err.print(f"{plural(draw_images(lines, kind, images), 'barcode')} in {images}")
        if sheet is not None:
            _write_new(sheet, draw_sheet(lines, kind))
            err.print(f"{plural(len(lines), 'label')} in {sheet}")
    except NotDrawn as reason:
        raise refuse(str(reason)) from None
    except (FileExistsError, NotADirectoryError):
        raise refuse(f"{images} is not a folder", code=2) from None
    except OSError as error:
        raise refuse(f"{images}: {error.strerror}") from None
    if output is not None:
        _write_new(output, write_csv(lines))
    elif images is None and sheet is None:
        typer.echo(write_csv(lines), nl=False)


def identities_in(file: Path) -> list[str]:
    """Return the identities in a file, one a line; comments and empty lines are skipped."""
    # Some editors begin a file with a byte order mark.
    lines = map(str.strip, _read(file).decode("utf-8-sig", errors="replace").splitlines())
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise refuse(f"{file}: has no age identity")
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
    """Create a file that only its owner can read; remove it if it can't be written completely.

    An existing file is not changed.
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
