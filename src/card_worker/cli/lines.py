"""The lines of a file: each is the command that it asks for, or why it asks for nothing."""

import csv
import hashlib
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, TypeAlias

from pydantic import ValidationError

from card_worker.cli.send import value_of
from card_worker.cli.sent import Place
from card_worker.contracts.commands import COMMANDS, Asked
from card_worker.contracts.message import COMMAND_BYTES_MAX, LEVELS_MAX, problems_of
from card_worker.contracts.strict_json import NotJson, read_json

ID_DIGITS = 32
PIECE = 1024 * 1024

Fields: TypeAlias = dict[str, Any]


class BadLine(Exception):
    """A line that no command can be made of. Its text says why, and never what stands in it."""


class Lines:
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
