"""`card-worker dead-letters`: what could not be read or done, and what becomes of it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from card_worker.cli.codes import identities_in
from card_worker.cli.console import AsJson, database, looking, out, print_json, refuse, table
from card_worker.secrets.sealing import NotOpened
from card_worker.settings import load_settings
from card_worker.storage import dead_letters, starts
from card_worker.storage.dead_letters import DeadLetter
from card_worker.storage.engine import begin
from card_worker.worker.messages import start_key

app = typer.Typer(help="What could not be read or done.", no_args_is_help=True)

NUMBER_MAX = 2**63 - 1
LetterId = Annotated[
    int, typer.Argument(min=1, max=NUMBER_MAX, help="The letter's number, as list shows it.")
]


@app.command("list")
def list_letters(
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Those that were requeued or dropped.")
    ] = False,
    limit: Annotated[
        int, typer.Option(min=1, max=10_000, help="At most so many, the newest.")
    ] = 50,
    as_json: AsJson = False,
) -> None:
    """List the letters that wait for an operator, without their bodies."""
    with looking() as connection:
        letters = dead_letters.list_letters(connection, resolved=resolved, letters_max=limit)
    if as_json:
        for letter in letters:
            told = _told(letter)
            del told["body"], told["headers"], told["detail"]
            print_json(told)
        return
    rows = [(letter.id, letter.received_at, letter.task, letter.explanation) for letter in letters]
    out.print(table(f"{len(rows)} dead letters", "id>", "received", "task", "reason", rows=rows))


@app.command()
def show(letter: LetterId, as_json: AsJson = False) -> None:
    """Show one letter with the message as it came."""
    with looking() as connection:
        found = dead_letters.find(connection, letter)
    if found is None:
        raise refuse(f"there is no dead letter {letter}")
    if as_json:
        print_json(_told(found))
        return
    out.print(table(f"Dead letter {letter}", "", "", rows=_told(found).items()))


@app.command()
def requeue(
    letter: LetterId,
    identity: Annotated[
        Path | None,
        typer.Option(
            help="A file with your age identity, for a letter with secrets.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Put the message on its queue once more. What was done of it before isn't done again."""
    from card_worker.client import Client

    settings = load_settings()
    with database() as engine:
        with looking() as connection:
            found = _waiting(dead_letters.find(connection, letter), letter)
        found = _whole(found, identity)
        if found.is_cut:
            raise refuse("its headers are too large to be read: its sender has to send it again")
        if found.message_id is not None:
            with begin(engine) as (connection, _):
                key = start_key(found.message_id, found.body)
                starts.forget_starts(connection, [key])
        # Published first: if we die in between it is sent twice, never lost.
        with Client(settings.broker()) as client:
            client.republish(
                found.body,
                queue=found.queue,
                headers=_headers(found),
                content_type=found.content_type,
                content_encoding=found.content_encoding,
            )
        with begin(engine) as (connection, now):
            # The worker may have found it wanting again already; then it waits again.
            dead_letters.resolve(
                connection, letter, now, "requeued", as_received_at=found.received_at
            )
    out.print(f"dead letter {letter} is on its queue again")


@app.command()
def drop(letter: LetterId) -> None:
    """Set the letter aside for good. The row stays, with what was done and when.

    An entry that was too large to be read, and is still kept in Redis, is deleted there.
    """
    with database() as engine:
        with looking() as connection:
            found = _waiting(dead_letters.find(connection, letter), letter)
        if found.aside_key:
            _delete_aside(found.aside_key)
        with begin(engine) as (connection, now):
            if not dead_letters.resolve(connection, letter, now, "dropped"):
                raise refuse(f"no dead letter {letter} is waiting")
    out.print(f"dead letter {letter} is dropped")


def _delete_aside(key: str) -> None:
    from card_worker.sinks import connect

    with connect(load_settings().broker()) as redis:
        redis.unlink(key)


def _waiting(found: DeadLetter | None, letter: int) -> DeadLetter:
    if found is None or found.resolved_at is not None:
        raise refuse(f"no dead letter {letter} is waiting")
    return found


def _whole(found: DeadLetter, identity: Path | None) -> DeadLetter:
    """Return the letter as it came, its secrets as well."""
    if found.aside_key is not None:
        raise refuse("the entry is too large to be read: its sender has to send less at a time")
    if not found.is_masked:
        return found
    if found.sealed is None:
        raise refuse("the secrets in it were not kept: its sender has to send it again")
    if identity is None:
        raise refuse("the secrets in it are sealed: give the --identity that opens them")
    try:
        return dead_letters.open_letter(found, identities_in(identity))
    except NotOpened as reason:
        raise refuse(str(reason)) from None


def _headers(letter: DeadLetter) -> dict[str, Any]:
    if letter.headers is not None:
        return dict(letter.headers)
    # Celery ran it by itself, so these two say all that its headers did.
    return {"lang": "py", "task": letter.task, "id": letter.message_id}


def _told(letter: DeadLetter) -> dict[str, Any]:
    told = {**asdict(letter), "body": letter.body.decode(errors="backslashreplace")}
    told["sealed"] = letter.sealed is not None
    told["message"] = letter.reason.text
    return told
