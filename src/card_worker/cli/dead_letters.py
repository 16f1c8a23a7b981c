"""`card-worker dead-letters`: show, requeue and drop messages that could not be read or done."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from sqlalchemy import Engine
from typer import Argument, Exit, Option, Typer

from card_worker.cli.connections import database, open_client, read_only
from card_worker.cli.console import AsJson, out, plural, print_views, refuse, table
from card_worker.cli.opening import IDENTITY, read_identities
from card_worker.secrets.sealing import NotOpened
from card_worker.settings import load_settings
from card_worker.storage import dead_letters, starts
from card_worker.storage.dead_letters import DeadLetter
from card_worker.storage.engine import begin, reading
from card_worker.worker.messages import start_key

app = Typer(no_args_is_help=True)

NUMBER_MAX = 2**63 - 1
LetterId = Annotated[
    int, Argument(min=1, max=NUMBER_MAX, help="The number of the dead letter, from `list`.")
]


@app.command("list")
def list_letters(
    resolved: Annotated[
        bool, Option("--resolved", help="List those that were requeued or dropped.")
    ] = False,
    limit: Annotated[int, Option(min=1, max=10_000, help="Largest number of dead letters.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the dead letters that need an operator, without their messages; the newest first."""
    with read_only() as connection:
        letters = dead_letters.list_letters(connection, resolved=resolved, letters_max=limit)
    views = [_view(letter) for letter in letters]
    for view in views:
        del view["body"], view["headers"], view["detail"]
    rows = [(letter.id, letter.received_at, letter.task, letter.explanation) for letter in letters]
    columns = ("id>", "received", "task", "reason")
    print_views(
        views, table(plural(len(rows), "dead letter"), *columns, rows=rows), as_json=as_json
    )


@app.command()
def show(letter: LetterId, as_json: AsJson = False) -> None:
    """Show a dead letter with its message as it was received."""
    with read_only() as connection:
        found = dead_letters.find(connection, letter)
    if found is None:
        raise refuse(f"there is no dead letter {letter}")
    view = _view(found)
    title = f"Dead letter {letter}"
    print_views([view], table(title, "", "", rows=view.items()), as_json=as_json)


@app.command()
def requeue(letter: LetterId, identity: Annotated[Path | None, IDENTITY] = None) -> None:
    """Put the message on its queue again. Parts of it that were done before are not done twice."""
    with database() as engine:
        found = _with_secrets(_find_waiting(engine, letter), identity)
        if found.is_cut:
            raise refuse("its headers are too large to be read: the producer must send it again")
        with begin(engine) as (connection, _):
            dead_letters.begin_requeue(connection, found.id)
            if found.message_id is not None:
                key = start_key(found.message_id, found.body)
                starts.forget_starts(connection, [key])
        # Published first: after a crash in between it is published twice, and never lost.
        with open_client() as client:
            client.republish(
                found.body,
                queue=found.queue,
                headers=_headers(found),
                content_type=found.content_type,
                content_encoding=found.content_encoding,
            )
        with begin(engine) as (connection, now):
            # If a worker has already stored the message as a dead letter again, that one waits.
            dead_letters.resolve(
                connection, letter, now, "requeued", as_received_at=found.received_at
            )
    out.print(f"dead letter {letter} is on its queue again")


@app.command()
def drop(letter: LetterId) -> None:
    """Drop a dead letter. Its row is kept, with the decision and its time.

    If Redis still keeps an entry that was too large to be read, the entry is deleted there.
    """
    from card_worker.sinks import connect

    with database() as engine:
        found = _find_waiting(engine, letter)
        if found.aside_key:
            with connect(load_settings().broker()) as redis:
                redis.unlink(found.aside_key)
        with begin(engine) as (connection, now):
            if not dead_letters.resolve(connection, letter, now, "dropped"):
                raise _not_waiting(letter)
    out.print(f"dead letter {letter} is dropped")


def _find_waiting(engine: Engine, letter: int) -> DeadLetter:
    with reading(engine) as connection:
        found = dead_letters.find(connection, letter)
    if found is None or found.resolved_at is not None:
        raise _not_waiting(letter)
    return found


def _not_waiting(letter: int) -> Exit:
    return refuse(f"no dead letter {letter} is waiting")


def _with_secrets(letter: DeadLetter, identity: Path | None) -> DeadLetter:
    """Return the dead letter as it was received, with its secrets."""
    if letter.aside_key is not None:
        raise refuse("the entry is too large to be read: the producer must send less at a time")
    if not letter.is_masked:
        return letter
    if letter.sealed is None:
        raise refuse("its secrets were not kept: the producer must send it again")
    if identity is None:
        raise refuse("its secrets are encrypted: name your identity with --identity")
    try:
        return dead_letters.open_letter(letter, read_identities(identity))
    except NotOpened as error:
        raise refuse(str(error)) from None


def _headers(letter: DeadLetter) -> dict[str, Any]:
    if letter.headers is not None:
        return dict(letter.headers)
    # Celery ran the task by itself, outside our groups. A message needs no more than these.
    return {"lang": "py", "task": letter.task, "id": letter.message_id}


def _view(letter: DeadLetter) -> dict[str, Any]:
    view = {**asdict(letter), "body": letter.body.decode(errors="backslashreplace")}
    return {**view, "sealed": letter.sealed is not None, "message": letter.reason.text}
