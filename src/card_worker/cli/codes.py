"""`card-worker codes`: make keys, and open encrypted tokens and PINs."""

import sys
from pathlib import Path
from typing import Annotated

from pydantic import TypeAdapter, ValidationError
from typer import Argument, Typer, echo

from card_worker.bureau_file import COLUMNS, Line
from card_worker.cli import opening
from card_worker.cli.console import AsJson, print_json, refuse
from card_worker.cli.files import read_file, write_new
from card_worker.secrets.peppers import new_pepper
from card_worker.secrets.sealing import new_key_pair

app = Typer(no_args_is_help=True)


@app.command(name="new-identity")
def make_identity(
    file: Annotated[Path, Argument(help="The new file. Only you will be able to read it.")],
) -> None:
    """Write a new age identity to a file; print its recipient (public key)."""
    key_pair = new_key_pair()
    write_new(file, f"# public key: {key_pair.recipient}\n{key_pair.identity}\n".encode())
    echo(key_pair.recipient)


@app.command(name="new-pepper")
def make_pepper(
    name: Annotated[str, Argument(help="The name of the key, such as k1.")],
) -> None:
    """Print a new key for a setting ending with PEPPERS. Put it before the existing ones."""
    try:
        echo(new_pepper(name))
    except ValueError as error:
        raise refuse(str(error), code=2) from None


@app.command(name="open")
def open_answer(
    file: Annotated[
        Path | None,
        Argument(
            help="A file with the text in the field `sealed` of an answer. Default: stdin.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    *,
    identity: opening.Identity,
    as_json: AsJson = False,
    output: opening.Output = None,
    images: opening.Images = None,
    sheet: opening.Sheet = None,
    symbol: opening.Symbol = None,
) -> None:
    """Open the encrypted token and PIN of an answer."""
    sealed = sys.stdin.buffer.read() if file is None else read_file(file)
    try:
        secrets = TypeAdapter(Line).validate_json(opening.open_content(sealed, identity))
    except ValidationError:
        raise refuse(
            "this is not from an answer; open the file of a batch with card-worker batch open"
        ) from None
    if as_json:
        print_json(secrets)
        return
    line = {name: secrets.get(name, "") for name in COLUMNS}
    opening.show_secrets([line], output=output, images=images, sheet=sheet, symbol=symbol)
