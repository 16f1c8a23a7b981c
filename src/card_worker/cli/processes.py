"""The parts of a running system, one process each: worker, relay, beat; and their schema."""

import signal
from datetime import timedelta
from time import monotonic, sleep
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from card_worker.cli.console import database, looking, out, refuse
from card_worker.settings import LogFormat, load_settings

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Options that aren't ours are Celery's."""

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from card_worker.storage.leases import Lease

LAG_S_MAX = 60.0
LEASE_POLL_S = 0.2
IDLE_S_MAX = 30.0
"""A worker that has asked for no message, or settled none that it has, for so long is stuck. Beat
may be so late."""


def worker(
    context: typer.Context,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Don't run; exit 0 if the workers of this machine ask for messages and settle"
            " them, and the database answers.",
        ),
    ] = False,
) -> None:
    """Handle commands. Options are those of `celery worker`, such as --loglevel."""
    if check:
        _check_workers()
        return
    _check_queues(context.args)
    settings = load_settings()
    settings.broker()
    settings.database()
    _celery("worker", context.args)


def beat(
    context: typer.Context,
    check: Annotated[
        bool, typer.Option("--check", help="Don't run; exit 0 if beat runs here and is on time.")
    ] = False,
) -> None:
    """Ask for the sweeps. Options are those of `celery beat`. One is enough; two do no harm."""
    if check:
        _check_beat()
        return
    load_settings().broker()
    _celery("beat", context.args)


def _check_queues(args: list[str]) -> None:
    from celery.bin.worker import worker as command

    from card_worker.contracts.commands import QUEUES

    asked = command.make_context("worker", [*args], resilient_parsing=True).params
    known = sorted(set(QUEUES.values()))
    for option in ("queues", "exclude_queues"):
        unknown = [name for name in asked[option] or () if name not in known]
        if unknown:
            named = f"--{option.replace('_', '-')}: there is no queue {', '.join(unknown)}"
            raise refuse(f"{named}; there are {', '.join(known)}", code=2)


def _celery(part: str, args: list[str]) -> NoReturn:
    """Run a part of Celery; exit with its code. Raises ClickException for wrong options."""
    from celery.bin.celery import celery
    from click import Abort, ClickException

    given = any(arg.startswith(("-l", "--loglevel")) for arg in args)
    level = [] if given else ["--loglevel=INFO"]
    try:
        code = celery.main(
            ["-A", "card_worker", part, *level, *args],
            prog_name="card-worker",
            standalone_mode=False,
        )
    except (ClickException, Abort):
        raise
    except Exception as error:
        # Once a part works, it logs its errors. What comes up to here, it couldn't begin with.
        if not args:
            raise
        why = " ".join(str(error.args[0] if error.args else error).split())
        raise refuse(f"{part} can't start with {' '.join(args)}: {why}", code=2) from error
    raise typer.Exit(code or 0)


def _check_workers() -> None:
    from sqlalchemy import select

    from card_worker.health import living

    workers = list(living("worker"))
    if not workers:
        raise refuse("no worker runs here")
    for one in workers:
        for name, what in (("asked_at", "asked for"), ("unsettled_since", "settled")):
            since = one.get(name, float("-inf"))
            if since is not None and monotonic() - since > IDLE_S_MAX:
                raise refuse(f"{one.get('hostname')} has {what} no message for {IDLE_S_MAX:g} s")
    with looking() as connection:
        connection.execute(select(1))
    out.print(f"{len(workers)} at work")


def _check_beat() -> None:
    from card_worker.health import living

    beats = list(living("beat"))
    if not beats:
        raise refuse("no beat runs here")
    for one in beats:
        late_s = monotonic() - one["sent_at"] - one["interval_s"]
        if late_s > IDLE_S_MAX:
            raise refuse(f"beat is {late_s:.0f} s late")
    out.print("beat is on time")


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
    from card_worker.storage import outbox
    from card_worker.storage.engine import begin

    with database() as engine:
        held = _working_relay(engine)
        if held is None:
            raise refuse("no relay is at work")
        with begin(engine, writing=False) as (connection, now):
            oldest = outbox.oldest_unpublished(connection, above=held.position or 0)
    if oldest is not None and now - oldest > timedelta(seconds=LAG_S_MAX):
        raise refuse(f"an event has waited since {oldest.isoformat(timespec='seconds')}")
    out.print("the relay is at work")


def _working_relay(engine: "Engine") -> "Lease | None":
    """Return the relay's lease if its holder counts it up, which it does every few seconds."""
    from card_worker.relay import LEASE
    from card_worker.storage import leases
    from card_worker.storage.engine import reading

    first, until = None, monotonic() + leases.ABANDONED_S
    while monotonic() < until:
        with reading(engine) as connection:
            held = leases.find(connection, LEASE)
        first = first or held
        if held is None or held != first:
            return held
        sleep(LEASE_POLL_S)
    return None


def migrate() -> None:
    """Bring the database to the newest schema. Harmless when it is; all or nothing when not."""
    from card_worker.storage.migrations import upgrade
    from card_worker.storage.schema import SchemaOutdated

    try:
        revision = upgrade(load_settings().database())
    except SchemaOutdated as reason:
        raise refuse(str(reason)) from None
    out.print(f"the schema is at {revision}")
