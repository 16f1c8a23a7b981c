"""`card-worker send-file`: a command for each line of a file, however long it is, once each."""

import fcntl
from itertools import islice
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from card_worker.cli.console import AsJson, err, out, print_json, refuse, visible
from card_worker.cli.send_file.progress import Note, Place, Sending, broker_digest
from card_worker.cli.send_file.reader import BadLine, Lines, Unusable
from card_worker.contracts.commands import COMMANDS
from card_worker.settings import load_settings

TOGETHER = 1_000


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

    How far it came stands in FILE.sent: run it again after a crash, and it goes on there, with the
    same task, account and broker. A line without a command_id gets one from what stands in it, so
    the same line is the same command whenever it is sent, and nothing is done twice. At a quote of
    a CSV that isn't closed it stops, and goes on there once that is mended.

    Exit 1 when there were lines that could not be sent.
    """
    if task not in COMMANDS:
        raise refuse(f"there is no command {task}; there are {', '.join(COMMANDS)}", code=2)
    if not file.is_file():
        raise refuse(f"{file} is no file that can be read again: write it to one first", code=2)
    note = Note(file, Sending(task, account, broker_digest(load_settings().broker())))
    with file.open("rb") as opened:
        if not _is_alone(opened):
            raise refuse(f"{file} is being sent by another send-file, or is locked")
        try:
            lines = Lines(opened, task, account, is_csv=file.suffix.lower() == ".csv")
            began = Place() if again else note.read()
            lines.go_on(began)
        except Unusable as why:
            raise refuse(f"{file}: {why}") from None
        # Whether that can be noted shows before anything is sent.
        note.write(began)
        place = _send(file, lines, note, began)
    _tell(place, began, lines.open_quote, as_json=as_json)


def _is_alone(opened: BinaryIO) -> bool:
    """Keep others from sending the file until it is closed; false when another one does so."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # The file system has no such locks. Two at once then send twice what is done once.
        return True
    return True


def _send(file: Path, lines: Lines, note: Note, place: Place) -> Place:
    """Send what is left of a file, and note after each step how far it came."""
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from card_worker.client import Client

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Client(load_settings().broker()) as client, Progress(*columns, console=err) as bar:
        shown = bar.add_task(visible(file.name), total=file.stat().st_size, completed=place.bytes)
        records = lines.commands()
        while part := list(islice(records, TOGETHER)):
            commands = [command for _, command in part if not isinstance(command, BadLine)]
            client.send_list(commands)
            for line, command in part:
                if isinstance(command, BadLine):
                    bar.console.print(f"line {line}: {command}")
            bad = len(part) - len(commands)
            place = lines.place(sent=place.sent + len(commands), bad=place.bad + bad)
            note.write(place)
            bar.update(shown, completed=place.bytes)
    return place


def _tell(place: Place, began: Place, open_quote: tuple[int, str] | None, *, as_json: bool) -> None:
    """Say what came of the file, before too. Raises Exit when not all of it could be sent."""
    told = {"lines": place.lines, "sent": place.sent, "bad": place.bad}
    if open_quote is not None:
        line, why = open_quote
        # Not noted: it is read again once it is mended.
        told |= {"bad": place.bad + 1, "stopped_at": line}
        err.print(
            f"line {line}: a quote that opens here isn't closed ({why}). Nothing from this line on"
            " was sent: mend it, and run this again"
        )
    if as_json:
        print_json(told)
    else:
        before = f" ({began.sent:,} of them before)" if began.sent else ""
        out.print(f"{place.sent:,} commands sent{before}; {told['bad']:,} lines could not be.")
    if told["bad"]:
        raise typer.Exit(1)
