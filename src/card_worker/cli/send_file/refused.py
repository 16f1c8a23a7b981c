"""The file of refused lines: in the format of the file that was sent, ready to be corrected."""

import csv
import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from io import StringIO
from itertools import chain, compress, repeat
from pathlib import Path
from typing import Any, BinaryIO

from card_worker.cli.console import refuse
from card_worker.cli.files import file_errors
from card_worker.cli.send_file.progress import NO_BYTES, Progress
from card_worker.cli.send_file.reader import Content
from card_worker.cli.send_file.text import REASON, Text
from card_worker.contracts.json_text import write_json

SENDING_CHARS = 8
PIECE_BYTES = 1024 * 1024
NOT_KEPT = frozenset([REASON, "command_id"])
"""Columns and fields that a refused line doesn't keep: it is sent as a new command."""


class RefusedFile:
    """The file FILE.refused.…, which each sending has for itself. Only its owner can read it.

    It is made with the first refused line. Its errors are printed and end the command; that of a
    name that is too long before anything is sent.
    """

    def __init__(self, file: Path, text: Text, header: Sequence[str], progress: Progress) -> None:
        sending = progress.sending[:SENDING_CHARS]
        self.path = file.with_name(f"{file.name}.refused.{sending}{file.suffix}")
        self._text, self._header, self._progress = text, list(header), progress
        self._digest: Any = None  # the file was not looked at yet
        with file_errors(self.path), suppress(FileNotFoundError):
            self.path.lstat()

    def append(self, lines: Sequence[tuple[Content, str]]) -> None:
        """Write lines, each with its reason, and note in the progress what was written."""
        progress = self._progress
        with file_errors(self.path), open(self.path, "a+b", opener=_only_for_owner) as opened:
            if self._digest is None:
                self._continue(opened)
            with_header = not progress.refused_bytes
            raw = self._written(lines, with_header=with_header).encode(self._text.file.encoding)
            opened.write(raw)
        self._digest.update(raw)
        progress.refused_bytes += len(raw)
        progress.refused_digest = self._digest.hexdigest()

    def _written(self, lines: Sequence[tuple[Content, str]], *, with_header: bool) -> str:
        """Return lines as text. Content that can't be read is one text."""
        text, end = StringIO(newline=""), self._text.line_end
        if with_header:
            text.write(self._text.beginning)
        if self._text.delimiter is None:
            for content, reason in lines:
                fields = content if isinstance(content, dict) else {"#line": content}
                kept = {name: fields[name] for name in fields if name not in NOT_KEPT}
                text.write(write_json({REASON: reason, **kept}) + end)
            return text.getvalue()
        writer = csv.writer(text, delimiter=self._text.delimiter, lineterminator=end)
        kept_columns = [name.lower() not in NOT_KEPT for name in self._header]
        header = [(self._header, REASON)] if with_header else []
        for content, reason in [*header, *lines]:
            is_text = isinstance(content, str)
            cells = [content] if is_text else compress(content, chain(kept_columns, repeat(True)))
            writer.writerow([reason, *cells])
        return text.getvalue()

    def _continue(self, opened: BinaryIO) -> None:
        """Cut what was written after the stored progress."""
        progress, self._digest = self._progress, hashlib.sha256()
        if not opened.tell():  # it is new, or was moved away
            progress.refused_bytes, progress.refused_digest = 0, NO_BYTES
        opened.seek(0)
        left = progress.refused_bytes
        while piece := opened.read(min(PIECE_BYTES, left)):
            self._digest.update(piece)
            left -= len(piece)
        if self._digest.hexdigest() != progress.refused_digest:
            raise refuse(
                f"{self.path} was changed. Give it another name, and run it again without --again"
            )
        opened.truncate()


def _only_for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
