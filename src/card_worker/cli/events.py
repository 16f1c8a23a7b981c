"""`card-worker events`: watch the stream."""

from typing import Annotated

import typer

from card_worker.cli.console import TIMEOUT_S_MAX, AsJson, out, print_json
from card_worker.cli.streams import reader_is_gone
from card_worker.settings import load_settings

app = typer.Typer(help="Watch the stream of events.", no_args_is_help=True)


@app.command()
def tail(
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Begin with the oldest event.")
    ] = False,
    count: Annotated[
        int | None, typer.Option(min=1, max=10**9, help="End after so many events.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0, max=TIMEOUT_S_MAX, help="End after so many seconds.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print events as they come, until Ctrl-C."""
    from card_worker.client import Client

    settings = load_settings()
    with Client(
        settings.broker(), events_url=settings.events_url, stream=settings.event_stream
    ) as client:
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
