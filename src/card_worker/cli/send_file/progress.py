"""The progress of sending a file, stored beside it in FILE.sent.

Nothing secret is stored: no content of lines, and no login of the broker.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from card_worker.cli.console import refuse
from card_worker.cli.files import replace_file
from card_worker.redis_url import RedisAddress

DIGEST_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Progress:
    """What was sent of a file and answered, and to whom it was sent.

    `account` is that of lines that name none. `broker` is a digest of its address. `sending` is the
    identity of the sending, from which command_ids derive. `digest` is the SHA-256 of the first
    `bytes`.
    """

    task: str
    account: str | None
    broker: str
    sending: str
    has_begun: bool = False
    """Whether anything may have been sent, also after the first `bytes`."""
    bytes: int = 0
    lines: int = 0
    digest: str = ""
    sent: int = 0
    bad: int = 0
    """Number of lines that could not be sent."""
    done: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    """Number of commands by the reason for which they were refused."""
    unanswered: int = 0
    refused_bytes: int = 0
    refused_digest: str = ""
    """How much was written into the file of refused lines, and its SHA-256."""


class ProgressFile:
    """The file FILE.sent. Its errors are printed and end the command."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._path = file.with_name(f"{file.name}.sent")

    def read(self, start: Progress) -> Progress:
        """Return the stored progress, or `start`; refuse a file that was sent to another target."""
        try:
            stored = TypeAdapter(Progress).validate_json(self._path.read_bytes(), strict=True)
        except FileNotFoundError:
            return start
        except (OSError, ValidationError) as error:
            reason = getattr(error, "strerror", "it is not what this version writes")
            raise refuse(
                f"{self._path} can't be read: {reason}. To send all of the file, use --again;"
                " each line is then a new command"
            ) from None
        before = [
            f"{name} {getattr(stored, name) or 'none'}"
            for name in ("task", "account", "broker")
            if getattr(stored, name) != getattr(start, name)
        ]
        if before and not stored.has_begun:
            return start
        if before:
            raise refuse(
                f"{self._file} was sent before with {', '.join(before)}. Nothing is sent now; to"
                " send all of it, use --again: each line is then a new command"
            )
        return stored

    def write(self, progress: Progress) -> None:
        try:
            replace_file(self._path, json.dumps(asdict(progress)))
        except OSError as error:
            raise refuse(f"{self._path} can't be written: {error.strerror}") from None


def broker_digest(broker: RedisAddress) -> str:
    """Return a digest of a broker's address and database, without the login."""
    return hashlib.sha256(broker.broker_url.encode()).hexdigest()[:DIGEST_DIGITS]
