"""The lines of a file: each is the command that it asks for, or why it asks for nothing.

What stands in a line may be a token or a PIN, in a wrong place too: lines, columns and unknown
fields are told by their number.
"""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, TypeAlias

from pydantic import ValidationError

from card_worker.cli.send import value_of
from card_worker.cli.send_file.progress import Place
from card_worker.contracts.commands import COMMANDS, ProducerCommand
from card_worker.contracts.envelope import LEVELS_MAX
from card_worker.contracts.json_text import NotJson, read_json
from card_worker.contracts.message import COMMAND_BYTES_MAX, problems_of

ID_DIGITS = 32
PIECE = 1024 * 1024
COLUMNS_TOLD = 10

Fields: TypeAlias = dict[str, Any]


class BadLine(Exception):
    """A line that no command can be made of. Its text says why, and never what stands in it."""


class Unusable(Exception):
    """A file that can't be sent, or not be gone on with. Its text says why."""


class Lines:
    """A file, read line by line; it knows how far.

    Where a quote of a CSV isn't closed, nobody can tell where the next line begins: what follows
    may be a text that looks like lines. There the lines end, and `open_quote` says where and why.

    Raises Unusable when the header of a CSV is.
    """

    def __init__(self, file: BinaryIO, task: str, account: str | None, *, is_csv: bool) -> None:
        self.open_quote: tuple[int, str] | None = None
        self._file, self._task, self._account = file, task, account
        self._bytes, self._line, self._is_ended = 0, 0, True
        self._digest = hashlib.sha256()
        # What was read and isn't counted yet: a line, or several with their ends within quotes.
        self._ahead: list[bytes] = []
        self._rows = csv.reader(self._texts(), strict=True) if is_csv else None
        self._header: Sequence[str] = ()
        if self._rows is not None:
            self._header = _header(self._rows, task)
            self._count()

    def go_on(self, place: Place) -> None:
        """Pass over what came before `place`. Raises Unusable when that isn't what it was."""
        if place.bytes == 0:
            return
        while self._bytes < place.bytes:
            piece = self._file.read(min(PIECE, place.bytes - self._bytes))
            if not piece:
                break
            self._take(piece)
        if self._digest.hexdigest() != place.digest:
            raise Unusable(f"it is not what it was when {place.lines} lines of it were sent")
        self._line = place.lines
        if not self._is_ended:
            self._end_line()

    def place(self, *, sent: int, bad: int) -> Place:
        """Return how far it has been read."""
        return Place(self._bytes, self._line, sent, bad, self._digest.hexdigest())

    def commands(self) -> Iterator[tuple[int, ProducerCommand | BadLine]]:
        """Yield what each line asks for, or why it asks for nothing, with the line's number."""
        records = self._csv_fields() if self._rows is not None else self._json_fields()
        for line, fields in records:
            try:
                yield line, self._command(fields)
            except BadLine as reason:
                yield line, reason

    def _take(self, raw: bytes) -> None:
        self._bytes += len(raw)
        self._digest.update(raw)
        self._is_ended = raw.endswith(b"\n")

    def _count(self) -> int:
        """Count what was read ahead; return the number of its first line."""
        first = self._line + 1
        self._take(b"".join(self._ahead))
        self._line += len(self._ahead)
        self._ahead.clear()
        return first

    def _end_line(self) -> None:
        """Pass over the end of a line that was sent before it had one."""
        rest = self._file.readline()
        if rest.strip(b"\r\n"):
            raise Unusable(
                f"its line {self._line} was sent when it was the last and had no end, and goes on"
                " now: it is not what it was"
            )
        self._take(rest)

    def _texts(self) -> Iterator[str]:
        for raw in self._file:
            encoding = "utf-8" if self._line or self._ahead else "utf-8-sig"
            self._ahead.append(raw)
            yield raw.decode(encoding, "surrogateescape")
            if not raw.endswith(b"\n"):
                return  # what somebody writes behind it from now on belongs to this line

    def _csv_fields(self) -> Iterator[tuple[int, Fields | BadLine]]:
        assert self._rows is not None
        while True:
            try:
                cells, wrong = next(self._rows), ""
            except StopIteration:
                return
            except csv.Error as error:
                cells, wrong = [], _in_words(error)
            if self._is_open(wrong):
                self.open_quote = self._line + 1, wrong or "an odd number of quotes"
                return
            line = self._count()
            if wrong:
                yield line, BadLine(wrong)
            elif len(cells) > len(self._header) or any(cells):
                yield line, self._named(cells)

    def _is_open(self, wrong: str) -> bool:
        """Say whether a quote may be open at the end of what was read ahead."""
        is_long = len(self._ahead) > 1
        if not wrong and not is_long:
            return False  # nor is one that stands within a cell without quotes
        is_odd = sum(raw.count(b'"') for raw in self._ahead) % 2 == 1
        return is_odd or (is_long and bool(wrong))

    def _named(self, cells: Sequence[str]) -> Fields | BadLine:
        if len(cells) > len(self._header):
            return BadLine(f"{len(cells)} cells, where the header has {len(self._header)}")
        named = [one for one in zip(self._header, cells, strict=False) if one[1]]
        if not all(name for name, _ in named):
            return BadLine("a cell in a column that has no name")
        return {name: value_of(self._task, name, cell) for name, cell in named}

    def _json_fields(self) -> Iterator[tuple[int, Fields | BadLine]]:
        for text in self._texts():
            line = self._count()
            if not text.strip():
                continue
            raw = text.encode("utf-8", "surrogateescape")
            try:
                fields = read_json(raw, bytes_max=COMMAND_BYTES_MAX, levels_max=LEVELS_MAX)
            except NotJson as reason:
                yield line, BadLine(str(reason))
                continue
            yield line, fields if isinstance(fields, dict) else BadLine("not a JSON object")

    def _command(self, asked: Fields | BadLine) -> ProducerCommand:
        if isinstance(asked, BadLine):
            raise asked
        fields = asked if self._account is None else {"account_id": self._account, **asked}
        said = json.dumps([self._task, fields], sort_keys=True)
        command_id = hashlib.sha256(said.encode()).hexdigest()[:ID_DIGITS]
        try:
            return COMMANDS[self._task].model_validate({"command_id": command_id, **fields})
        except ValidationError as error:
            raise BadLine("; ".join(_problems(error, asked, self._task))) from None


def _header(rows: Iterator[list[str]], task: str) -> list[str]:
    """Return what the columns are called. One without a name may be there, if it stays empty."""
    try:
        names = [name.strip() for name in next(rows, [])]
    except csv.Error as error:
        raise Unusable(f"its header can't be read: {_in_words(error)}") from None
    fields, times = COMMANDS[task].model_fields, Counter(names)
    unknown = [place for place, name in enumerate(names, 1) if name and name not in fields]
    if unknown:
        known = ", ".join(name for name in fields if name != "command")
        are = "are no fields" if len(unknown) > 1 else "is no field"
        raise Unusable(f"{_columns(unknown)} of the header {are} of {task}; there are {known}")
    repeated = [place for place, name in enumerate(names, 1) if name and times[name] > 1]
    if repeated:
        raise Unusable(f"{_columns(repeated)} of the header name a field more than once")
    return names


def _columns(places: Sequence[int]) -> str:
    *most, last = [f"{place}" for place in places[:COLUMNS_TOLD]]
    if len(places) > COLUMNS_TOLD:
        most, last = [*most, last], f"{len(places) - COLUMNS_TOLD:,} more"
    return f"columns {', '.join(most)} and {last}" if most else f"column {last}"


def _in_words(error: csv.Error) -> str:
    # Its own words ask how the program has opened the file.
    return "a CR that no LF follows" if "new-line character" in str(error) else str(error)


def _problems(error: ValidationError, asked: Fields, task: str) -> Iterator[str]:
    """Yield what is wrong with the fields of a line. A name that isn't known isn't told."""
    found = error.errors(include_input=False, include_url=False)
    unknown = {
        ".".join(map(str, one["loc"])): one["loc"]
        for one in found
        if one["type"] == "extra_forbidden"
    }
    for problem in problems_of(error):
        *inside, name = unknown.get(problem.field, (problem.field,))
        if problem.field not in unknown:
            yield f"{name}: {problem.message}"
        elif inside:
            yield f"{'.'.join(map(str, inside))}: has a field that isn't known"
        else:
            yield f"its field {list(asked).index(str(name)) + 1} is none of {task}"
