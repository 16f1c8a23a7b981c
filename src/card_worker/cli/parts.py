"""The parts of a running system, one process each: worker, relay, beat; and their schema."""

import signal
import sys
from datetime import timedelta
from typing import Annotated, NoReturn

import typer

from card_worker.cli.console import database, out, refuse
from card_worker.settings import LogFormat, load_settings

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Options that aren't ours are Celery's."""

LAG_S_MAX = 60.0


def worker(context: typer.Context) -> None:
    """Handle commands. Options are those of `celery worker`, such as --loglevel."""
    _celery("worker", context.args)


def beat(context: typer.Context) -> None:
    """Ask for the sweeps. Options are those of `celery beat`. One is enough; two do no harm."""
    _celery("beat", context.args)


def _celery(part: str, args: list[str]) -> NoReturn:
    from card_worker.tasks import app

    given = any(arg.startswith(("-l", "--loglevel")) for arg in args)
    app.start([part, *args, *([] if given else ["--loglevel=INFO"])])
    sys.exit(0)


def relay(
    check: Annotated[
        bool, typer.Option(help="Don't run; exit 0 if a relay is at work and nothing waits long.")
    ] = False,
) -> None:
    """Publish events from the outbox. One works at a time; others wait to take over."""
    if check:
        _check_relay()
        return
    from card_worker.relay import Relay
    from card_worker.sinks import RedisStream
    from card_worker.telemetry import configure_logs

    settings = load_settings()
    configure_logs(as_json=settings.log_format is LogFormat.JSON)
    # A plain list: a threading.Event must not be set by a handler that may interrupt its wait.
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda given, _: told.append(given))
    sink = RedisStream(settings.events(), settings.event_stream)
    with database() as engine:
        try:
            Relay(engine, [sink]).run(lambda: bool(told))
        finally:
            sink.close()


def _check_relay() -> None:
    from card_worker.relay import LEASE
    from card_worker.storage import leases, outbox
    from card_worker.storage.engine import begin

    with database() as engine, begin(engine) as (connection, now):
        until = leases.expires_at(connection, LEASE)
        oldest = outbox.oldest_unpublished(connection)
    if until is None or until < now:
        raise refuse("no relay is at work")
    if oldest is not None and now - oldest > timedelta(seconds=LAG_S_MAX):
        raise refuse(f"an event has waited since {oldest.isoformat(timespec='seconds')}")
    out.print("the relay is at work")


def migrate() -> None:
    """Bring the database to the newest schema. Harmless when it is; all or nothing when not."""
    from card_worker.storage.migrations import upgrade

    revision = upgrade(load_settings().database())
    out.print(f"the schema is at {revision}")
