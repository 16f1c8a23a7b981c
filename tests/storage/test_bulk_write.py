"""Writing the changes of large groups ahead, and the errors of that."""

import sqlite3
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Engine, func, literal, select, text
from sqlalchemy.exc import DBAPIError

from card_worker.contracts.commands import Command
from card_worker.contracts.message import UnreadableItem, read_commands
from card_worker.handler import handle
from card_worker.storage.bulk_write import SLICE, ChangedRows, NewRows, write
from card_worker.storage.engine import begin, open_engine, reading
from card_worker.storage.errors import is_retryable
from card_worker.storage.pipeline import send
from card_worker.storage.tables import cards, unpublished
from tests.flow import defects
from tests.flow.processes import until

CARDS = 4 * SLICE + 1


def create(*card_ids: str) -> list[Command]:
    fields = {"account_id": "T00000001", "amount": 1, "currency": "NOK"}
    read = [
        read_commands("cards.create", card_id, {**fields, "card_id": card_id})[0]
        for card_id in card_ids
    ]
    return [command for command in read if not isinstance(command, UnreadableItem)]


@pytest.mark.parametrize("place", [0, SLICE, CARDS - 1])
def test_a_defect_in_any_slice_is_raised_and_rolls_back_everything(
    place: int, postgres_url: str
) -> None:
    engine = open_engine(postgres_url)
    defects.plant(engine)
    names = [f"card-{number}" for number in range(CARDS)]
    names[place] = "defect"
    with pytest.raises(DBAPIError) as raised, begin(engine) as (connection, now):
        handle(connection, create(*names), now)
    assert isinstance(raised.value.orig, psycopg.errors.RaiseException)
    assert not is_retryable(raised.value)
    # The connection is as good as new.
    with begin(engine) as (connection, now):
        answers = handle(connection, create(*(f"after-{number}" for number in range(CARDS))), now)
    assert len(answers) == CARDS
    with reading(engine) as connection:
        for table in (cards, unpublished):
            assert connection.execute(select(func.count()).select_from(table)).scalar() == CARDS
    engine.dispose()


def test_a_lost_session_is_a_retryable_error(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    with pytest.raises(DBAPIError) as raised:
        _write_while_sessions_end(engine, postgres_url)
    assert is_retryable(raised.value)
    with begin(engine) as (connection, now):
        assert len(handle(connection, create("card"), now)) == 1
    engine.dispose()


def _write_while_sessions_end(engine: Engine, url: str) -> None:
    with begin(engine) as (connection, _):
        with psycopg.connect(url, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        write(connection, [NewRows(unpublished, [{"position": 1}])])


def test_an_update_of_a_missing_row_fails_the_commit(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    gone = {"id": UUID(int=1), "version": 2}
    with pytest.raises(DBAPIError) as raised, begin(engine) as (connection, _):
        write(connection, [NewRows(unpublished, [{"position": 1}]), ChangedRows(cards, [gone])])
    assert "found 0 of 1 rows to update" in str(raised.value)
    assert not is_retryable(raised.value)
    with reading(engine) as connection:
        assert connection.execute(select(func.count()).select_from(unpublished)).scalar() == 0
    engine.dispose()


ONE = select(literal(1))


@pytest.mark.parametrize("is_waiting", [True, False], ids=["after an answer", "before it"])
def test_a_paused_commit_is_ended_by_the_idle_limit(is_waiting: bool, postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    with pytest.raises(DBAPIError) as raised:
        _be_idle_in_mid_commit(engine, is_waiting)
    assert is_retryable(raised.value)
    engine.dispose()


def test_a_result_does_not_wait_for_later_statements(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    locks = [
        select(literal(key)).where(func.pg_advisory_xact_lock(key).is_not(None)) for key in (1, 2)
    ]
    with psycopg.connect(postgres_url) as other, begin(engine) as (connection, _):
        other.execute("SELECT pg_advisory_lock(1), pg_advisory_lock(2)")
        first, second = (send(connection, lock, {}) for lock in locks)
        other.execute("SELECT pg_advisory_unlock(1)")
        assert first() == [(1,)]
        other.execute("SELECT pg_advisory_unlock(2)")
        assert second() == [(2,)]
    engine.dispose()


def test_reading_leaves_no_transaction_open(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    with reading(engine) as connection:
        driver: Any = connection.connection.driver_connection
        send(connection, ONE, {})
    with reading(engine) as connection:
        again: Any = connection.connection.driver_connection
        assert again is driver
        assert (again.pgconn.pipeline_status, again.info.transaction_status) == (0, 0)
        assert send(connection, ONE, {})() == [(1,)]
    engine.dispose()


def _be_idle_in_mid_commit(engine: Engine, is_waiting: bool) -> None:
    session = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
    with begin(engine) as (connection, _):
        pid = connection.execute(select(func.pg_backend_pid())).scalar_one()
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 50"))
        first, second = send(connection, ONE, {}), send(connection, ONE, {})
        if is_waiting:
            assert first() == second() == [(1,)]
        with reading(engine) as other:
            other.execution_options(isolation_level="AUTOCOMMIT")
            until(lambda: other.execute(session, {"pid": pid}).scalar_one() == 0, "the timeout")


def sqlite(words: str, code: int) -> sqlite3.Error:
    """Return an error as SQLite raises it."""
    error = sqlite3.OperationalError(words)
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (psycopg.errors.DiskFull(), True),
        (psycopg.errors.OutOfMemory(), True),
        (psycopg.errors.TooManyConnections(), True),
        (psycopg.errors.DeadlockDetected(), True),
        (psycopg.errors.IdleInTransactionSessionTimeout(), True),
        (psycopg.errors.ReadOnlySqlTransaction(), True),
        (psycopg.errors.QueryCanceled(), True),
        (psycopg.errors.IoError(), True),
        # A right, a table, a column is missing: no message is at fault.
        (psycopg.errors.UndefinedColumn(), True),
        (psycopg.errors.UndefinedTable(), True),
        (psycopg.errors.InsufficientPrivilege(), True),
        (psycopg.errors.InvalidCatalogName(), True),
        (psycopg.errors.InvalidSchemaName(), True),
        (psycopg.errors.FeatureNotSupported(), True),
        (psycopg.errors.InvalidPassword(), True),
        (psycopg.errors.InternalError_(), True),
        (psycopg.errors.ObjectNotInPrerequisiteState(), True),
        (psycopg.errors.NoActiveSqlTransaction(), True),
        (psycopg.OperationalError("no state: the server can't be reached"), True),
        (psycopg.errors.CheckViolation(), False),
        (psycopg.errors.NumericValueOutOfRange(), False),
        (psycopg.errors.RaiseException(), False),
        (psycopg.errors.ProgramLimitExceeded(), False),
        (psycopg.DataError("no state: the driver refused a value"), False),
        (sqlite("database or disk is full", sqlite3.SQLITE_FULL), True),
        (sqlite("disk I/O error", sqlite3.SQLITE_IOERR_FSYNC), True),
        (sqlite("database is locked", sqlite3.SQLITE_BUSY_SNAPSHOT), True),
        (sqlite("no such table: cards", sqlite3.SQLITE_ERROR), True),
        (sqlite("unable to open database file", sqlite3.SQLITE_CANTOPEN), True),
        (sqlite("readonly", sqlite3.SQLITE_READONLY_DBMOVED), True),
        (sqlite("database disk image is malformed", sqlite3.SQLITE_CORRUPT), True),
        (sqlite("malformed JSON", sqlite3.SQLITE_ERROR), False),
        (sqlite("integer overflow", sqlite3.SQLITE_ERROR), False),
        (sqlite("CHECK constraint failed", sqlite3.SQLITE_CONSTRAINT_CHECK), False),
        (sqlite("string or blob too big", sqlite3.SQLITE_TOOBIG), False),
        (sqlite3.ProgrammingError("Error binding parameter"), False),
    ],
    ids=repr,
)
def test_only_data_errors_are_not_retryable(error: Exception, retryable: bool) -> None:
    base = sqlite3.Error if isinstance(error, sqlite3.Error) else psycopg.Error
    wrapped = DBAPIError.instance("SELECT", None, error, base)
    assert is_retryable(wrapped) == retryable
