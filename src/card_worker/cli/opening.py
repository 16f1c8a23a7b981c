"""Opening what is encrypted to an age identity, and showing tokens and PINs."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from typer import Option, echo

from card_worker.bureau_file import Line, NotBureauFile, read_csv, write_csv
from card_worker.cli.console import err, plural, refuse
from card_worker.cli.files import file_errors, new_file, read_file
from card_worker.secrets.formats import Barcode
from card_worker.secrets.sealing import NotOpened, open_pieces, open_sealed

IDENTITY = Option(
    "--identity", "-i", help="A file with your age identity.", exists=True, dir_okay=False
)
Identity = Annotated[Path, IDENTITY]
Output = Annotated[
    Path | None, Option("--output", "-o", help="Write to this new file instead of stdout.")
]
Images = Annotated[
    Path | None, Option(help="Draw each token as a barcode: SVG files in this folder.")
]
Sheet = Annotated[Path | None, Option(help="Draw all tokens as labels: a new PDF file.")]
Symbol = Annotated[
    Barcode | None, Option(help="Kind of barcode. Default: Code 128.", show_default=False)
]


def read_identities(file: Path) -> list[str]:
    """Return the identities in a file, one a line; comments and empty lines are skipped."""
    # Some editors begin a file with a byte order mark.
    lines = map(str.strip, read_file(file).decode("utf-8-sig", errors="replace").splitlines())
    identities = [line for line in lines if line and not line.startswith("#")]
    if not identities:
        raise refuse(f"{file}: has no age identity")
    return identities


def open_content(sealed: bytes, identity: Path) -> bytes:
    """Return the decrypted content."""
    try:
        return open_sealed(read_identities(identity), sealed)
    except NotOpened as error:
        raise refuse(str(error)) from None


def open_bureau_file(file: Path, identity: Path) -> list[Line]:
    """Return the lines of an encrypted bureau file."""
    try:
        return read_csv(open_content(read_file(file), identity))
    except NotBureauFile:
        raise refuse(f"{file}: its content is not that of a batch file") from None


def copy_opened(file: Path, identity: Path, output: Path | None) -> None:
    """Decrypt a file of any length into a new file, or to stdout."""
    with ExitStack() as files:
        with file_errors(file):
            sealed = files.enter_context(file.open("rb"))
        plain = sys.stdout.buffer
        if output is not None:
            plain = files.enter_context(new_file(output))
        try:
            open_pieces(read_identities(identity), sealed, plain.write)
        except NotOpened as error:
            raise refuse(f"{file}: {error}") from None


def show_secrets(
    lines: Sequence[Line],
    *,
    output: Path | None,
    images: Path | None,
    sheet: Path | None,
    symbol: Barcode | None,
) -> None:
    """Draw or write the lines as the options say; without options, print them.

    All new files are created before the first is written, so that a wrong name changes nothing.
    """
    from card_worker.cli.barcodes import NotDrawn, draw_images, draw_sheet

    symbol = symbol or Barcode.CODE_128
    contents = list[tuple[Path, bytes]]()
    try:
        if sheet is not None:
            contents.append((sheet, draw_sheet(lines, symbol)))
        if output is not None:
            contents.append((output, write_csv(lines)))
        with ExitStack() as files:
            for file, content in contents:
                new = files.enter_context(new_file(file))
                files.callback(new.write, content)  # when all are created
            if images is not None:
                with file_errors(images):
                    try:
                        count = draw_images(lines, symbol, images)
                    except (FileExistsError, NotADirectoryError):
                        raise refuse(f"{images} is not a folder", code=2) from None
                err.print(f"{plural(count, 'barcode')} in {images}")
    except NotDrawn as error:
        raise refuse(str(error)) from None
    if sheet is not None:
        err.print(f"{plural(len(lines), 'label')} in {sheet}")
    if not contents and images is None:
        echo(write_csv(lines), nl=False)
