"""Sessions of PostgreSQL that are lost, become read-only, or belong to a pooler."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Thread, Timer
from time import monotonic
from typing import Any

import psycopg
import pytest
from sqlalchemy import (
    Connection,
    Delete,
    Engine,
    Select,
    create_engine,
    delete,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from card_worker.storage import outbox
from card_worker.storage.engine import REPLY_MAX_S, begin, open_engine, reading
from card_worker.storage.errors import is_retryable
from card_worker.storage.pipeline import send
from card_worker.storage.sessions import is_pooled
from card_worker.storage.tables import starts
from tests.pgbouncer import pgbouncer
from tests.proxy import Proxy, proxy
from tests.servers import Server

REPLY_S = 0.5
PID = select(func.pg_backend_pid())


@pytest.fixture
def between(postgres_url: str) -> Iterator[Proxy]:
    port = make_url(postgres_url).port
    assert port is not None
    with proxy(port) as made:
        yield made


@pytest.fixture
def through(postgres_url: str, between: Proxy) -> Iterator[Engine]:
    """An engine that reaches the database through the proxy."""
    url = make_url(postgres_url).set(port=between.port).render_as_string(hide_password=False)
    engine = open_engine(url, reply_max_s=REPLY_S)
    # A wait without a limit must fail a test, and not hang it.
    limit = Timer(2 * REPLY_MAX_S, between.cut)
    limit.start()
    yield engine
    limit.cancel()
    between.resume()
    engine.dispose()


def _execute(connection: Connection) -> object:
    return connection.execute(PID).scalar_one()


def _send(connection: Connection) -> object:
    return send(connection, PID, {})()


def _send_and_forget(connection: Connection) -> object:
    return send(connection, PID, {})


@pytest.mark.parametrize("hold", [Proxy.pause, Proxy.hold_replies], ids=["silent", "deaf"])
@pytest.mark.parametrize("work", [_execute, _send, _send_and_forget])
def test_a_commit_without_a_reply_fails_and_the_next_one_reconnects(
    through: Engine,
    between: Proxy,
    work: Callable[[Connection], object],
    hold: Callable[[Proxy], None],
) -> None:
    with begin(through) as (connection, _):
        before = _execute(connection)
    began = monotonic()

    def fall_silent() -> None:
        with begin(through) as (connection, _):
            hold(between)
            work(connection)

    with pytest.raises(DBAPIError) as raised:
        fall_silent()
    assert is_retryable(raised.value)
    assert monotonic() - began < REPLY_MAX_S
    between.resume()
    with begin(through) as (connection, _):
        assert _execute(connection) != before


def test_reading_without_a_reply_fails(through: Engine, between: Proxy) -> None:
    with reading(through) as connection:
        _execute(connection)
    between.pause()
    with pytest.raises(DBAPIError) as raised, reading(through) as connection:
        _execute(connection)
    assert is_retryable(raised.value)


def test_a_server_that_accepts_connections_but_never_replies_fails(
    through: Engine, between: Proxy
) -> None:
    between.pause()
    with pytest.raises(DBAPIError) as raised, begin(through):
        pass
    assert is_retryable(raised.value)


def test_waiting_for_events_detects_a_lost_session(
    through: Engine, between: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "CHECK_S", 0.0)

    def watch() -> None:
        with outbox.watching(through) as wait:
            wait(0.01)
            between.pause()
            wait(0.01)

    with pytest.raises(DBAPIError) as raised:
        watch()
    assert is_retryable(raised.value)


def test_without_a_limit_statements_may_take_long(postgres_url: str) -> None:
    engine = open_engine(postgres_url, reply_max_s=None)
    with reading(engine) as connection:
        assert connection.execute(text("SELECT 1 FROM pg_sleep(0.2)")).scalar() == 1
    engine.dispose()


def test_a_slow_statement_within_the_limit_succeeds(postgres_url: str) -> None:
    engine = open_engine(postgres_url, reply_max_s=30)
    with begin(engine) as (connection, _):
        assert connection.execute(text("SELECT 1 FROM pg_sleep(0.2)")).scalar() == 1
    engine.dispose()


# --- what ends a session --------------------------------------------------------------------------


FAIL = """
CREATE FUNCTION fail(state text) RETURNS int LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'planted' USING ERRCODE = state; END $$
"""
READ_ONLY = "SET default_transaction_read_only = on"
ENDS: dict[str, tuple[str, Select[Any] | Delete]] = {
    "read-only": (READ_ONLY, delete(starts)),
    "shutdown": ("SELECT 1", select(func.fail("57P01"))),
    "crash": ("SELECT 1", select(func.fail("57P02"))),
    "starting": ("SELECT 1", select(func.fail("57P03"))),
    "connection": ("SELECT 1", select(func.fail("08006"))),
    "statement unknown": ("SELECT 1", select(func.fail("26000"))),
    "statement known twice": ("SELECT 1", select(func.fail("42P05"))),
    "plan outdated": ("SELECT 1", select(func.fail("0A000"))),
}


@pytest.mark.parametrize("piped", [False, True], ids=["executed", "sent"])
@pytest.mark.parametrize("kind", ENDS)
def test_an_error_of_the_session_ends_it_and_the_pool_s_others(
    kind: str, piped: bool, postgres_url: str
) -> None:
    engine = open_engine(postgres_url)
    setting, failing = ENDS[kind]
    with engine.connect() as one, engine.connect() as other:
        one.execute(text(FAIL))
        for connection in (one, other):
            connection.execute(text(setting))
            connection.commit()
        before = {_execute(one), _execute(other)}

    def fail() -> None:
        with begin(engine) as (connection, _):
            if piped:
                send(connection, failing, {})
            else:
                connection.execute(failing)

    with pytest.raises(DBAPIError) as raised:
        fail()
    assert is_retryable(raised.value)
    with begin(engine) as (one, _), begin(engine) as (other, _):
        assert not {_execute(one), _execute(other)} & before
        one.execute(delete(starts))
    engine.dispose()


def test_a_statement_is_executed_after_its_preparation_failed(postgres_url: str) -> None:
    """The driver prepares a statement after a few uses; here the server refuses that."""
    engine = open_engine(postgres_url)
    statement = delete(starts)

    def works() -> bool:
        with suppress(DBAPIError), begin(engine) as (connection, _):
            send(connection, statement, {})
            return True
        return False

    admin = create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with admin.connect() as owner:
        for _ in range(10):
            assert works() or works()
            owner.execute(text("ALTER TABLE starts RENAME TO away"))
            assert not works()
            owner.execute(text("ALTER TABLE away RENAME TO starts"))
        assert works() or works()
    engine.dispose()


def test_an_error_of_a_statement_does_not_end_the_session(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    with begin(engine) as (connection, _):
        before = _execute(connection)
    with pytest.raises(DBAPIError), begin(engine) as (connection, _):
        connection.execute(text("SELECT 1 / 0"))
    with begin(engine) as (connection, _):
        assert _execute(connection) == before
    engine.dispose()


# --- poolers --------------------------------------------------------------------------------------


@pytest.mark.debian
def test_behind_a_pooler_no_session_features_are_used(
    postgres_server: Server, postgres_url: str
) -> None:
    with pgbouncer(postgres_server.url) as pooler:
        engine = open_engine(pooler.url(postgres_url))
        with begin(engine) as (connection, _):
            assert is_pooled(connection)
            driver: Any = connection.connection.driver_connection
            assert driver.prepare_threshold is None
        with outbox.watching(engine) as wait:
            wait(0.01)
        _many_at_once(engine)
        engine.dispose()
        # What was set in transactions is gone with them.
        with psycopg.connect(pooler.url(postgres_url)) as plain:
            ((timeout,),) = plain.execute("SHOW lock_timeout").fetchall()
            assert timeout == "0"


def _many_at_once(engine: Engine) -> None:
    failures: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(100):
                with begin(engine) as (connection, _):
                    assert send(connection, PID, {})()
                    connection.execute(PID)
        except Exception as error:
            failures.append(error)

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_without_a_pooler_session_features_are_used(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    with begin(engine) as (connection, _):
        assert not is_pooled(connection)
        driver: Any = connection.connection.driver_connection
        assert driver.prepare_threshold is not None
    engine.dispose()
