"""`card-worker send-file`: send a command for each line of a file of any length."""

import fcntl
from operator import itemgetter
from pathlib import Path
from typing import Annotated, BinaryIO
from uuid import uuid4

from rich.progress import MofNCompleteColumn, TimeRemainingColumn
from typer import Argument, Exit, Option, Typer

from card_worker.cli.connections import Key, open_client
from card_worker.cli.console import (
    TIMEOUT_S_MAX,
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
from card_worker.cli.send_file.reader import Reader
from card_worker.cli.send_file.refused import RefusedFile
from card_worker.cli.send_file.sender import Sender
from card_worker.cli.send_file.text import Unusable, read_text
from card_worker.contracts.commands import COMMANDS
from card_worker.settings import load_settings
from card_worker.wording import suggestion

app = Typer()

TIMEOUT_S = 120.0


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
    again: Annotated[
        bool, Option("--again", help="Send all of the file; each line is a new command.")
    ] = False,
    wait: Annotated[bool, Option("--wait/--no-wait", help="Wait for the answers.")] = True,
    timeout: Annotated[
        float, Option(min=0, max=TIMEOUT_S_MAX, help="Longest time without an answer, in seconds.")
    ] = TIMEOUT_S,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Send a command for each line of a file, and wait for the answers.

    Invalid lines are reported and not sent. They and the refused lines are written, with the
    reason, into a new file FILE.refused.… in the same format: correct them, and send that file.

    The progress is stored in FILE.sent. After an interruption, or if answers are missing, run it
    again without --again: it continues there, with the same task, account and broker, sends lines
    without an answer again, and does no line twice. The command stops at a quote of a CSV file that
    is not closed, and continues there when it is corrected.

    Exit 1 when a line was not sent, was refused or has no answer.
    """
    if task not in COMMANDS:
        raise refuse(f"there is no command {task}{suggestion(task, COMMANDS)}", code=2)
    file = file.resolve() if file.is_symlink() else file  # /dev/stdin has no place for other files
    if not file.is_file():
        raise refuse(f"{file} can't be read twice: write it to a regular file first", code=2)
    broker = broker_digest(load_settings().broker())
    progress = Progress(task, account, broker, sending=uuid4().hex)
    progress_file = ProgressFile(file)
    with file.open("rb") as opened:
        if not _lock(opened):
            raise refuse(f"{file} is being sent by another send-file, or is locked")
        if not again:
            progress = progress_file.read(progress)
        try:
            text = read_text(opened, file.suffix)
            reader = Reader(text, progress)
            refused_file = RefusedFile(file, text, reader.header, progress)
            # If the progress can't be stored, this fails before anything is sent.
            progress_file.write(progress)
            columns = MofNCompleteColumn(), TimeRemainingColumn()
            with open_client(key) as client, progress_bar(*columns) as bar:
                bar.add_task(visible(file.name), total=text.lines - reader.header_lines)
                files, timeout_s = (progress_file, refused_file), timeout if wait else None
                Sender(client, reader, progress, files, bar, timeout_s=timeout_s).send_all()
        except Unusable as error:
            raise refuse(f"{file}: {error}") from None
    _report(progress, reader.open_quote, refused_file.path, as_json=as_json)


def _lock(opened: BinaryIO) -> bool:
    """Lock the file until it is closed; return False if another process has locked it."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # A file system may have no locks. Two processes would send lines twice, under two
        # identities: the second is refused, or changes nothing, as a movement has its ref_id.
        return not isinstance(error, BlockingIOError)
    return True


def _report(
    progress: Progress,
    open_quote: tuple[int, str] | None,
    refused_file: Path,
    *,
    as_json: bool,
) -> None:
    """Print the result of all runs. Raises Exit if some lines were not done."""
    # A line with an open quote is no part of the stored progress: it is read again when corrected.
    bad = progress.bad + (open_quote is not None)
    refused, unanswered = progress.refused.total(), len(progress.unanswered)
    file = f"{refused_file}" if progress.refused_bytes else None
    if open_quote is not None:
        line, reason = open_quote
        err.print(
            f"line {line}: a quote that opens here is not closed ({reason}). Nothing from this"
            " line on was sent: correct the line, and run it again without --again"
        )
    if as_json:
        names = "lines", "sent", "unawaited", "done", "refused"
        counts = {name: getattr(progress, name) for name in names}
        stopped = {"stopped_at": open_quote[0]} if open_quote else {}
        print_json(counts | {"bad": bad, "unanswered": unanswered, "refused_file": file} | stopped)
    else:
        sent = plural(progress.sent, "command")
        out.print(f"{sent} sent; {plural(bad, 'line')} could not be sent.")
        if progress.unawaited:
            out.print(f"{progress.unawaited:,} sent without waiting for answers.")
        if progress.done or refused or unanswered:
            out.print(f"{progress.done:,} done, {refused:,} refused, {unanswered:,} unanswered.")
        for reason, count in sorted(progress.refused.items(), key=itemgetter(1), reverse=True):
            out.print(f"  {reason}: {count:,}")
        if file:
            out.print(f"To correct and send: {file}")
    if bad or refused or unanswered:
        raise Exit(1)
