"""The bureau file: the cards of a batch with their tokens and PINs, as CSV.

It is sealed with age to its recipients, usually the bureau that prints the cards. An order may have
its PINs in a second file with recipients of its own.
"""

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias
from urllib.parse import quote
from uuid import UUID

from card_worker.domain.rows import FileKind

COLUMNS = ("card_id", "token", "pin", "type")
HEADER = f"{','.join(COLUMNS)}\r\n".encode()
NAME_CHARS_MAX = 100

Line: TypeAlias = dict[str, str]
"""One card: its value in each of COLUMNS, empty where it has none."""


class NotBureauFile(Exception):
    """The content is not that of a bureau file."""


class Values(NamedTuple):
    """Tokens and PINs in plain text, one for each card; empty where a card has none."""

    tokens: list[str]
    pins: list[str]


NO_VALUES = Values([], [])


def split(
    values: Values, recipients: Sequence[str], pin_recipients: Sequence[str] | None
) -> Iterator[tuple[FileKind, Sequence[str], Values]]:
    """Yield the kind, the recipients and the values of each file of a batch."""
    if pin_recipients is None:
        yield FileKind.CODES, recipients, values
        return
    none = [""] * len(values.pins)
    yield FileKind.CODES, recipients, values._replace(pins=none)
    yield FileKind.PINS, pin_recipients, values._replace(tokens=none)


def csv_lines(card_ids: Sequence[str], values: Values, types: Sequence[str]) -> bytes:
    """Return a CSV line for each card, without the header."""
    rows = list(zip(card_ids, values.tokens, values.pins, types, strict=True))
    plain = "".join([f"{id},{token},{pin},{type}\r\n" for id, token, pin, type in rows])
    # Values rarely need quotes, and the csv module takes three times as long.
    ends = plain.count("\r"), plain.count("\n")
    if '"' not in plain and plain.count(",") == 3 * len(rows) and ends == (len(rows), len(rows)):
        return plain.encode()
    return csv_of(rows)


def write_csv(lines: Iterable[Line]) -> bytes:
    """Return the content of a bureau file with these lines."""
    return csv_of([COLUMNS, *([line[name] for name in COLUMNS] for line in lines)])


def read_csv(content: bytes) -> list[Line]:
    """Return the lines of an opened bureau file. Raises NotBureauFile."""
    try:
        header, *rows = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
        lines = [dict(zip(header, row, strict=True)) for row in rows]
    except (csv.Error, ValueError):
        raise NotBureauFile from None
    if tuple(header) != COLUMNS:
        raise NotBureauFile
    return lines


def file_name(account_id: str, batch_id: str, kind: FileKind, job: UUID | None = None) -> str:
    """Return the path of a file of a batch in the store.

    `job` distinguishes the files of recalls. Names consist of ASCII letters, digits and `_.-~%`, so
    names with other characters can be used for other purposes.
    """
    name = quote(batch_id, safe="")
    if name.endswith(".pins"):  # otherwise the file of the PINs of another batch has this name
        name = f"{name.removesuffix('.pins')}%2Epins"
    if len(name) > NAME_CHARS_MAX:
        name = f"{name[:NAME_CHARS_MAX]}-{hashlib.sha256(batch_id.encode()).hexdigest()[:16]}"
    match kind:
        case FileKind.CODES:
            return f"{account_id}/{name}.csv.age"
        case FileKind.PINS:
            return f"{account_id}/{name}.pins.csv.age"
        case FileKind.REFUSED:
            return f"{account_id}/{name}.refused-{job}.csv"


def csv_of(rows: Iterable[Sequence[str]]) -> bytes:
    """Return rows as CSV."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
