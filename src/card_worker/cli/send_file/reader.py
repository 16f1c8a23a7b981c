"""Reading a file line by line: each line is a command, or invalid for a reason.

A line may hold a token or a PIN, also in a wrong place. So messages name lines, columns and unknown
fields by their number, and repeat no content.
"""

import csv
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic import ValidationError

from card_worker.cli.console import plural
from card_worker.cli.send import value_of
from card_worker.cli.send_file.header import csv_problem, read_header
from card_worker.cli.send_file.progress import Progress
from card_worker.cli.send_file.text import BOM, REASON, Text, Unusable, not_utf_8
from card_worker.contracts.commands import COMMANDS, ProducerCommand
from card_worker.contracts.envelope import LEVELS_MAX
from card_worker.contracts.json_text import NotJson, read_json
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


Row: TypeAlias = tuple[int, str, list[str] | BadLine]
"""The number and the text of a line; its cells, or why there are none. JSON is one cell."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file. A row of a CSV file may have several; `number` is that of the first."""

    number: int
    command: ProducerCommand | BadLine
    content: Content


class Reader:
    """Reads the lines of a file, and knows how far it has read.

    The lines that `progress` has are skipped, but for those without an answer. A line without a
    command_id gets one from `progress.sending` and its number.

    If a quote of a CSV file is not closed, the beginning of the next line is unknown: what follows
    may be a text that looks like lines. Reading ends there, and `open_quote` is the number of the
    line and the reason.

    Raises Unusable for a wrong header of a CSV file, if the file has another beginning than that
    which was sent, and for bytes that were not there when the encoding was checked.
    """

    def __init__(self, text: Text, progress: Progress) -> None:
        self.open_quote: tuple[int, str] | None = None
        self.header: Sequence[str] = ()
        self.lines_read = 0
        self._text, self._digest = text, hashlib.sha256()
        self._task, self._account, self._sending = progress.task, progress.account, progress.sending
        # Lines that were read and are not counted yet: several if quotes contain line ends.
        self._ahead: list[str] = []
        self._rows = self._json_rows()
        if text.delimiter is not None:
            rows = csv.reader(self._texts(), delimiter=text.delimiter, strict=True)
            self.header = read_header(rows, self._task)
            self._columns = [name.lower() for name in self.header]
            self._count_ahead()
            self._rows = self._csv_rows(rows)
        self.header_lines = self.lines_read
        self._again = self._skip(progress)

    def note_position(self, progress: Progress) -> None:
        """Note in `progress` how far the file has been read."""
        progress.lines, progress.digest = self.lines_read, self._digest.hexdigest()

    def lines(self) -> Iterator[Line]:
        """Yield each line that is not blank."""
        yield from self._again
        for row in self._rows:
            yield from self._line(*row)

    def _skip(self, progress: Progress) -> list[Line]:
        """Skip what was sent before; return the lines without an answer."""
        again, unanswered = list[Line](), set(progress.unanswered)
        while self.lines_read < progress.lines and (row := next(self._rows, None)):
            if row[0] in unanswered:
                again += self._line(*row)
        if progress.lines and self._digest.hexdigest() != progress.digest:
            raise Unusable(
                f"it has changed since it was sent ({plural(progress.sent, 'command')}), or the"
                " last line was not complete then"
            )
        return again

    def _count_ahead(self) -> int:
        """Count the lines that were read ahead; return the number of the first one."""
        first = self.lines_read + 1
        for text in self._ahead:
            # The last line may have had no end when it was sent.
            self._digest.update(text.rstrip("\r\n").encode(self._text.file.encoding) + b"\n")
        self.lines_read += len(self._ahead)
        self._ahead.clear()
        return first

    def _texts(self) -> Iterator[str]:
        while text := self._read_text():
            is_first = not self.lines_read and not self._ahead
            self._ahead.append(text)
            yield text.removeprefix(BOM) if is_first else text
            if not text.endswith("\n"):
                return  # what another process appends from now on belongs to this line

    def _read_text(self) -> str:
        try:
            return self._text.file.readline()
        except UnicodeDecodeError as error:  # another process has written it since it was checked
            lines = self.lines_read + len(self._ahead)
            raise not_utf_8(error, lines, "Nothing more is sent") from None

    def _csv_rows(self, rows: Iterator[list[str]]) -> Iterator[Row]:
        cells: list[str] | BadLine
        while True:
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                cells = BadLine(csv_problem(error))
            is_odd = sum(text.count('"') for text in self._ahead) % 2 == 1
            # One alone may be: a quote within a cell that begins without one opens nothing.
            if is_odd + (len(self._ahead) > 1) + isinstance(cells, BadLine) > 1:
                reason = cells if isinstance(cells, BadLine) else "an odd number of quotes"
                self.open_quote = self.lines_read + 1, reason
                return
            text = "".join(self._ahead).rstrip("\r\n")
            yield self._count_ahead(), text, cells

    def _json_rows(self) -> Iterator[Row]:
        for text in self._texts():
            yield self._count_ahead(), (line := text.rstrip("\r\n")), [line]

    def _line(self, number: int, text: str, cells: list[str] | BadLine) -> Iterator[Line]:
        """Yield the line of a row, nothing for a blank one."""
        content: Content = text
        fields: Fields | BadLine
        if isinstance(cells, BadLine):
            fields = cells
        elif not any(cell.strip() for cell in cells):
            return
        elif self._text.delimiter is None:
            fields = _read_object(text)
            content = text if isinstance(fields, BadLine) else fields
        else:
            content, fields = cells, self._fields(cells)
        command = fields if isinstance(fields, BadLine) else self._command(number, fields)
        yield Line(number, command, content)

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

    def _command(self, number: int, fields: Fields) -> ProducerCommand | BadLine:
        default = {} if self._account is None else {"account_id": self._account}
        # Not from the content: the same content may be meant twice.
        default["command_id"] = f"{self._sending}-{number}"
        given = {name: value for name, value in fields.items() if name != REASON}
        try:
            return COMMANDS[self._task].model_validate({**default, **given})
        except ValidationError as error:
            return BadLine("; ".join(_problems(error, given, self._task)))


def _read_object(text: str) -> Fields | BadLine:
    try:
        value = read_json(text.encode(), bytes_max=COMMAND_BYTES_MAX, levels_max=LEVELS_MAX)
    except NotJson as error:
        return BadLine(str(error))
    return value if isinstance(value, dict) else BadLine("not a JSON object")


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
