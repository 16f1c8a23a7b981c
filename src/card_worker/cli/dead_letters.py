"""`card-worker dead-letters`: show, requeue and drop messages that could not be read or done."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from sqlalchemy import Engine
from typer import Argument, Exit, Option, Typer

from card_worker.cli.connections import database, open_client, read_only
from card_worker.cli.console import AsJson, err, out, plural, print_views, refuse, table
from card_worker.cli.opening import IDENTITY, read_identities
from card_worker.cli.times import read_time_option
from card_worker.contracts.dead_letters import DeadLetterReason
from card_worker.secrets.sealing import NotOpened
from card_worker.settings import load_settings
from card_worker.storage import dead_letters, starts
from card_worker.storage.dead_letters import DeadLetter, Which
from card_worker.storage.engine import begin, reading
from card_worker.worker.messages import start_key

if TYPE_CHECKING:
    from card_worker.client import Client

app = Typer(no_args_is_help=True)

NUMBER_MAX = 2**63 - 1
LETTER = Argument(min=1, max=NUMBER_MAX, help="The number of the dead letter, from `list`.")
LetterId = Annotated[int, LETTER]
WithReason = Annotated[
    DeadLetterReason | None, Option("--reason", help="Only those with this reason.")
]
WithTask = Annotated[str | None, Option("--task", help="Only messages for this task.")]
Since = Annotated[str | None, Option(help="Only those received at this time or later.")]
Before = Annotated[str | None, Option(help="Only those received before this time.")]
Resolved = Annotated[
    bool, Option("--resolved", help="Those that were requeued or dropped instead.")
]


class _NotResolved(Exception):
    """Why a dead letter is not requeued or dropped: one line."""


@app.command("list")
def list_letters(
    *,
    resolved: Resolved = False,
    reason: WithReason = None,
    task: WithTask = None,
    since: Since = None,
    before: Before = None,
    limit: Annotated[int, Option(min=1, max=10_000, help="Largest number of dead letters.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the dead letters that need an operator, without their messages; the newest first."""
    which = _which(reason, task, since, before)
    with read_only() as connection:
        letters = dead_letters.list_letters(
            connection, resolved=resolved, letters_max=limit, which=which
        )
    views = [_view(letter) for letter in letters]
    for view in views:
        del view["body"], view["headers"], view["detail"]
    rows = [(letter.id, letter.received_at, letter.task, letter.explanation) for letter in letters]
    columns = ("id>", "received", "task", "reason")
    print_views(
        views, table(plural(len(rows), "dead letter"), *columns, rows=rows), as_json=as_json
    )


@app.command()
def count(
    resolved: Resolved = False,
    task: WithTask = None,
    since: Since = None,
    before: Before = None,
    as_json: AsJson = False,
) -> None:
    """Count the dead letters that need an operator, by their reasons; the most frequent first."""
    which = _which(None, task, since, before)
    with read_only() as connection:
        counts = dead_letters.count_by_reason(connection, resolved=resolved, which=which)
    total = plural(sum(each.letters for each in counts), "dead letter")
    as_table = table(
        total, "reason", "dead letters>", "first received", "last received", rows=counts
    )
    print_views([each._asdict() for each in counts], as_table, as_json=as_json)


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
def requeue(
    letter: Annotated[int | None, LETTER] = None,
    *,
    all_: Annotated[
        bool, Option("--all", help="Requeue all that the other options select, the oldest first.")
    ] = False,
    reason: WithReason = None,
    task: WithTask = None,
    since: Since = None,
    before: Before = None,
    identity: Annotated[Path | None, IDENTITY] = None,
) -> None:
    """Put messages on their queues again. Parts of them that were done before are not done twice.

    Exit 1 if one of them can't be sent again.
    """
    which = _which(reason, task, since, before)
    if all_ == (letter is not None):
        raise refuse("name one dead letter, or --all", code=2)
    if which != dead_letters.ALL and not all_:
        raise refuse("--reason, --task, --since and --before need --all", code=2)
    identities = None if identity is None else read_identities(identity)
    if letter is not None:
        with database() as engine, open_client() as client:
            try:
                _requeue(engine, client, letter, identities)
            except _NotResolved as error:
                raise refuse(str(error)) from None
        out.print(f"dead letter {letter} is on its queue again")
        return
    sent = left = 0
    with database() as engine, open_client() as client:
        with reading(engine) as connection:
            ids = dead_letters.open_ids(connection, which)
        for id in ids:
            try:
                _requeue(engine, client, id, identities)
                sent += 1
            except _NotResolved as error:
                err.print(f"card-worker: dead letter {id}: {error}")
                left += 1
    out.print(f"{plural(sent, 'dead letter')} requeued, {left:,} not")
    if left:
        raise Exit(1)


def _requeue(engine: Engine, client: "Client", id: int, identities: Sequence[str] | None) -> None:
    """Put a message on its queue again. Raises _NotResolved."""
    found = _with_secrets(_find_waiting(engine, id), identities)
    if found.is_cut:
        raise _NotResolved("its headers are too large to be read: the producer must send it again")
    with begin(engine) as (connection, _):
        dead_letters.begin_requeue(connection, found.id)
        if found.message_id is not None:
            key = start_key(found.message_id, found.body)
            starts.forget_starts(connection, [key])
    # Published first: after a crash in between it is published twice, and never lost.
    client.republish(
        found.body,
        queue=found.queue,
        headers=_headers(found),
        content_type=found.content_type,
        content_encoding=found.content_encoding,
    )
    with begin(engine) as (connection, now):
        # If a worker has already stored the message as a dead letter again, that one waits.
        dead_letters.resolve(connection, id, now, "requeued", as_received_at=found.received_at)


@app.command()
def drop(letter: LetterId) -> None:
    """Drop a dead letter. Its row is kept, with the decision and its time.

    If Redis still keeps an entry that was too large to be read, the entry is deleted there.
    """
    from card_worker.sinks import connect

    with database() as engine:
        try:
            found = _find_waiting(engine, letter)
            if found.aside_key:
                with connect(load_settings().broker()) as redis:
                    redis.unlink(found.aside_key)
            with begin(engine) as (connection, now):
                if not dead_letters.resolve(connection, letter, now, "dropped"):
                    raise _not_waiting(letter)
        except _NotResolved as error:
            raise refuse(str(error)) from None
    out.print(f"dead letter {letter} is dropped")


def _find_waiting(engine: Engine, letter: int) -> DeadLetter:
    """Return an unresolved dead letter. Raises _NotResolved."""
    with reading(engine) as connection:
        found = dead_letters.find(connection, letter)
    if found is None or found.resolved_at is not None:
        raise _not_waiting(letter)
    return found


def _not_waiting(letter: int) -> _NotResolved:
    return _NotResolved(f"no dead letter {letter} is waiting")


def _with_secrets(letter: DeadLetter, identities: Sequence[str] | None) -> DeadLetter:
    """Return the dead letter as it was received, with its secrets. Raises _NotResolved."""
    if letter.aside_key is not None:
        raise _NotResolved(
            "the entry is too large to be read: the producer must send less at a time"
        )
    if not letter.is_masked:
        return letter
    if letter.sealed is None:
        raise _NotResolved("its secrets were not kept: the producer must send it again")
    if identities is None:
        raise _NotResolved("its secrets are encrypted: name your identity with --identity")
    try:
        return dead_letters.open_letter(letter, identities)
    except NotOpened as error:
        raise _NotResolved(str(error)) from None


def _which(
    reason: DeadLetterReason | None, task: str | None, since: str | None, before: str | None
) -> Which:
    """Return which dead letters the options select."""
    return Which(
        reason, task, read_time_option("--since", since), read_time_option("--before", before)
    )


def _headers(letter: DeadLetter) -> dict[str, Any]:
    if letter.headers is not None:
        return dict(letter.headers)
    # Celery ran the task by itself, outside our groups. A message needs no more than these.
    return {"lang": "py", "task": letter.task, "id": letter.message_id}


def _view(letter: DeadLetter) -> dict[str, Any]:
    view = {**asdict(letter), "body": letter.body.decode(errors="backslashreplace")}
    return {**view, "sealed": letter.sealed is not None, "message": letter.reason.text}
