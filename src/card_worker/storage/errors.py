"""Classes of database errors: caused by the message, or by the server.

Only data errors, violated constraints and errors that triggers raise can be caused by a message.
After all others it is retried until the server is repaired: a missing permission, table, disk or
server would otherwise turn good messages into dead letters.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    PendingRollbackError,
    TimeoutError,
)

# SQLSTATE classes: data exception, constraint violation, program limit (too large for an index),
# raised by a function.
_DATA_STATES = ("22", "23", "54", "P0")
# Classes and codes of temporary errors (SQLSTATE): 08 connection, 40 deadlock and serialization,
# 53 no disk, memory or connection left, 57 shutdown and cancelled, 58 the machine, 26, 42P05 and
# 0A000 a prepared statement of an old session, 55P03 lock timeout, 25P03 idle too long, 25006 a
# primary that has become a replica.
_TEMPORARY_STATES = (
    *("08", "40", "53", "57", "58", "26", "42P05", "0A000"),
    *("55P03", "25P03", "25006"),
)
_LOCK_TIMEOUT = "55P03"

# SQLite's primary result codes for the same: constraint, wrong type, too big, out of range.
_SQLITE_DATA = (
    *(sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH),
    *(sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_RANGE),
)
# Texts of errors that data can cause, among those with SQLite's general code.
_SQLITE_DATA_TEXTS = ("malformed JSON", "integer overflow")

# A unique constraint is violated, or a primary key.
_UNIQUE_STATE = "23505"
_SQLITE_UNIQUE = (
    sqlite3.SQLITE_CONSTRAINT_UNIQUE,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
    sqlite3.SQLITE_CONSTRAINT_ROWID,
)
# The database assigns these keys. After a restore of rows alone, its sequence is behind.
_NUMBERED = ("pk_outbox", "pk_unpublished")
# SQLite names the columns of a violated constraint, and only in the error's text.
_SQLITE_CONSTRAINTS = {
    "UNIQUE constraint failed: outbox.position": "pk_outbox",
    "UNIQUE constraint failed: unpublished.position": "pk_unpublished",
}
RACES_MAX = 10
"""A commit that violates a unique constraint so often in a row is defective: after a lost race, the
next attempt finds the row of the other commit."""

T = TypeVar("T")


class BookkeepingError(Exception):
    """A commit of our own bookkeeping failed. No message has caused it; `__cause__` says why."""


class LostRace(Exception):
    """A commit must begin anew: another one has deleted what was stored for it."""


@contextmanager
def bookkeeping(*expected: type[Exception]) -> Iterator[None]:
    """Raise BookkeepingError for every error that is not retryable: no message has caused it.

    `expected` errors are raised as they are.
    """
    try:
        yield
    except Exception as error:
        if is_retryable(error) or isinstance(error, expected):
            raise
        raise BookkeepingError from error


def is_retryable(error: BaseException) -> bool:
    """Say whether the same work may succeed later, because the server has caused the error.

    All other errors are races, or defects of the message or of our code.
    """
    if isinstance(error, BookkeepingError | TimeoutError | PendingRollbackError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    if isinstance(error, IntegrityError):
        return violated_constraint(error) in _NUMBERED
    if isinstance(error.orig, sqlite3.Error):
        return not _is_sqlite_data(error.orig)
    state = sqlstate(error)
    if state is not None:
        return not state.startswith(_DATA_STATES)
    # An error without a state: PostgreSQL is unavailable, or the driver refused the values.
    return isinstance(error, OperationalError | InterfaceError)


def violated_constraint(error: IntegrityError) -> str | None:
    """Return the name of the violated constraint; None if it is unknown."""
    if isinstance(error.orig, psycopg.Error):
        return error.orig.diag.constraint_name
    return _SQLITE_CONSTRAINTS.get(str(error.orig))


def is_race(error: BaseException) -> bool:
    """Say whether a commit met another one, and may be tried again at once.

    That is a LostRace, or a violated unique constraint: another commit may have inserted the same
    row. It does not matter which constraint: a card is inserted together with its first rows.
    """
    if not isinstance(error, IntegrityError):
        return isinstance(error, LostRace)
    if isinstance(error.orig, sqlite3.Error):
        return getattr(error.orig, "sqlite_errorcode", None) in _SQLITE_UNIQUE
    return sqlstate(error) == _UNIQUE_STATE


def retry_races(work: Callable[[], T]) -> T:
    """Do `work`, which begins with a new commit; repeat it after a lost race.

    Raises the error of the last of RACES_MAX attempts.
    """
    for _ in range(RACES_MAX - 1):
        try:
            return work()
        except (IntegrityError, LostRace) as error:
            if not is_race(error):
                raise
    return work()


def needs_operator(error: BaseException) -> bool:
    """Say whether a retryable error is probably permanent, as a missing permission or table."""
    if isinstance(error, BookkeepingError):
        return True
    orig = error.orig if isinstance(error, DBAPIError) else None
    if isinstance(orig, sqlite3.Error):
        return _sqlite_code(orig) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    state = sqlstate(error)
    return state is not None and not state.startswith(_TEMPORARY_STATES)


def is_lock_timeout(error: BaseException) -> bool:
    """Say whether a statement has waited too long for a lock of another session."""
    return sqlstate(error) == _LOCK_TIMEOUT


def sqlstate(error: BaseException) -> str | None:
    """Return the code of an error of PostgreSQL; None for other errors."""
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    return state if isinstance(state, str) else None


def _sqlite_code(error: sqlite3.Error) -> int:
    # Errors of Python's module itself have no code.
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_RANGE)) & 0xFF


def _is_sqlite_data(error: sqlite3.Error) -> bool:
    code = _sqlite_code(error)
    if code == sqlite3.SQLITE_ERROR:
        return any(words in str(error) for words in _SQLITE_DATA_TEXTS)
    return code in _SQLITE_DATA
