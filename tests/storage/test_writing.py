"""What a large group writes ahead, and how it is told what went wrong with it."""

import sqlite3

import psycopg
import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import DBAPIError

from card_worker.contracts.commands import Command
from card_worker.contracts.message import Letter, read_commands
from card_worker.handler import handle
from card_worker.storage.engine import begin, is_transient, open_engine, reading
from card_worker.storage.tables import cards, unpublished
from card_worker.storage.writing import SLICE, New, writing
from tests.flow import defects

CARDS = 4 * SLICE + 1


def create(*card_ids: str) -> list[Command]:
    fields = {"account_id": "T00000001", "amount": 1, "currency": "NOK"}
    read = [
        read_commands("cards.create", card_id, {**fields, "card_id": card_id})[0]
        for card_id in card_ids
    ]
    return [command for command in read if not isinstance(command, Letter)]


@pytest.mark.parametrize("place", [0, SLICE, CARDS - 1])
def test_a_defect_in_any_slice_is_told_as_it_is_and_leaves_nothing(
    place: int, postgres_url: str
) -> None:
    engine = open_engine(postgres_url)
    defects.plant(engine)
    names = [f"card-{number}" for number in range(CARDS)]
    names[place] = "defect"
    with pytest.raises(DBAPIError) as raised, begin(engine) as (connection, now):
        handle(connection, create(*names), now)
    assert isinstance(raised.value.orig, psycopg.errors.RaiseException)
    assert not is_transient(raised.value)
    # The connection is as good as new.
    with begin(engine) as (connection, now):
        answers = handle(connection, create(*(f"after-{number}" for number in range(CARDS))), now)
    assert len(answers) == CARDS
    with reading(engine) as connection:
        for table in (cards, unpublished):
            assert connection.execute(select(func.count()).select_from(table)).scalar() == CARDS
    engine.dispose()


def test_a_session_that_ends_meanwhile_is_only_an_interruption(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    with pytest.raises(DBAPIError) as raised:
        _write_while_sessions_end(engine, postgres_url)
    assert is_transient(raised.value)
    with begin(engine) as (connection, now):
        assert len(handle(connection, create("card"), now)) == 1
    engine.dispose()


def _write_while_sessions_end(engine: Engine, url: str) -> None:
    with begin(engine) as (connection, _), writing(connection) as writer:
        with psycopg.connect(url, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        writer.write([New(unpublished, [{"position": 1}])])


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (psycopg.errors.DiskFull(), True),
        (psycopg.errors.OutOfMemory(), True),
        (psycopg.errors.TooManyConnections(), True),
        (psycopg.errors.DeadlockDetected(), True),
        (psycopg.errors.IdleInTransactionSessionTimeout(), True),
        (psycopg.errors.ReadOnlySqlTransaction(), True),
        (psycopg.errors.QueryCanceled(), True),
        (psycopg.errors.IoError(), True),
        (psycopg.errors.UndefinedColumn(), False),
        (psycopg.errors.CheckViolation(), False),
        (psycopg.errors.NumericValueOutOfRange(), False),
        (sqlite3.OperationalError("database or disk is full"), True),
        (sqlite3.OperationalError("disk I/O error"), True),
        (sqlite3.OperationalError("database is locked"), True),
        (sqlite3.OperationalError("no such table: cards"), False),
    ],
    ids=repr,
)
def test_what_may_pass_is_tried_again_and_nothing_else(error: Exception, transient: bool) -> None:
    base = sqlite3.Error if isinstance(error, sqlite3.Error) else psycopg.Error
    wrapped = DBAPIError.instance("SELECT", None, error, base)
    assert is_transient(wrapped) == transient
