"""Reading a file line by line: each line is a command, or invalid for a reason.

A line may hold a token or a PIN, also in a wrong place. So messages name lines, columns and unknown
fields by their number, and repeat no content.
"""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, TypeAlias

from pydantic import ValidationError

from card_worker.cli.send import value_of
from card_worker.cli.send_file.progress import Progress
from card_worker.contracts.commands import COMMANDS, ProducerCommand
from card_worker.contracts.envelope import LEVELS_MAX
from card_worker.contracts.json_text import NotJson, read_json
from card_worker.contracts.message import COMMAND_BYTES_MAX, field_name, problems_of
from card_worker.wording import did_you_mean, suggestion

ID_DIGITS = 32
PIECE_BYTES = 1024 * 1024
COLUMNS_NAMED_MAX = 10

Fields: TypeAlias = dict[str, Any]


class BadLine(str):
    """The reason why a line is not a valid command."""

    __slots__ = ()


class Unusable(Exception):
    """A file can't be sent, or not continued. The text gives the reason."""


class Reader:
    """Reads the lines of a file, and knows how far it has read.

    If a quote of a CSV file is not closed, the beginning of the next line is unknown: what follows
    may be a text that looks like lines. Reading ends there, and `open_quote` is the number of the
    line and the reason.

    Raises Unusable for a wrong header of a CSV file.
    """

    def __init__(self, file: BinaryIO, task: str, account: str | None, *, is_csv: bool) -> None:
        self.open_quote: tuple[int, str] | None = None
        self._file, self._task, self._account = file, task, account
        self._bytes, self._lines, self._has_line_end = 0, 0, True
        self._digest = hashlib.sha256()
        # Lines that were read and are not counted yet: several if quotes contain line ends.
        self._ahead: list[bytes] = []
        self._rows = csv.reader(self._texts(), strict=True) if is_csv else None
        self._header: Sequence[str] = ()
        if self._rows is not None:
            self._header = _read_header(self._rows, task)
            self._count_ahead()

    def skip(self, progress: Progress) -> None:
        """Skip what was sent before. Raises Unusable if the file has another beginning now."""
        if progress.bytes == 0:
            return
        while self._bytes < progress.bytes:
            piece = self._file.read(min(PIECE_BYTES, progress.bytes - self._bytes))
            if not piece:
                break
            self._add(piece)
        if self._digest.hexdigest() != progress.digest:
            raise Unusable(f"it has changed since {progress.lines} lines of it were sent")
        self._lines = progress.lines
        if not self._has_line_end:
            self._skip_line_end()

    def position(self) -> dict[str, Any]:
        """Return how far the file has been read, as fields of Progress."""
        return {"bytes": self._bytes, "lines": self._lines, "digest": self._digest.hexdigest()}

    def commands(self) -> Iterator[tuple[int, ProducerCommand | BadLine]]:
        """Yield the number of each line with its command, or with the reason why it has none."""
        lines = self._json_lines() if self._rows is None else self._csv_lines(self._rows)
        for line, fields in lines:
            yield line, fields if isinstance(fields, BadLine) else self._command(fields)

    def _add(self, raw: bytes) -> None:
        self._bytes += len(raw)
        self._digest.update(raw)
        self._has_line_end = raw.endswith(b"\n")

    def _count_ahead(self) -> int:
        """Count the lines that were read ahead; return the number of the first one."""
        first = self._lines + 1
        self._add(b"".join(self._ahead))
        self._lines += len(self._ahead)
        self._ahead.clear()
        return first

    def _skip_line_end(self) -> None:
        """Skip the end of a line that had none when it was sent."""
        rest = self._file.readline()
        if rest.strip(b"\r\n"):
            raise Unusable(f"its line {self._lines} was sent before it was complete")
        self._add(rest)

    def _texts(self) -> Iterator[str]:
        for raw in self._file:
            encoding = "utf-8" if self._lines or self._ahead else "utf-8-sig"
            self._ahead.append(raw)
            yield raw.decode(encoding, "surrogateescape")
            if not raw.endswith(b"\n"):
                return  # what another process appends from now on belongs to this line

    def _csv_lines(self, rows: Iterator[list[str]]) -> Iterator[tuple[int, Fields | BadLine]]:
        while True:
            try:
                cells, problem = next(rows), ""
            except StopIteration:
                return
            except csv.Error as error:
                cells, problem = [], _csv_problem(error)
            if self._may_be_open(problem):
                self.open_quote = self._lines + 1, problem or "an odd number of quotes"
                return
            line = self._count_ahead()
            if problem:
                yield line, BadLine(problem)
            elif len(cells) > len(self._header) or any(cells):
                yield line, self._fields(cells)

    def _may_be_open(self, problem: str) -> bool:
        """Return whether a quote may be open at the end of what was read ahead."""
        has_lines = len(self._ahead) > 1
        if not problem and not has_lines:
            return False  # a quote within a cell that begins without one opens nothing
        is_odd = sum(raw.count(b'"') for raw in self._ahead) % 2 == 1
        return is_odd or (has_lines and bool(problem))

    def _fields(self, cells: Sequence[str]) -> Fields | BadLine:
        if len(cells) > len(self._header):
            return BadLine(f"{len(cells)} cells, but the header has {len(self._header)}")
        named = {name: cell for name, cell in zip(self._header, cells, strict=False) if cell}
        if "" in named:
            return BadLine("a cell in a column without a name")
        return {name: value_of(self._task, name, cell) for name, cell in named.items()}

    def _json_lines(self) -> Iterator[tuple[int, Fields | BadLine]]:
        for text in self._texts():
            line = self._count_ahead()
            if not text.strip():
                continue
            raw = text.encode("utf-8", "surrogatepass")
            try:
                value = read_json(raw, bytes_max=COMMAND_BYTES_MAX, levels_max=LEVELS_MAX)
            except NotJson as error:
                yield line, BadLine(str(error))
            else:
                yield line, value if isinstance(value, dict) else BadLine("not a JSON object")

    def _command(self, fields: Fields) -> ProducerCommand | BadLine:
        default = {} if self._account is None else {"account_id": self._account}
        content = json.dumps([self._task, {**default, **fields}], sort_keys=True)
        default["command_id"] = hashlib.sha256(content.encode()).hexdigest()[:ID_DIGITS]
        try:
            return COMMANDS[self._task].model_validate({**default, **fields})
        except ValidationError as error:
            return BadLine("; ".join(_problems(error, fields, self._task)))


def _read_header(rows: Iterator[list[str]], task: str) -> list[str]:
    """Return the names of the columns. A column may have no name if its cells are empty."""
    try:
        names = [name.strip() for name in next(rows, [])]
    except csv.Error as error:
        raise Unusable(f"its header can't be read: {_csv_problem(error)}") from None
    fields, count = COMMANDS[task].model_fields, Counter(names)
    unknown = [number for number, name in enumerate(names, 1) if name and name not in fields]
    if unknown:
        are, wrong = "are no fields", ""
        if len(unknown) == 1:
            are, wrong = "is no field", names[unknown[0] - 1]
        known = suggestion(wrong, (name for name in fields if name != "command"))
        raise Unusable(f"{_columns(unknown)} of the header {are} of {task}{known}")
    repeated = [number for number, name in enumerate(names, 1) if name and count[name] > 1]
    if repeated:
        raise Unusable(f"{_columns(repeated)} of the header name a field more than once")
    return names


def _columns(numbers: Sequence[int]) -> str:
    *most, last = [f"{number}" for number in numbers[:COLUMNS_NAMED_MAX]]
    if len(numbers) > COLUMNS_NAMED_MAX:
        most, last = [*most, last], f"{len(numbers) - COLUMNS_NAMED_MAX:,} more"
    return f"columns {', '.join(most)} and {last}" if most else f"column {last}"


def _csv_problem(error: csv.Error) -> str:
    # The text for this case is about the mode in which Python opened the file.
    return "a CR without an LF" if "new-line character" in str(error) else str(error)


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
