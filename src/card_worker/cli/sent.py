"""How far a file has been sent: what FILE.sent says."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from card_worker.cli.console import refuse


@dataclass(frozen=True, slots=True)
class Place:
    """How far into a file, and what came of it so far. `digest` is that of all before."""

    bytes: int = 0
    lines: int = 0
    sent: int = 0
    bad: int = 0
    digest: str = ""


def noted(file: Path) -> Place:
    note = _note_of(file)
    if not note.exists():
        return Place()
    try:
        return Place(**json.loads(note.read_text()))
    except (ValueError, TypeError):
        raise refuse(f"{note} can't be read: remove it, or use --again") from None


def note(file: Path, place: Place) -> None:
    beside = _note_of(file).with_suffix(".writing")
    beside.write_text(json.dumps(asdict(place)))
    beside.replace(_note_of(file))


def _note_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.sent")
