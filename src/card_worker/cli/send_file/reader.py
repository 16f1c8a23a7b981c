"""Reading a file line by line: each line is a command, or invalid for a reason.

A line may hold a token or a PIN, also in a wrong place. So messages name lines, columns and unknown
fields by their number, and repeat no content.
"""

import csv
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any, TypeAlias

from pydantic import ValidationError

from card_worker.cli.send import value_of
from card_worker.cli.send_file.header import csv_problem, read_header
from card_worker.cli.send_file.progress import Progress
from card_worker.cli.send_file.text import BOM, NOT_MENDED, REASON, Text, Unusable
from card_worker.contracts.commands import COMMANDS, ProducerCommand
from card_worker.contracts.envelope import LEVELS_MAX
from card_worker.contracts.json_text import NotJson, read_json, write_json
from card_worker.contracts.message import COMMAND_BYTES_MAX, field_name, problems_of
from card_worker.wording import did_you_mean

# As a spreadsheet shows 6036280012345678, and as some programs keep a zero at the beginning.
_CHANGED_BY_SPREADSHEET = re.compile(r'\d([.,]\d+)?E\+\d+|=".*"', re.IGNORECASE | re.DOTALL)

Fields: TypeAlias = dict[str, Any]
Content: TypeAlias = list[str] | Fields | str
"""A line as it was read: cells, or a JSON object, or a text that is neither."""


class BadLine(str):
    """The reason why a line is not a valid command."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file. A row of a CSV file may have several; `number` is that of the first."""

    number: int
    command: ProducerCommand | BadLine
    content: Content


class Reader:
    """Reads the lines of a file, and knows how far it has read.

    A line without a command_id gets one from `progress.sending` and its number.

    If a quote of a CSV file is not closed, the beginning of the next line is unknown: what follows
    may be a text that looks like lines. Reading ends there, and `open_quote` is the number of the
    line and the reason.

    Raises Unusable for a wrong header of a CSV file, and if the file has another beginning than
    that which was sent.
    """

    def __init__(self, text: Text, progress: Progress) -> None:
        self.open_quote: tuple[int, str] | None = None
        self._text, self._file, self._encoding = text, text.file, text.file.encoding
        self._task, self._account, self._sending = progress.task, progress.account, progress.sending
        self._bytes, self._lines = 0, 0
        self._digest = hashlib.sha256()
        # Lines that were read and are not counted yet: several if quotes contain line ends.
        self._ahead: list[str] = []
        self._header: Sequence[str] = ()
        if text.delimiter is not None:
            self._rows = csv.reader(self._texts(), delimiter=text.delimiter, strict=True)
            self._header = read_header(self._rows, self._task)
            self._columns = [name.lower() for name in self._header]
            self._count_ahead()
        if progress.bytes:
            self._skip(progress)

    def position(self) -> dict[str, Any]:
        """Return how far the file has been read, as fields of Progress."""
        return {"bytes": self._bytes, "lines": self._lines, "digest": self._digest.hexdigest()}

    def lines(self) -> Iterator[Line]:
        """Yield each line that is not blank."""
        contents = self._json_lines() if self._text.delimiter is None else self._csv_lines()
        for number, content, fields in contents:
            if isinstance(fields, BadLine):
                yield Line(number, fields, content)
            else:
                yield Line(number, self._command(number, fields), content)

    def refused(self, content: Content, reason: str) -> str:
        """Return a line of the file of refused lines. Content that can't be read is one text."""
        if self._text.delimiter is None:
            fields = content if isinstance(content, dict) else {"#line": content}
            kept = {name: fields[name] for name in fields if name not in NOT_MENDED}
            return write_json({REASON: reason, **kept}) + self._text.line_end
        cells = [str(content)]
        if isinstance(content, list):
            dropped = {n for n, name in enumerate(self._columns) if name in NOT_MENDED}
            cells = [cell for n, cell in enumerate(content) if n not in dropped]
        text = StringIO(newline="")
        writer = csv.writer(
            text, delimiter=self._text.delimiter, lineterminator=self._text.line_end
        )
        writer.writerow([reason, *cells])
        return text.getvalue()

    def refused_beginning(self) -> str:
        """Return what stands before the first line of the file of refused lines."""
        has_header = self._text.delimiter is not None
        header = self.refused(list(self._header), REASON) if has_header else ""
        return self._text.beginning + header

    def _skip(self, progress: Progress) -> None:
        """Skip what was sent before."""
        rest = b""
        while self._bytes < progress.bytes and (
            raw := self._file.readline().encode(self._encoding)
        ):
            part = raw[: progress.bytes - self._bytes]
            rest = raw[len(part) :]
            self._add(part)
        if self._digest.hexdigest() != progress.digest:
            raise Unusable(f"it has changed since {progress.lines} lines of it were sent")
        self._lines = progress.lines
        # The last line may have had no end when it was sent.
        if rest.decode(self._encoding).strip("\r\n"):
            raise Unusable(f"its line {self._lines} was sent before it was complete")
        self._add(rest)

    def _add(self, raw: bytes) -> None:
        self._bytes += len(raw)
        self._digest.update(raw)

    def _count_ahead(self) -> int:
        """Count the lines that were read ahead; return the number of the first one."""
        first = self._lines + 1
        self._add("".join(self._ahead).encode(self._encoding))
        self._lines += len(self._ahead)
        self._ahead.clear()
        return first

    def _texts(self) -> Iterator[str]:
        while text := self._file.readline():
            is_first = not self._lines and not self._ahead
            self._ahead.append(text)
            yield text.removeprefix(BOM) if is_first else text
            if not text.endswith("\n"):
                return  # what another process appends from now on belongs to this line

    def _csv_lines(self) -> Iterator[tuple[int, Content, Fields | BadLine]]:
        while True:
            try:
                cells, problem = next(self._rows), ""
            except StopIteration:
                return
            except csv.Error as error:
                cells, problem = [], csv_problem(error)
            if self._may_be_open(problem):
                self.open_quote = self._lines + 1, problem or "an odd number of quotes"
                return
            text = "".join(self._ahead).rstrip("\r\n")
            number = self._count_ahead()
            if problem:
                yield number, text, BadLine(problem)
            elif any(cell.strip() for cell in cells):
                yield number, cells, self._fields(cells)

    def _may_be_open(self, problem: str) -> bool:
        """Return whether a quote may be open at the end of what was read ahead."""
        has_lines = len(self._ahead) > 1
        if not problem and not has_lines:
            return False  # a quote within a cell that begins without one opens nothing
        is_odd = sum(text.count('"') for text in self._ahead) % 2 == 1
        return is_odd or (has_lines and bool(problem))

    def _fields(self, cells: Sequence[str]) -> Fields | BadLine:
        if any(cells[len(self._columns) :]):
            return BadLine(f"{len(cells)} cells, but the header has {len(self._columns)}")
        named = {name: cell for name, cell in zip(self._columns, cells, strict=False) if cell}
        named.pop(REASON, None)
        if "" in named:
            return BadLine("a cell in a column without a name")
        for name, cell in named.items():
            is_id = name.endswith("_id") or name in ("token", "pin")
            if is_id and _CHANGED_BY_SPREADSHEET.fullmatch(cell):
                return BadLine(
                    f"{name}: a spreadsheet has changed this value. Give its column the format"
                    " “Text”, and enter the value again"
                )
        return {name: value_of(self._task, name, cell) for name, cell in named.items()}

    def _json_lines(self) -> Iterator[tuple[int, Content, Fields | BadLine]]:
        for text in self._texts():
            number = self._count_ahead()
            if not text.strip():
                continue
            try:
                value = read_json(text.encode(), bytes_max=COMMAND_BYTES_MAX, levels_max=LEVELS_MAX)
            except NotJson as error:
                yield number, text.rstrip("\r\n"), BadLine(str(error))
                continue
            if isinstance(value, dict):
                fields = {name: value[name] for name in value if name != REASON}
                yield number, value, fields
            else:
                yield number, text.rstrip("\r\n"), BadLine("not a JSON object")

    def _command(self, number: int, fields: Fields) -> ProducerCommand | BadLine:
        default = {} if self._account is None else {"account_id": self._account}
        # Not from the content: the same content may be meant twice.
        default["command_id"] = f"{self._sending}-{number}"
        try:
            return COMMANDS[self._task].model_validate({**default, **fields})
        except ValidationError as error:
            return BadLine("; ".join(_problems(error, fields, self._task)))


def _problems(error: ValidationError, fields: Fields, task: str) -> Iterator[str]:
    """Yield the problems of a line, without the names of unknown fields."""
    unknown = {
        field_name(each["loc"]): each["loc"]
        for each in error.errors(include_input=False, include_url=False)
        if each["type"] == "extra_forbidden"
    }
    for problem in problems_of(error):
        if problem.field not in unknown:
            yield f"{problem.field}: {problem.message}"
            continue
        *path, name = map(str, unknown[problem.field])
        if path:
            yield f"{'.'.join(path)}: has an unknown field"
        else:
            hint = did_you_mean(name, COMMANDS[task].model_fields)
            yield f"its field {list(fields).index(name) + 1} is no field of {task}{hint}"
