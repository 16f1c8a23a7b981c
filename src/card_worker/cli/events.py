"""`card-worker events`: print events from the stream."""

from typing import Annotated

from typer import Option, Typer

from card_worker.cli.connections import open_client
from card_worker.cli.console import TIMEOUT_S_MAX, AsJson, out, print_json
from card_worker.cli.streams import reader_is_gone

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
