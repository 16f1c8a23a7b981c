"""Whose fault an error of the database is: the message's, or the server's.

A message can be at fault only where its data is: data errors, violated constraints, what a trigger
raises. For everything else the message is innocent, and is tried again until the server is mended:
a missing right, table, disk or server would otherwise turn good messages into dead letters.
"""

import sqlite3

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
# SQLSTATE, the class or all of it, of what passes by itself: 08 connection, 40 deadlock and
# serialization, 53 no disk, memory or connection left, 57 shutdown and cancelled, 58 the machine,
# 55P03 lock timeout, 25P03 idle too long, 25006 a primary that has become a replica.
_PASSING_STATES = ("08", "40", "53", "57", "58", "55P03", "25P03", "25006")
_LOCK_TIMEOUT = "55P03"

# SQLite's primary result codes for the same: constraint, wrong type, too big, out of range.
_SQLITE_DATA = frozenset(
    [
        *(sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH),
        *(sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_RANGE),
    ]
)
# Of the code for everything else, what data can cause.
_SQLITE_DATA_TEXTS = ("malformed JSON", "integer overflow")

# What another commit got in before us does: the next try sees its row and answers accordingly.
_RACES = (
    *("uq_cards_", "pk_cards", "pk_batches", "pk_reserved_names", "uq_tokens_digest"),
    *("cards.account_id", "batches.account_id", "reserved_names.account_id", "tokens.digest"),
)

# Of what the database itself numbers. Its sequence is behind, as after a restore of rows alone.
_NUMBERED = ("pk_outbox", "pk_unpublished")


class OwnFault(Exception):
    """Our own book-keeping failed. No message is at fault; `__cause__` says why."""


def is_retryable(error: BaseException) -> bool:
    """Say whether the same work may succeed later: the server is at fault, or another commit won a
    race. Everything else is a defect of the message, or of our handling of it."""
    if isinstance(error, OwnFault | TimeoutError | PendingRollbackError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    if isinstance(error, IntegrityError):
        return any(name in str(error.orig) for name in (*_RACES, *_NUMBERED))
    if isinstance(error.orig, sqlite3.Error):
        return not _is_sqlite_data(error.orig)
    state = _state(error)
    if state is not None:
        return not state.startswith(_DATA_STATES)
    # Without a state: PostgreSQL can't be reached, or the driver refused the values.
    return isinstance(error, OperationalError | InterfaceError)


def needs_operator(error: BaseException) -> bool:
    """Say whether a retryable error will hardly pass by itself: a right, a table is missing ..."""
    if isinstance(error, OwnFault):
        return True
    orig = error.orig if isinstance(error, DBAPIError) else None
    if isinstance(orig, sqlite3.Error):
        return _sqlite_code(orig) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    state = _state(error)
    return state is not None and not state.startswith(_PASSING_STATES)


def is_lock_timeout(error: BaseException) -> bool:
    """Say whether a statement has waited too long for what another session holds."""
    return _state(error) == _LOCK_TIMEOUT


def _state(error: BaseException) -> str | None:
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    return state if isinstance(state, str) else None


def _sqlite_code(error: sqlite3.Error) -> int:
    # Errors of Python's own module, not of SQLite, have none.
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_RANGE)) & 0xFF


def _is_sqlite_data(error: sqlite3.Error) -> bool:
    code = _sqlite_code(error)
    if code == sqlite3.SQLITE_ERROR:
        return any(words in str(error) for words in _SQLITE_DATA_TEXTS)
    return code in _SQLITE_DATA
