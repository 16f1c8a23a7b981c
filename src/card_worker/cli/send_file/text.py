"""The text of a file and its format. All of it is checked before anything is sent."""

import codecs
import re
from dataclasses import dataclass
from io import TextIOWrapper
from typing import BinaryIO

BOM = "\ufeff"
REASON = "#reason"
"""The column or field with the reason in a file of refused lines. It is skipped when sent."""
JSON_SUFFIXES = frozenset([".json", ".jsonl", ".ndjson"])
DELIMITERS = ",;\t"

_ENCODINGS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
# With this line, a spreadsheet says which delimiter follows.
_SEP = re.compile(r'"?sep=([^\w\s"]|\t)"?', re.IGNORECASE)
_NOT_UTF_8 = (
    "is not UTF-8. {}. Save the file as UTF-8 (in Excel: “CSV UTF-8”), or convert it,"
    " for example with iconv -f WINDOWS-1252 -t UTF-8"
)


class Unusable(Exception):
    """A file can't be sent, or not continued. The text gives the reason."""


@dataclass(frozen=True, slots=True)
class Text:
    """A file as text. `delimiter` is that of a CSV file; None: JSON lines."""

    file: TextIOWrapper
    lines: int
    delimiter: str | None
    beginning: str
    """What stands before the header or the first line: a byte order mark, a line `sep=`."""
    line_end: str


def not_utf_8(error: UnicodeDecodeError, lines_before: int, outcome: str) -> Unusable:
    """Return the error for bytes that can't be decoded, after so many lines that could be."""
    line_ends = error.object[: error.start].decode(error.encoding).count("\n")
    return Unusable(f"line {lines_before + line_ends + 1} {_NOT_UTF_8.format(outcome)}")


def read_text(file: BinaryIO, suffix: str) -> Text:
    """Read all of a file, and return it from its beginning.

    The encoding is UTF-8, or UTF-16 with a byte order mark. Raises Unusable for any other, and for
    a byte order mark within the text.
    """
    encoding = _ENCODINGS.get(file.read(2), "utf-8")
    file.seek(0)
    text = TextIOWrapper(file, encoding, newline="\n")
    lines, bom, first = 0, "", ""
    try:
        for lines, line in enumerate(text, start=1):
            if lines == 1 and line.startswith(BOM):
                bom = BOM
            if line.rfind(BOM) >= (lines == 1):
                raise Unusable(
                    f"line {lines} has a byte order mark within the text: two files were put"
                    " together. Nothing is sent. Send each file by itself"
                )
            if not first and line.strip(f"{BOM} \t\r\n"):
                first = line.removeprefix(BOM)
                if "\0" in line:  # UTF-16 without a byte order mark, or UTF-32
                    raise Unusable(f"line {lines} {_NOT_UTF_8.format('Nothing is sent')}")
    except UnicodeDecodeError as error:
        raise not_utf_8(error, lines, "Nothing is sent") from None
    text.seek(0)
    sep = _SEP.fullmatch(first.rstrip("\r\n"))
    line_end = "\r\n" if first.endswith("\r\n") else "\n"
    delimiter = None
    if suffix.lower() not in JSON_SUFFIXES and not first.lstrip().startswith("{"):
        delimiter = sep[1] if sep else max(DELIMITERS, key=first.count)
    return Text(text, lines, delimiter, bom + (first if sep else ""), line_end)
