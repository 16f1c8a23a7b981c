"""How far a file has been sent, as what, for whom and where to: the note FILE.sent.

Nothing secret stands in it: not what the lines say, nor how one gets into the broker.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from card_worker.cli.console import refuse
from card_worker.redis_url import RedisAddress

DIGEST_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Place:
    """How far into a file, and what came of it so far. `digest` is that of all before."""

    bytes: int = 0
    lines: int = 0
    sent: int = 0
    bad: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Sending:
    """What each line asks for, the account where a line names none, and a digest of the broker."""

    task: str
    account: str | None
    broker: str


class Note:
    """What stands beside a file. Each fault of it is one line, and raises Exit."""

    def __init__(self, file: Path, sending: Sending) -> None:
        self._file, self._sending = file, sending
        self._path = file.with_name(f"{file.name}.sent")
        self._beside = file.with_name(f"{file.name}.writing")

    def read(self) -> Place:
        """Return how far the file has been sent in this way. Refuses what was sent in another."""
        try:
            raw = self._path.read_bytes()
            place = TypeAdapter(Place).validate_json(raw, strict=True)
            before = TypeAdapter(Sending).validate_json(raw, strict=True)
        except FileNotFoundError:
            return Place()
        except OSError as error:
            raise refuse(f"{self._path} can't be read: {error.strerror}") from None
        except ValidationError:
            raise refuse(
                f"{self._path} can't be read, or was written by an older version: send the file"
                " from its beginning with --again; what was done isn't done twice"
            ) from None
        # Where none of it is noted as sent, all of it is sent, in whichever way.
        if place.bytes and before != self._sending:
            how = "; ".join(_differences(before, self._sending))
            raise refuse(
                f"{self._file} has been sent before {how}: nothing of it is sent now. To send all"
                " of it, use --again"
            )
        return place

    def write(self, place: Place) -> None:
        """Note how far it came: all of it or nothing."""
        try:
            self._beside.write_text(json.dumps(asdict(place) | asdict(self._sending)))
            self._beside.replace(self._path)
        except OSError as error:
            raise refuse(f"{self._path} can't be written: {error.strerror}") from None


def broker_digest(broker: RedisAddress) -> str:
    """Return what tells one broker from another: its place and database, without the login."""
    return hashlib.sha256(broker.broker_url.encode()).hexdigest()[:DIGEST_DIGITS]


def _differences(before: Sending, now: Sending) -> Iterator[str]:
    if before.task != now.task:
        yield f"as {before.task}, not as {now.task}"
    if before.account != now.account:
        yield f"for {_account(before)}, not for {_account(now)}"
    if before.broker != now.broker:
        yield "to another broker"


def _account(sending: Sending) -> str:
    return sending.account or "the accounts in its lines"
