"""`card-worker send-file`: a command for each line of a file, however long it is, once each."""

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeAlias

import typer
from pydantic import ValidationError

from card_worker.cli.console import AsJson, err, out, print_json, refuse
from card_worker.cli.send import value_of
from card_worker.contracts.commands import COMMANDS, Asked
from card_worker.contracts.message import COMMAND_BYTES_MAX, LEVELS_MAX, problems_of
from card_worker.contracts.strict_json import NotJson, read_json
from card_worker.settings import load_settings

TOGETHER = 1_000
ID_DIGITS = 32
PIECE = 1024 * 1024

Fields: TypeAlias = dict[str, Any]


class BadLine(Exception):
    """A line that no command can be made of. Its text says why, and never what stands in it."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far into a file, and what came of it so far. `digest` is that of all before."""

    bytes: int = 0
    lines: int = 0
    sent: int = 0
    bad: int = 0
    digest: str = ""


def send_file(
    file: Annotated[
        Path,
        typer.Argument(help="CSV with a header, or JSON lines.", exists=True, dir_okay=False),
    ],
    *,
    task: Annotated[str, typer.Option(help="What each line asks for.")] = "cards.activate",
    account: Annotated[
        str | None, typer.Option("--account", "-a", help="The tenant, where a line names none.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="From the beginning, though it was sent before.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send a command for each line of a file. Lines that are no commands are told and left out.

    How far it came stands in FILE.sent: run it again after a crash, and it goes on there. A line
    without a command_id gets one from what stands in it, so the same line is the same command
    whenever it is sent, and nothing is done twice.

    Exit 1 when there were lines that could not be sent.
    """
    if task not in COMMANDS:
        raise refuse(f"there is no command {task}; there are {', '.join(COMMANDS)}", code=2)
    with file.open("rb") as opened:
        source = _Source(opened, task, account, is_csv=file.suffix.lower() == ".csv")
        began = Place() if again else _noted(file)
        if not source.go_on(began):
            raise refuse(f"{file} is not what it was when {began.lines} lines of it were sent")
        place = _send(file, source, began)
    told = asdict(place)
    if as_json:
        print_json({name: told[name] for name in ("lines", "sent", "bad")})
    else:
        before = f" ({began.sent:,} of them before)" if began.sent else ""
        out.print(f"{place.sent:,} commands sent{before}; {place.bad:,} lines could not be.")
    if place.bad:
        raise typer.Exit(1)


def _send(file: Path, source: "_Source", place: Place) -> Place:
    """Send what is left of a file, and note after each step how far it came."""
    from rich.progress import Progress, TimeRemainingColumn, TransferSpeedColumn

    from card_worker.client import Client

    columns = *Progress.get_default_columns()[:3], TransferSpeedColumn(), TimeRemainingColumn()
    with Client(load_settings().broker()) as client, Progress(*columns, console=err) as bar:
        shown = bar.add_task(file.name, total=file.stat().st_size, completed=place.bytes)
        records = source.commands()
        while part := list(islice(records, TOGETHER)):
            commands = [command for _, command in part if not isinstance(command, BadLine)]
            client.send_list(commands)
            for line, command in part:
                if isinstance(command, BadLine):
                    bar.console.print(f"line {line}: {command}", markup=False)
            bad = len(part) - len(commands)
            place = source.place(sent=place.sent + len(commands), bad=place.bad + bad)
            _note(file, place)
            bar.update(shown, completed=place.bytes)
    return place


class _Source:
    """A file, read line by line; it knows how far."""

    def __init__(self, file: BinaryIO, task: str, account: str | None, *, is_csv: bool) -> None:
        self._file, self._task, self._account = file, task, account
        self._bytes, self._line = 0, 0
        self._digest = hashlib.sha256()
        self._rows = csv.reader(self._texts()) if is_csv else None
        self._header: list[str] = []
        if self._rows is not None:
            self._header = [name.strip() for name in next(self._rows, [])]

    def go_on(self, place: Place) -> bool:
        """Pass over what came before `place`; false when that isn't what it was."""
        if place.bytes == 0:
            return True
        while self._bytes < place.bytes:
            piece = self._file.read(min(PIECE, place.bytes - self._bytes))
            if not piece:
                return False
            self._take(piece)
        self._line = place.lines
        return self._digest.hexdigest() == place.digest

    def place(self, *, sent: int, bad: int) -> Place:
        """Return how far it has been read."""
        return Place(self._bytes, self._line, sent, bad, self._digest.hexdigest())

    def commands(self) -> Iterator[tuple[int, Asked | BadLine]]:
        """Yield what each line asks for, or why it asks for nothing, with the line's number."""
        records = self._csv_fields() if self._rows is not None else self._json_fields()
        for fields in records:
            try:
                yield self._line, self._command(fields)
            except BadLine as reason:
                yield self._line, reason

    def _take(self, raw: bytes) -> None:
        self._bytes += len(raw)
        self._digest.update(raw)

    def _texts(self) -> Iterator[str]:
        for raw in self._file:
            self._take(raw)
            self._line += 1
            yield raw.decode("utf-8-sig" if self._line == 1 else "utf-8", "surrogateescape")

    def _csv_fields(self) -> Iterator[Fields | BadLine]:
        assert self._rows is not None
        while True:
            try:
                cells = next(self._rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadLine(str(error))
                continue
            if len(cells) > len(self._header):
                yield BadLine(f"{len(cells)} cells, where the header has {len(self._header)}")
            elif any(cells):
                named = zip(self._header, cells, strict=False)
                yield {name: value_of(self._task, name, cell) for name, cell in named if cell}

    def _json_fields(self) -> Iterator[Fields | BadLine]:
        for text in self._texts():
            if not text.strip():
                continue
            raw = text.encode("utf-8", "surrogateescape")
            try:
                fields = read_json(raw, bytes_max=COMMAND_BYTES_MAX, levels_max=LEVELS_MAX)
            except NotJson as reason:
                yield BadLine(str(reason))
                continue
            yield fields if isinstance(fields, dict) else BadLine("not a JSON object")

    def _command(self, fields: Fields | BadLine) -> Asked:
        if isinstance(fields, BadLine):
            raise fields
        if self._account is not None:
            fields = {"account_id": self._account, **fields}
        said = json.dumps([self._task, fields], sort_keys=True)
        fields.setdefault("command_id", hashlib.sha256(said.encode()).hexdigest()[:ID_DIGITS])
        try:
            return COMMANDS[self._task].model_validate(fields)
        except ValidationError as error:
            problems = (f"{one.field}: {one.message}" for one in problems_of(error))
            raise BadLine("; ".join(problems)) from None


def _noted(file: Path) -> Place:
    note = _note_of(file)
    if not note.exists():
        return Place()
    try:
        return Place(**json.loads(note.read_text()))
    except (ValueError, TypeError):
        raise refuse(f"{note} can't be read: remove it, or use --again") from None


def _note(file: Path, place: Place) -> None:
    beside = _note_of(file).with_suffix(".writing")
    beside.write_text(json.dumps(asdict(place)))
    beside.replace(_note_of(file))


def _note_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.sent")
