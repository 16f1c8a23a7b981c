"""The file of refused lines: in the format of the file that was sent, ready to be corrected."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from card_worker.cli.console import refuse
from card_worker.cli.files import file_errors
from card_worker.cli.send_file.progress import Progress
from card_worker.cli.send_file.reader import Content, Reader

SENDING_CHARS = 8
PIECE_BYTES = 1024 * 1024


class RefusedFile:
    """The file FILE.refused.…, which each sending has for itself. Only its owner can read it.

    It is made with the first refused line. Its errors are printed and end the command.
    """

    def __init__(self, file: Path, progress: Progress, reader: Reader, encoding: str) -> None:
        sending = progress.sending[:SENDING_CHARS]
        self.path = file.with_name(f"{file.name}.refused.{sending}{file.suffix}")
        self._progress, self._reader, self._encoding = progress, reader, encoding
        self._digest = hashlib.sha256()
        self._bytes: int | None = None  # the file was not looked at yet

    def append(self, lines: Iterable[tuple[Content, str]]) -> dict[str, Any]:
        """Write lines, each with its reason; return the new fields of Progress."""
        with file_errors(self.path):
            if self._bytes is None:
                self._bytes = self._continue()
            text = "".join(self._reader.refused(content, reason) for content, reason in lines)
            if not self._bytes:
                text = self._reader.refused_beginning() + text
            raw = text.encode(self._encoding)
            with open(self.path, "ab", opener=_only_for_owner) as opened:
                opened.write(raw)
        self._bytes += len(raw)
        self._digest.update(raw)
        return {"refused_bytes": self._bytes, "refused_digest": self._digest.hexdigest()}

    def _continue(self) -> int:
        """Cut what was written after the stored progress; return how many bytes are left."""
        if not self.path.exists():  # or it was moved away
            return 0
        left = self._progress.refused_bytes
        with self.path.open("rb") as opened:
            while piece := opened.read(min(PIECE_BYTES, left)):
                self._digest.update(piece)
                left -= len(piece)
        if left or self._digest.hexdigest() != (self._progress.refused_digest or EMPTY):
            raise refuse(f"{self.path} was changed. Give it another name, and run this again")
        os.truncate(self.path, self._progress.refused_bytes)
        return self._progress.refused_bytes


EMPTY = hashlib.sha256().hexdigest()


def _only_for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
