"""`card-worker events`: print events from the stream, and publish those of the outbox again."""

from itertools import islice
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from typer import BadParameter, Exit, Option, Typer

from card_worker.cli.connections import database, open_client
from card_worker.cli.console import TIMEOUT_S_MAX, AsJson, out, plural, print_json
from card_worker.cli.streams import reader_is_gone
from card_worker.cli.times import read_time_option
from card_worker.contracts.enums import EventType
from card_worker.settings import KEEP_S_MAX, Settings, load_settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from card_worker.storage.republishing import Selection

DAY_S = 86_400.0
ENTRIES_MAX = 2**53
SLICE_EVENTS = 500

app = Typer(no_args_is_help=True)


@app.command()
def tail(
    from_start: Annotated[
        bool, Option("--from-start", help="Begin with the oldest event.")
    ] = False,
    count: Annotated[
        int | None, Option(min=1, max=10**9, help="End after this number of events.")
    ] = None,
    timeout: Annotated[
        float | None, Option(min=0, max=TIMEOUT_S_MAX, help="End after this many seconds.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print events as they are published, until Ctrl-C."""
    with open_client() as client:
        after = "0-0" if from_start else client.newest()
        try:
            for number, event in enumerate(client.events(after, timeout_s=timeout), start=1):
                if as_json:
                    print_json(event)
                else:
                    reason = event["data"].get("reason", "")
                    out.print(f"{event['time']}  {event['type']:<18} {event['subject']}  {reason}")
                if number == count or reader_is_gone():
                    break
        except KeyboardInterrupt:
            return


@app.command()
def republish(
    *,
    since: Annotated[
        str | None, Option(help="Those from this time on, such as 2026-12-01T00:00:00Z.")
    ] = None,
    account: Annotated[str | None, Option(help="Those of this account.")] = None,
    card: Annotated[
        str | None, Option(help="Those of this card_id, or batch_id; needs --account.")
    ] = None,
    type_: Annotated[
        list[EventType] | None, Option("--type", help="Those of this type. May be repeated.")
    ] = None,
    id_: Annotated[
        list[UUID] | None, Option("--id", help="The one with this id. May be repeated.")
    ] = None,
    all_: Annotated[bool, Option("--all", help="All events.")] = False,
    stream: Annotated[
        str | None,
        Option(help="To this stream instead, directly. It is not trimmed."),
    ] = None,
) -> None:
    """Publish events of the database again, with the same ids and bytes, the oldest first.

    To the stream of the settings, the relay publishes them, before any newer event.
    """
    from card_worker.storage.republishing import Selection

    if card is not None and account is None:
        raise BadParameter("needs --account", param_hint="--card")
    selection = Selection(read_time_option("--since", since), account, card, type_ or (), id_ or ())
    if stream == "":
        raise BadParameter("is empty", param_hint="--stream")
    if all_ == bool(selection.conditions):
        raise BadParameter("name either --all or what to publish")
    settings = load_settings()
    # Much may be selected, and the database replies at the end.
    with database(reply_max_s=DAY_S) as engine:
        if stream in (None, settings.event_stream):
            count = _request(engine, selection)
            out.print(f"{plural(count, 'event')} for the relay to publish")
        else:
            count = _copy(engine, selection, settings, stream)
            out.print(f"{plural(count, 'event')} published to {stream}")


def _request(engine: "Engine", selection: "Selection") -> int:
    from card_worker.storage.republishing import request

    with engine.begin() as connection:
        return request(connection, selection)


def _copy(engine: "Engine", selection: "Selection", settings: Settings, stream: str) -> int:
    from card_worker.sinks import RedisStream
    from card_worker.storage.engine import reading
    from card_worker.storage.republishing import read

    count = 0
    sink = RedisStream(settings.events(), stream, entries_max=ENTRIES_MAX, keep_s=KEEP_S_MAX)
    with reading(engine) as connection:
        sink.check()
        found = read(connection, selection, SLICE_EVENTS)
        while events := list(islice(found, SLICE_EVENTS)):
            sink.publish(events)
            count += len(events)
    sink.close()
    return count


@app.command()
def compare(as_json: AsJson = False) -> None:
    """List the entries of the stream that the database doesn't have, such as after a restore.

    Exit 1 if there are any.
    """
    from card_worker.sinks import connect
    from card_worker.streams import unknown_entries

    settings, is_behind = load_settings(), False
    with database() as engine, connect(settings.events()) as redis:
        for entry in unknown_entries(redis, settings.event_stream, engine):
            is_behind = True
            if as_json:
                print_json(entry._asdict())
            else:
                out.print(f"{entry.entry_id}  {entry.type:<18} {entry.subject}  {entry.why}")
    if is_behind:
        raise Exit(1)
    if not as_json:
        out.print("the database has all entries of the stream")
