"""The progress of sending a file, stored beside it in FILE.sent.

Nothing secret is stored: no content of lines, and no login of the broker.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from card_worker.cli.console import refuse
from card_worker.cli.files import replace_file
from card_worker.redis_url import RedisAddress

DIGEST_DIGITS = 16
NO_BYTES = hashlib.sha256().hexdigest()


@dataclass(slots=True)
class Progress:
    """What was sent of a file and answered, and to whom it was sent.

    `account` is that of lines that name none. `broker` is a digest of its address. `sending` is the
    identity of the sending, from which command_ids derive. `digest` is the SHA-256 of the first
    `lines` of the file, whatever their line ends.
    """

    task: str
    account: str | None
    broker: str
    sending: str
    lines: int = 0
    digest: str = NO_BYTES
    bad: int = 0
    """Number of lines that could not be sent."""
    unawaited: int = 0
    """Number of commands that were sent without waiting for their answers."""
    done: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Number of commands by the reason for which they were refused."""
    unanswered: set[int] = field(default_factory=set)
    """Numbers of the lines that may have been sent, and of whose answer nothing is stored."""
    refused_bytes: int = 0
    refused_digest: str = NO_BYTES
    """How much was written into the file of refused lines, and its SHA-256."""

    @property
    def sent(self) -> int:
        """Return how many commands may have been sent."""
        return self.unawaited + self.done + self.refused.total() + len(self.unanswered)


_STORED = TypeAdapter(Progress)


class ProgressFile:
    """The file FILE.sent. Its errors are printed and end the command."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._path = file.with_name(f"{file.name}.sent")

    def read(self, start: Progress) -> Progress:
        """Return the stored progress, or `start` if nothing was sent.

        Refuse a file that was sent to another target.
        """
        try:
            stored = _STORED.validate_json(self._path.read_bytes(), strict=True)
        except FileNotFoundError:
            return start
        except (OSError, ValidationError) as error:
            reason = getattr(error, "strerror", "it is not what this version writes")
            raise refuse(
                f"{self._path} can't be read: {reason}. Move it away, or use --again, which"
                " overwrites it. All of the file is then sent, and each line is a new command"
            ) from None
        before = [
            f"{name} {getattr(stored, name) or 'none'}"
            for name in ("task", "account", "broker")
            if getattr(stored, name) != getattr(start, name)
        ]
        if not stored.sent:
            return start
        if before:
            raise refuse(
                f"{self._file} was sent before with {', '.join(before)}, as {self._path} says."
                " Nothing is sent now; to send all of it, use --again: each line is then a new"
                " command"
            )
        return stored

    def write(self, progress: Progress) -> None:
        try:
            replace_file(self._path, _STORED.dump_json(progress).decode())
        except OSError as error:
            raise refuse(f"{self._path} can't be written: {error.strerror}") from None


def broker_digest(broker: RedisAddress) -> str:
    """Return a digest of a broker's address and database, without the login."""
    return hashlib.sha256(broker.broker_url.encode()).hexdigest()[:DIGEST_DIGITS]
