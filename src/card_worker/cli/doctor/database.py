"""Checks of the database's server, its rights and what depends on peppers."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from card_worker.cli.console import first_line
from card_worker.cli.doctor.finding import Finding, Level, ahead_s, clock_finding
from card_worker.settings import PREFIX, Settings
from card_worker.storage import inspection, schema
from card_worker.storage.engine import begin, limit_statements, reading
from card_worker.storage.errors import sqlstate
from card_worker.storage.inspection import PostgresState

PART = "database"
POSTGRES_MIN = 15
STATEMENT_S_MAX = 5
NOT_ALLOWED, CANCELLED = "42501", "57014"
"""SQLSTATE of a missing right, and of a statement that took too long."""
AS_OPERATOR = "run this with the login of an operator"
RIGHTS_SHOWN_MAX = 3
WHEN_OFF = {
    "synchronous_commit": "a crash loses commits whose events are published",
    "fsync": "a crash loses commits whose events are published, or the whole database",
    "full_page_writes": "a crash may damage the database",
}
"""What may happen when a setting of PostgreSQL is off."""


def check_database(engine: Engine) -> Iterator[Finding]:
    """Check the server, the schema, rights and the clock. Raises SQLAlchemy's errors."""
    if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").is_file():
        text = f"the file {engine.url.database} does not exist"
        yield Finding(Level.WRONG, PART, text, "run card-worker migrate, or correct DATABASE_URL")
        return
    is_postgres = engine.dialect.name == "postgresql"
    if is_postgres and (encoding := inspection.server_encoding(engine)) != "UTF8":
        remedy = "create a database with the encoding UTF8"
        yield Finding(Level.WRONG, PART, f"its encoding is {encoding}", remedy)
        return
    with reading(engine) as connection:
        limit_statements(connection, STATEMENT_S_MAX)
        yield version_finding(engine.dialect.name, connection.dialect.server_version_info or ())
        if is_postgres:
            yield from postgres_findings(inspection.read_postgres(connection))
        try:
            schema.check(connection)
        except schema.SchemaOutdated as error:
            yield Finding(Level.WRONG, PART, str(error), "run card-worker migrate")
            return
        yield Finding(Level.OK, PART, f"its schema is {schema.newest()}")
        if is_postgres:
            yield _check_rights(connection)
    before = datetime.now(UTC)
    with begin(engine, writing=False) as (_, now):
        times = (each.timestamp() for each in (before, now, datetime.now(UTC)))
        yield clock_finding(PART, ahead_s(*times))


def version_finding(dialect: str, version: tuple[int | str, ...]) -> Finding:
    """Return whether this version of the server is supported."""
    name = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}[dialect]
    text = f"{name} {'.'.join(map(str, version))}"
    if dialect == "postgresql" and int(version[0]) < POSTGRES_MIN:
        return Finding(Level.WRONG, PART, f"{text} is too old", "use PostgreSQL 15 or newer")
    return Finding(Level.OK, PART, text)


def postgres_findings(state: PostgresState) -> Iterator[Finding]:
    """Yield what the state of a server means."""
    found = [
        Finding(Level.WRONG, PART, f"{name} is off: {problem}", f"set {name} = on on the server")
        for name, problem in WHEN_OFF.items()
        if state.settings[name] == "off"
    ]
    if state.is_standby or state.settings["default_transaction_read_only"] == "on":
        text = "it is a standby" if state.is_standby else "it is read-only for this login"
        found.append(
            Finding(Level.WRONG, PART, text, "let DATABASE_URL name the server that is written to")
        )
    yield from found or [Finding(Level.OK, PART, "commits are durable, and it can be written")]
    if state.collation_version != state.collation_version_now:
        text = (
            f"its collation {state.collation} has version {state.collation_version_now}, but its"
            f" indexes were made with {state.collation_version}: they may be out of order"
        )
        remedy = "REINDEX DATABASE, then ALTER DATABASE … REFRESH COLLATION VERSION"
        yield Finding(Level.WRONG, PART, text, remedy)
    else:
        yield Finding(Level.OK, PART, f"its collation is {state.collation}")
    if state.is_superuser:
        text = f"the login {state.login} is a superuser, and may change the history"
        remedy = "use a login that is a member of one role: docs/how-to/limit-rights.md"
        yield Finding(Level.WARNING, PART, text, remedy)


def _check_rights(connection: Connection) -> Finding:
    roles = inspection.missing_roles(connection)
    if roles:
        text = f"there is no role {', '.join(roles)}"
        return Finding(Level.WARNING, PART, text, "run the SQL of card-worker migrate --roles-sql")
    rights = inspection.missing_rights(connection)
    if rights:
        more = len(rights) - RIGHTS_SHOWN_MAX
        shown = "; ".join(rights[:RIGHTS_SHOWN_MAX]) + (f"; and {more} more" if more > 0 else "")
        remedy = "run card-worker migrate, or the SQL of card-worker migrate --roles-sql"
        return Finding(Level.WRONG, PART, shown, remedy)
    return Finding(Level.OK, PART, "all roles have their rights")


def check_peppers(engine: Engine, settings: Settings) -> Iterator[Finding]:
    """Check that the peppers are there on which stored tokens, PINs and keys depend."""
    peppers = {
        "TOKEN_PEPPERS": settings.token_peppers,
        "PIN_PEPPERS": settings.pin_peppers,
        "PRODUCER_PEPPERS": settings.producer_peppers,
    }
    for name, given in peppers.items():
        known = given.names if given else frozenset[str]()
        try:
            with reading(engine) as connection:
                limit_statements(connection, STATEMENT_S_MAX)
                missing = inspection.unknown_peppers(connection, known, of=name)
        except DBAPIError as error:
            if sqlstate(error) not in (NOT_ALLOWED, CANCELLED):
                raise
            is_slow = sqlstate(error) == CANCELLED
            remedy = "docs/how-to/rotate-keys.md has a query" if is_slow else AS_OPERATOR
            text = f"{name} not checked: {first_line(error)}"
            yield Finding(Level.WARNING, "peppers", text, remedy)
            continue
        yield _pepper_finding(name, missing, is_given=given is not None)


def _pepper_finding(name: str, missing: str | None, *, is_given: bool) -> Finding:
    part = "peppers"
    if missing is None:
        return Finding(Level.OK, part, f"{name} has all that stored rows need")
    if not is_given:
        text = f"{name} is not set here, and there are rows that need {missing}"
        remedy = "workers need it; to check it, run this with their settings"
        return Finding(Level.WARNING, part, text, remedy)
    text = f"{PREFIX}{name} has no {missing}, and there are rows that need it"
    return Finding(Level.WRONG, part, text, f"add {missing} behind the newest one, on all workers")


def check_failed_files(engine: Engine) -> Finding:
    """Check that no file of a batch waits because its store has refused it."""
    with reading(engine) as connection:
        limit_statements(connection, STATEMENT_S_MAX)
        count = inspection.failed_files(connection)
    if count:
        text = f"files of batches that could not be written: {count}"
        remedy = "see last_error in card-worker batch show; the workers try again"
        return Finding(Level.WARNING, "files", text, remedy)
    return Finding(Level.OK, "files", "no file of a batch has failed")
