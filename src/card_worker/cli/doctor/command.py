"""`card-worker doctor`: check settings, servers and data for faults."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import psycopg
from redis.exceptions import NoPermissionError, RedisError
from sqlalchemy.exc import SQLAlchemyError
from typer import Exit, Typer

from card_worker.cli.connections import database
from card_worker.cli.console import AsJson, first_line, out, print_json
from card_worker.cli.doctor.database import (
    AS_OPERATOR,
    NOT_ALLOWED,
    check_database,
    check_failed_files,
    check_peppers,
)
from card_worker.cli.doctor.finding import Finding, Level
from card_worker.cli.doctor.redis import check_broker, check_groups, check_redis, check_stream
from card_worker.cli.doctor.settings import check_files, check_settings
from card_worker.settings import Settings
from card_worker.sinks import connect
from card_worker.storage.errors import sqlstate

app = Typer()

STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.WRONG: "red"}
LEVEL_CHARS = max(map(len, Level))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check settings, servers, rights, peppers, files and the stream. Exit 1 if one is wrong.

    It writes nothing but a small file to the store of files, and removes it.
    """
    is_wrong = False
    settings, findings = check_settings()
    for finding in findings if settings is None else _check_all(findings, settings):
        is_wrong |= finding.level is Level.WRONG
        if as_json:
            print_json(finding._asdict())
            continue
        out.print(f"{finding.level:<{LEVEL_CHARS}}", style=STYLES[finding.level], end="  ")
        out.print(f"{finding.part}: {finding.text}", soft_wrap=True)
        if finding.remedy is not None:
            out.print(f"{'':<{LEVEL_CHARS}}  → {finding.remedy}", soft_wrap=True)
    if is_wrong:
        raise Exit(1)


def _check_all(found: Iterable[Finding], settings: Settings) -> Iterator[Finding]:
    """Yield what was `found` before, then what the checks of servers and files find."""
    yield from found
    broker, events, stream = settings.broker(), settings.events(), settings.event_stream
    with database() as engine, connect(broker) as queues, connect(events) as published:
        yield from _safely("database", lambda: check_database(engine))
        yield from _safely("peppers", lambda: check_peppers(engine, settings))
        yield from _safely("broker", lambda: check_broker(queues))
        if events != broker:
            yield from _safely("stream", lambda: check_redis(published, "stream"))
        of_stream = check_stream(published, stream, engine), check_groups(published, settings)
        yield from _safely("stream", lambda: chain(*of_stream))
        yield from check_files(settings)
        yield from _safely("files", lambda: [check_failed_files(engine)])


def _safely(part: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield what a check finds; a server that is away, or refuses it, is a finding too."""
    try:
        yield from check()
    except NoPermissionError as error:
        remedy = "make the users of Redis again with card-worker acl"
        yield Finding(Level.WARNING, part, f"not checked: {error}", remedy)
    except (SQLAlchemyError, psycopg.Error, RedisError, OSError) as error:
        problem = first_line(error)
        if sqlstate(error) == NOT_ALLOWED:
            yield Finding(Level.WARNING, part, f"not checked: {problem}", AS_OPERATOR)
        else:
            yield Finding(Level.WRONG, part, problem, "start the server, or correct its URL")
