"""`card-worker send-file`: send a command for each line of a file of any length."""

import fcntl
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from rich.progress import TaskProgressColumn, TimeRemainingColumn, TransferSpeedColumn
from typer import Argument, Exit, Option, Typer

from card_worker.cli.connections import open_client
from card_worker.cli.console import (
    AsJson,
    err,
    out,
    plural,
    print_json,
    progress_bar,
    refuse,
    visible,
)
from card_worker.cli.send_file.progress import Progress, ProgressFile, broker_digest
from card_worker.cli.send_file.reader import BadLine, Reader, Unusable
from card_worker.contracts.commands import COMMANDS
from card_worker.settings import load_settings
from card_worker.wording import suggestion

app = Typer()

LINES_PER_STEP = 1_000


@app.command()
def send_file(
    file: Annotated[
        Path, Argument(help="CSV with a header, or JSON lines.", exists=True, dir_okay=False)
    ],
    *,
    task: Annotated[str, Option(help="The command of each line.")] = "cards.activate",
    account: Annotated[
        str | None, Option("--account", "-a", help="The account of lines that name none.")
    ] = None,
    again: Annotated[bool, Option("--again", help="Send the file from its beginning.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send a command for each line of a file. Invalid lines are reported and left out.

    The progress is stored in FILE.sent. After an interruption, run the same command again: it
    continues there, with the same task, account and broker. A line without a command_id gets one
    that follows from its content, so that a line that is sent twice is done once. The command stops
    at a quote of a CSV file that is not closed, and continues there when it is corrected.

    Exit 1 when there were lines that could not be sent.
    """
    if task not in COMMANDS:
        raise refuse(f"there is no command {task}{suggestion(task, COMMANDS)}", code=2)
    if not file.is_file():
        raise refuse(f"{file} can't be read twice: write it to a regular file first", code=2)
    start = Progress(task, account, broker_digest(load_settings().broker()))
    progress_file = ProgressFile(file)
    with file.open("rb") as opened:
        if not _lock(opened):
            raise refuse(f"{file} is being sent by another send-file, or is locked")
        try:
            reader = Reader(opened, task, account, is_csv=file.suffix.lower() == ".csv")
            begin = start if again else progress_file.read(start)
            reader.skip(begin)
        except Unusable as error:
            raise refuse(f"{file}: {error}") from None
        # If the progress can't be stored, this fails before anything is sent.
        progress_file.write(begin)
        end = _send(file, reader, progress_file, begin)
    _report(begin, end, reader.open_quote, as_json=as_json)


def _lock(opened: BinaryIO) -> bool:
    """Lock the file until it is closed; return False if another process has locked it."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # A file system may have no locks. Two processes would send lines twice, which is harmless.
        return not isinstance(error, BlockingIOError)
    return True


def _send(file: Path, reader: Reader, progress_file: ProgressFile, progress: Progress) -> Progress:
    """Send the rest of a file; store the progress after each step."""
    columns = (TaskProgressColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with open_client() as client, progress_bar(*columns) as bar:
        total = file.stat().st_size
        bar_task = bar.add_task(visible(file.name), total=total, completed=progress.bytes)
        lines = reader.commands()
        while step := list(islice(lines, LINES_PER_STEP)):
            commands = [command for _, command in step if not isinstance(command, BadLine)]
            client.send_list(commands)
            for line, command in step:
                if isinstance(command, BadLine):
                    bar.console.print(f"line {line}: {command}")
            sent, bad = progress.sent + len(commands), progress.bad + len(step) - len(commands)
            progress = replace(progress, **reader.position(), sent=sent, bad=bad)
            progress_file.write(progress)
            bar.update(bar_task, completed=progress.bytes)
    return progress


def _report(
    begin: Progress, end: Progress, open_quote: tuple[int, str] | None, *, as_json: bool
) -> None:
    """Print the result of all runs. Raises Exit if some lines could not be sent."""
    result: dict[str, Any] = {"lines": end.lines, "sent": end.sent, "bad": end.bad}
    if open_quote is not None:
        line, reason = open_quote
        # Not part of the stored progress: the line is read again when it is corrected.
        result |= {"bad": end.bad + 1, "stopped_at": line}
        err.print(
            f"line {line}: a quote that opens here is not closed ({reason}). Nothing from this"
            " line on was sent: correct the line, and run the command again"
        )
    if as_json:
        print_json(result)
    else:
        before = f" ({begin.sent:,} of them before)" if begin.sent else ""
        bad = plural(result["bad"], "line")
        out.print(f"{plural(end.sent, 'command')} sent{before}; {bad} could not be sent.")
    if result["bad"]:
        raise Exit(1)
