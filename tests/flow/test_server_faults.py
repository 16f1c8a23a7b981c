"""Temporary errors of the database make no dead letter of a valid command, and end no process."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest
from sqlalchemy import create_engine, make_url, text

from card_worker.storage.roles import Role
from tests.flow.processes import Part, until
from tests.flow.system import System, card, envelope, system
from tests.pgbouncer import pgbouncer
from tests.proxy import proxy
from tests.servers import Server, role_urls

COMMANDS = 60
ANSWER_S_MAX = 120.0
"""Less than a minute, and what a busy machine adds."""
WAITS = "database unavailable, retrying"
APP_ROLE = "card_worker_app"


def names(prefix: str, count: int = COMMANDS) -> list[str]:
    return [f"{prefix}-{number}" for number in range(count)]


@contextmanager
def parts(own: System) -> Iterator[tuple[Part, Part]]:
    """Run a worker and a relay; both must still be there at the end."""
    worker, relay = own.start("worker", GROUP_MAX="20"), own.start("relay")
    own.create("before")
    own.answers("before")
    yield worker, relay
    assert worker.runs, worker.tail
    assert relay.runs, relay.tail


def assert_all_done(own: System, *ids: str, letters: int = 0) -> None:
    assert set(own.types(*ids)) == {"card.created"}
    until(lambda: own.waiting() == 0, "the acknowledgements")
    assert len(own.letters()) == letters
    assert own.cli("reconcile").exit_code == 0


@pytest.fixture
def limited(tmp_path: Path, postgres_url: str, broker_url: str) -> Iterator[System]:
    """A system whose database role has no more rights than it needs."""
    with create_engine(postgres_url, isolation_level="AUTOCOMMIT").connect() as owner:
        owner.execute(text(f"DROP ROLE IF EXISTS {APP_ROLE}"))
        roles = ", ".join(group_roles(postgres_url).values())
        owner.execute(text(f"CREATE ROLE {APP_ROLE} LOGIN PASSWORD 'app' IN ROLE {roles}"))
        url = make_url(postgres_url).set(username=APP_ROLE, password="app")
        try:
            with system(
                tmp_path,
                database_url=url.render_as_string(hide_password=False),
                broker_url=broker_url,
                with_roles=False,
            ) as made:
                made.owner = owner
                yield made
        finally:
            owner.execute(text(f"DROP OWNED BY {APP_ROLE}"))
            owner.execute(text(f"DROP ROLE {APP_ROLE}"))
    owner.engine.dispose()


def group_roles(database_url: str) -> dict[str, str]:
    """Return the names of the roles of the parts and of the command line."""
    names = {role: make_url(url).username or "" for role, url in role_urls(database_url).items()}
    parts = (Role.WORKER, Role.RELAY, Role.OPERATOR)
    return {role.value: names[role].removesuffix("_login") for role in parts}


TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ROLE'"
TERMINATE = TERMINATE.replace("ROLE", APP_ROLE)
FAULTS = {
    "a right is missing": (
        "REVOKE INSERT ON transactions FROM {worker}",
        "GRANT INSERT ON transactions TO {worker}",
    ),
    "a right on our notes is missing": (
        "REVOKE ALL ON unpublished, leases, starts FROM {worker}, {relay}, {operator}",
        f"GRANT ALL ON unpublished, leases, starts TO {APP_ROLE}",
    ),
    "a table has another name": (
        "ALTER TABLE transactions RENAME TO elsewhere",
        "ALTER TABLE elsewhere RENAME TO transactions",
    ),
    "a column has another name": (
        "ALTER TABLE outbox RENAME event TO elsewhere",
        "ALTER TABLE outbox RENAME elsewhere TO event",
    ),
    "the schema may not be used": (
        "REVOKE USAGE ON SCHEMA public FROM {worker}, {relay}, {operator}, PUBLIC",
        f"GRANT USAGE ON SCHEMA public TO {APP_ROLE}, PUBLIC",
    ),
    "nobody may log in": (
        f"ALTER ROLE {APP_ROLE} NOLOGIN; {TERMINATE}",
        f"ALTER ROLE {APP_ROLE} LOGIN",
    ),
    "no connection is left": (
        f"ALTER ROLE {APP_ROLE} CONNECTION LIMIT 0; {TERMINATE}",
        f"ALTER ROLE {APP_ROLE} CONNECTION LIMIT -1",
    ),
    "it is read-only": (
        f"ALTER ROLE {APP_ROLE} SET default_transaction_read_only = on; {TERMINATE}",
        f"ALTER ROLE {APP_ROLE} RESET default_transaction_read_only",
    ),
}


def fault_of(name: str, limited: System) -> tuple[str, str]:
    """Return the statements that break the system and that mend it."""
    url = limited.owner.engine.url.render_as_string(hide_password=False)
    breaks, mends = (statement.format(**group_roles(url)) for statement in FAULTS[name])
    return breaks, mends


@pytest.mark.parametrize("fault", FAULTS)
def test_temporary_refusals_of_the_server_are_retried(fault: str, limited: System) -> None:
    breaks, mends = fault_of(fault, limited)
    with parts(limited) as (worker, _):
        run = limited.owner.execute
        run(text(breaks))
        limited.push(b"nonsense")
        limited.create(*names("meanwhile"))
        worker.says(WAITS)
        run(text(mends))
        assert_all_done(limited, *names("meanwhile"), letters=1)


@pytest.mark.parametrize("fault", ["a right is missing", "a table has another name"])
def test_failures_that_need_an_operator_are_logged_as_errors(fault: str, limited: System) -> None:
    breaks, mends = fault_of(fault, limited)
    with parts(limited) as (worker, _):
        limited.owner.execute(text(breaks))
        limited.create("meanwhile")
        worker.says(WAITS)
        (first, *_) = [line for line in worker.said.splitlines() if WAITS in line]
        assert "[error" in first
        assert "sqlstate=42" in first
        limited.owner.execute(text(mends))
        assert_all_done(limited, "meanwhile")


def test_the_log_has_the_reason_of_a_refused_session(limited: System) -> None:
    breaks, mends = fault_of("nobody may log in", limited)
    with parts(limited) as (worker, relay):
        limited.owner.execute(text(breaks))
        limited.create("meanwhile")
        for part in (worker, relay):
            part.says(f'role "{APP_ROLE}" is not permitted to log in')
        limited.owner.execute(text(mends))
        assert_all_done(limited, "meanwhile")


def test_the_relay_logs_failures_that_need_an_operator_as_errors(limited: System) -> None:
    breaks, mends = fault_of("a right on our notes is missing", limited)
    with parts(limited) as (_, relay):
        limited.owner.execute(text(breaks))
        relay.says("database or sink unavailable, retrying")
        (first, *_) = [line for line in relay.said.splitlines() if "retrying" in line]
        assert "[error" in first
        assert "sqlstate=42501" in first
        limited.owner.execute(text(mends))


def test_repeated_positions_do_not_count_against_a_message(own: System) -> None:
    with parts(own) as (worker, _):
        own.create(*names("meanwhile"))
        own.answers(*names("meanwhile"))
        # As after a restore of the rows without their sequence.
        draw_from = "SELECT setval(pg_get_serial_sequence('outbox', 'position'), :position)"
        own.sql(draw_from, position=1)
        own.create("after")
        worker.says(WAITS)
        (first, *_) = [line for line in worker.said.splitlines() if WAITS in line]
        assert "[error" in first
        own.sql(draw_from, position=10 * COMMANDS)
        assert_all_done(own, "after")


# --- our own book-keeping -------------------------------------------------------------------------


def plant(table: str, event: str, *, does: str = "RAISE EXCEPTION 'planted'") -> tuple[str, str]:
    """Return what lets each such statement fail as if its data were wrong, and what mends it."""
    function = (
        f"CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {does}; END $$;"
    )
    trigger = f"CREATE TRIGGER planted BEFORE {event} ON {table} FOR EACH ROW"
    return f"{function} {trigger} EXECUTE FUNCTION planted()", "DROP FUNCTION planted CASCADE"


def rename(table: str) -> tuple[str, str]:
    """Return what takes a table away, and what brings it back."""
    return f"ALTER TABLE {table} RENAME TO elsewhere", f"ALTER TABLE elsewhere RENAME TO {table}"


@pytest.fixture
def own(tmp_path: Path, postgres_url: str, broker_url: str) -> Iterator[System]:
    with system(tmp_path, database_url=postgres_url, broker_url=broker_url) as made:
        yield made


@pytest.mark.parametrize("does", ["RAISE EXCEPTION 'planted'", "RETURN NULL"])
def test_starts_that_cannot_be_counted_do_not_count_against_a_message(
    does: str, own: System
) -> None:
    breaks, mends = plant("starts", "INSERT OR UPDATE", does=does)
    with parts(own) as (worker, _):
        own.sql(breaks)
        for returns, name in ((1, "once"), (2, "twice")):
            own.push(envelope("cards.create", name, card(name)), returns=returns)
        worker.says(WAITS)
        own.sql(mends)
        assert_all_done(own, "once", "twice")


def test_starts_that_cannot_be_deleted_do_not_count_against_a_message(own: System) -> None:
    breaks, mends = plant("starts", "DELETE")
    with parts(own):
        own.sql(breaks)
        own.push(envelope("cards.create", "once", card("once")), returns=1)
        assert_all_done(own, "once")
        own.sql(mends)


UNWRITABLE = {
    "refused": plant("dead_letters", "INSERT"),
    "no table": rename("dead_letters"),
    "no column": (
        "ALTER TABLE dead_letters RENAME digest TO elsewhere",
        "ALTER TABLE dead_letters RENAME elsewhere TO digest",
    ),
}


@pytest.mark.parametrize("fault", UNWRITABLE)
def test_messages_return_if_dead_letters_cannot_be_written(fault: str, own: System) -> None:
    breaks, mends = UNWRITABLE[fault]
    with parts(own) as (worker, _):
        own.sql(breaks)
        own.push(b"nonsense")
        own.push(envelope("cards.explode", "unknown"))
        good = {"command": "cards.create", "command_id": "listed", **card("listed")}
        own.push(envelope("commands.apply", "list", {"commands": [good, 0]}))
        worker.says("dead letters not stored, retrying")
        own.create("after")
        own.answers("after", "listed")
        own.sql(mends)
        until(lambda: len(own.letters()) == 3, "the letters")
        until(lambda: own.waiting() == 0, "the acknowledgements")


# --- SQLite ---------------------------------------------------------------------------------------


def _away(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def _back(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_name("elsewhere").rename(folder)


def _replace(folder: Path) -> None:
    _away(folder)
    folder.mkdir()
    (folder / "cards.db").write_bytes(b"no database" * 1000)


SQLITE_FAULTS: dict[str, Callable[[Path], None]] = {"away": _away, "no database": _replace}


@pytest.mark.parametrize("fault", SQLITE_FAULTS)
def test_a_missing_sqlite_file_is_retried(
    fault: str, tmp_path: Path, sqlite_url: str, broker_url: str
) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    shutil.move(sqlite_url.removeprefix("sqlite:///"), folder / "cards.db")
    url = f"sqlite:///{folder / 'cards.db'}"
    with system(tmp_path, database_url=url, broker_url=broker_url) as own:
        own.start("relay")
        SQLITE_FAULTS[fault](folder)
        # One that is running keeps its file open, so this one has to open it.
        worker = own.start("worker")
        worker.says(WAITS)
        own.push(envelope("cards.explode", "unreadable"))
        own.create(*names("meanwhile", 5))
        _back(folder)
        assert set(own.types(*names("meanwhile", 5))) == {"card.created"}
        assert own.letter("unreadable").reason == "task_unknown"
        assert len(own.letters()) == 1
        assert all(part.runs for part in own.parts.all)


def test_a_table_that_disappears_is_retried(
    tmp_path: Path, sqlite_url: str, broker_url: str
) -> None:
    with system(tmp_path, database_url=sqlite_url, broker_url=broker_url) as own, parts(own):
        own.sql("ALTER TABLE transactions RENAME TO elsewhere")
        own.create(*names("meanwhile", 5))
        own.parts.all[0].says(WAITS)
        own.sql("ALTER TABLE elsewhere RENAME TO transactions")
        assert_all_done(own, *names("meanwhile", 5))


def test_messages_return_if_sqlite_cannot_store_dead_letters(
    tmp_path: Path, sqlite_url: str, broker_url: str
) -> None:
    breaks, mends = rename("dead_letters")
    with system(tmp_path, database_url=sqlite_url, broker_url=broker_url) as own, parts(own):
        own.sql(breaks)
        own.push(b"nonsense")
        own.parts.all[0].says("dead letters not stored, retrying")
        own.create("after")
        own.answers("after")
        own.sql(mends)
        until(lambda: len(own.letters()) == 1, "the letter")
        until(lambda: own.waiting() == 0, "the acknowledgements")


# --- silence --------------------------------------------------------------------------------------


@pytest.mark.parametrize("silent", ["pause", "hold_replies"])
def test_a_silent_database_delays_answers_by_less_than_a_minute(
    silent: str, tmp_path: Path, postgres_url: str, broker_url: str
) -> None:
    port = make_url(postgres_url).port
    assert port is not None
    with proxy(port) as between:
        url = make_url(postgres_url).set(port=between.port).render_as_string(hide_password=False)
        with system(tmp_path, database_url=url, broker_url=broker_url) as own:
            with parts(own) as (worker, relay):
                getattr(between, silent)()
                began = monotonic()
                own.create(*names("meanwhile"))
                worker.says(WAITS)
                relay.says("database or sink unavailable, retrying")
                # Only what is new gets through: the old connections stay silent for good.
                between.cut()
                between.resume()
                own.answers(*names("meanwhile"))
                assert monotonic() - began < ANSWER_S_MAX
            assert_all_done(own, *names("meanwhile"))


@pytest.mark.debian
def test_all_is_answered_behind_a_pooler(
    tmp_path: Path, postgres_server: Server, postgres_url: str, broker_url: str
) -> None:
    with pgbouncer(postgres_server.url) as pooler:
        url = pooler.url(postgres_url)
        with (
            system(tmp_path, database_url=url, broker_url=broker_url, with_roles=False) as own,
            parts(own) as (worker, _),
        ):
            own.start("worker", "--hostname=second@%h", GROUP_MAX="20")
            worker.says("connected through a pooler")
            own.create(*names("one", 750))
            pooler.stop()
            own.create(*names("two", 750))
            pooler.start()
            assert_all_done(own, *names("one", 750), *names("two", 750))
