"""Reading and writing the files that a user names. Errors are one line with the file's name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from typer import Exit

from card_worker.cli.console import refuse


@contextmanager
def file_errors(file: object) -> Iterator[None]:
    """Turn an OSError about a file into an error that names the file."""
    try:
        yield
    except OSError as error:
        raise refuse(f"{file}: {error.strerror}") from None


def read_file(file: Path) -> bytes:
    """Return the content of a file."""
    with file_errors(file):
        return file.read_bytes()


def write_new(file: Path, content: bytes) -> None:
    """Write a file as `new_file` does."""
    with new_file(file) as opened:
        opened.write(content)


@contextmanager
def new_file(file: Path) -> Iterator[BinaryIO]:
    """Create a file that only its owner can read; remove it if it can't be written completely.

    An existing file is not changed.
    """
    with file_errors(file):
        try:
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise _exists(file) from None
        try:
            with os.fdopen(handle, "wb") as opened:
                yield opened
        except BaseException:
            file.unlink()
            raise


def check_new(file: Path) -> None:
    """Refuse a file that exists before anything is done for it."""
    if os.path.lexists(file):
        raise _exists(file)


def _exists(file: Path) -> Exit:
    return refuse(
        f"{file} exists, and is not overwritten: name another file, or move this one away"
    )


def replace_file(file: Path, text: str) -> None:
    """Write a text file completely, or leave it as it was. Raises OSError."""
    new = file.with_suffix(".writing")
    new.write_text(text, encoding="utf-8")
    new.replace(file)
