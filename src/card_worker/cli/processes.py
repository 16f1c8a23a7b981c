"""The processes of the system, worker, relay and beat, and the migration of the database."""

import signal
from datetime import timedelta
from time import monotonic, sleep
from typing import Annotated, NoReturn

from sqlalchemy import Engine, select
from typer import Context, Exit, Option, Typer, echo

from card_worker.cli.connections import database, read_only
from card_worker.cli.console import err, out, refuse
from card_worker.cli.serving import serve_metrics
from card_worker.health import living
from card_worker.settings import LogFormat, load_settings
from card_worker.storage import leases, outbox
from card_worker.storage.engine import begin, reading
from card_worker.storage.leases import Lease
from card_worker.storage.schema import SchemaOutdated
from card_worker.storage.schema import check as check_schema
from card_worker.wording import suggestion

app = Typer()

CELERY_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Options that are not ours are passed on to Celery."""
LAG_S_MAX = 60.0
"""An event may wait so long to be published."""
LEASE_POLL_S = 0.2
IDLE_S_MAX = 30.0
"""A worker that has not requested or settled a message for so long is stuck, and a beat that is so
late."""


@app.command(context_settings=CELERY_OPTIONS)
def worker(
    context: Context,
    check: Annotated[
        bool,
        Option(
            "--check",
            help="Only check. Exit 0 if the workers of this machine request and settle messages,"
            " and the database answers.",
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
    _run_celery("worker", context.args)


@app.command(context_settings=CELERY_OPTIONS)
def beat(
    context: Context,
    check: Annotated[
        bool,
        Option("--check", help="Only check. Exit 0 if beat runs on this machine on time."),
    ] = False,
) -> None:
    """Start the sweeps at their intervals. Options are those of `celery beat`.

    One beat is enough; two do no harm.
    """
    if check:
        _check_beat()
        return
    load_settings().broker()
    _run_celery("beat", context.args)


def _check_queues(args: list[str]) -> None:
    from celery.bin.worker import worker as command

    from card_worker.contracts.commands import QUEUES

    options = command.make_context("worker", [*args], resilient_parsing=True).params
    known = sorted(set(QUEUES.values()))
    for option in ("queues", "exclude_queues"):
        for queue in options[option] or ():
            if queue not in known:
                name = f"--{option.replace('_', '-')}"
                known_names = suggestion(queue, known)
                raise refuse(f"{name}: there is no queue {queue}{known_names}", code=2)


def _run_celery(part: str, args: list[str]) -> NoReturn:
    """Run a process of Celery; exit with its code. Raises ClickException for wrong options."""
    from celery.bin.celery import celery
    from click import Abort, ClickException

    has_level = any(arg.startswith(("-l", "--loglevel")) for arg in args)
    level = [] if has_level else ["--loglevel=INFO"]
    try:
        code = celery.main(
            ["-A", "card_worker", part, *level, *args],
            prog_name="card-worker",
            standalone_mode=False,
        )
    except (ClickException, Abort):
        raise
    except Exception as error:
        # A running process logs its errors, so this one kept it from starting.
        if not args:
            raise
        reason = " ".join(str(error.args[0] if error.args else error).split())
        raise refuse(f"{part} can't start with {' '.join(args)}: {reason}", code=2) from error
    raise Exit(code or 0)


def _check_workers() -> None:
    workers = list(living("worker"))
    if not workers:
        raise refuse("no worker runs on this machine")
    for record in workers:
        for name, action in (("asked_at", "requested"), ("unsettled_since", "settled")):
            since = record.get(name, float("-inf"))
            if since is not None and monotonic() - since > IDLE_S_MAX:
                host = record.get("hostname")
                raise refuse(f"{host} has {action} no message for {IDLE_S_MAX:g} s")
    with read_only() as connection:
        connection.execute(select(1))
    out.print(f"{len(workers)} at work")


def _check_beat() -> None:
    beats = list(living("beat"))
    if not beats:
        raise refuse("no beat runs on this machine")
    for record in beats:
        late_s = monotonic() - record["sent_at"] - record["interval_s"]
        if late_s > IDLE_S_MAX:
            raise refuse(f"beat is {late_s:.0f} s late")
    out.print("beat is on time")


@app.command()
def relay(
    check: Annotated[
        bool,
        Option("--check", help="Only check. Exit 0 if a relay is at work and no event waits long."),
    ] = False,
) -> None:
    """Publish events from the outbox. One relay works at a time; others wait to take over."""
    if check:
        _check_relay()
        return
    from card_worker.defects import start_reporting
    from card_worker.relay import Relay
    from card_worker.sinks import RedisStream
    from card_worker.telemetry import configure_logs

    settings = load_settings()
    configure_logs(as_json=settings.log_format is LogFormat.JSON)
    start_reporting()
    # A list: a threading.Event must not be set by a handler that may interrupt its own wait.
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signum, _: received.append(signum))
    servers = {"Redis of the stream": settings.events()}
    serve_metrics(settings, "relay", servers, stalled_s=settings.stalled_s)
    sink = RedisStream(
        settings.events(),
        settings.event_stream,
        entries_max=settings.event_stream_max,
        keep_s=settings.event_stream_keep_s,
    )
    with database() as engine:
        try:
            Relay(engine, [sink]).run(lambda: bool(received))
        finally:
            sink.close()


def _check_relay() -> None:
    with database() as engine:
        lease = _working_relay(engine)
        if lease is None:
            raise refuse("no relay is at work")
        with begin(engine, writing=False) as (connection, now):
            oldest = outbox.oldest_unpublished(connection, above=lease.position or 0)
    if oldest is not None and now - oldest > timedelta(seconds=LAG_S_MAX):
        raise refuse(f"an event has waited since {oldest.isoformat(timespec='seconds')}")
    out.print("the relay is at work")


def _working_relay(engine: Engine) -> Lease | None:
    """Return the relay's lease if its holder renews it, which takes at most some seconds."""
    from card_worker.relay import LEASE

    first, until = None, monotonic() + leases.ABANDONED_S
    while monotonic() < until:
        with reading(engine) as connection:
            lease = leases.find(connection, LEASE)
        first = first or lease
        if lease is None or lease != first:
            return lease
        sleep(LEASE_POLL_S)
    return None


@app.command()
def migrate(
    roles_sql: Annotated[
        bool,
        Option(
            "--roles-sql",
            help="Only print the SQL that creates the roles of PostgreSQL and grants their rights,"
            " for an administrator to run.",
        ),
    ] = False,
) -> None:
    """Bring the database to the newest schema, completely or not at all. Repeating is harmless.

    On PostgreSQL it also brings the roles and their rights up to date, if the login may do that.
    """
    from card_worker.storage import roles
    from card_worker.storage.migrations import upgrade

    try:
        if roles_sql:
            with read_only() as connection:
                check_schema(connection)
                for statement in roles.statements(connection):
                    echo(f"{statement};")
            return
        upgraded = upgrade(load_settings().database())
    except (SchemaOutdated, roles.NameTooLong) as error:
        raise refuse(str(error)) from None
    out.print(f"the schema is at {upgraded.revision}")
    if upgraded.roles_problem is not None:
        err.print(
            f"card-worker: roles not up to date ({upgraded.roles_problem}): as an administrator,"
            " run the SQL that card-worker migrate --roles-sql prints"
        )
