"""Files about batches, put where their owners fetch them: whole or not at all.

Their content stands in the database until somebody confirms that it has arrived. So a file that
was lost, or couldn't be written, is made again, byte for byte. A thread of its own puts files, so
that no command waits for a store.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from hashlib import sha256
from threading import Event, Thread
from time import monotonic
from uuid import uuid4

import structlog
from sqlalchemy import Connection, Engine

from card_worker.contracts import keys
from card_worker.contracts.commands import event_id
from card_worker.contracts.enums import EventType
from card_worker.contracts.events import CommandInfo
from card_worker.domain.answers import add_files, batch_data, freeze
from card_worker.domain.rows import Batch, File, Holds
from card_worker.file_store import FileStore
from card_worker.pauses import Pauses, described
from card_worker.storage import leases, outbox
from card_worker.storage.batches import find_batch
from card_worker.storage.bulk_write import write
from card_worker.storage.engine import begin
from card_worker.storage.files import (
    begun,
    confirmed,
    find_files,
    first_waiting,
    not_written,
    parts,
    written,
)

RENEW_S = 3.0
"""How often the lease of a file is counted up while its parts are read."""
ERROR_CHARS_MAX = 200
PAUSE_S_MAX = 60.0
"""The longest pause after the store took no file."""

log = structlog.get_logger(__name__)


class Altered(Exception):
    """The content of a file in the database isn't what was sealed."""


class StoreUnavailable(Exception):
    """The store takes no file; `__cause__` says why."""


class NotConfirmed(Exception):
    """The files of a batch can't be confirmed. The text says why, in a line."""


def confirm(engine: Engine, account_id: str, batch_id: str, by: str | None = None) -> None:
    """Delete the secrets of a batch, whose files have arrived, and tell the world so.

    Raises NotConfirmed.
    """
    with begin(engine) as (connection, now):
        # Two who confirm at once meet here.
        batch = find_batch(connection, account_id, batch_id, lock=True)
        files = find_files(connection, account_id, batch_id)
        secret = [file for file in files if file.holds is not Holds.REFUSED]
        if batch is None or not secret:
            raise NotConfirmed(f"there is no file of a batch {batch_id}")
        for file in secret:
            if file.confirmed_at is not None:
                raise NotConfirmed(f"{file.name} was confirmed; its secrets are deleted")
            if file.written_at is None:
                why = file.last_error or "it waits"
                raise NotConfirmed(f"{file.name} hasn't been written yet: {why}")
            confirmed(connection, file, now)
        _tell_confirmed(connection, batch, secret, now, by)


def _tell_confirmed(
    connection: Connection, batch: Batch, files: list[File], now: datetime, by: str | None
) -> None:
    said = CommandInfo(
        command="cards.batch_create",
        command_id=batch.command_id or batch.batch_id,
        account_id=batch.account_id,
    )
    data = batch_data(said, batch)
    add_files(data, files)
    if by is not None:
        data["confirmed_by"] = by
    id = event_id(batch.account_id, keys.confirmation(batch.batch_id))
    told = freeze(data, id=id, type=EventType.BATCH_CONFIRMED, subject=batch.batch_id, at=now)
    write(connection, [outbox.new([told])])


def write_files(
    engine: Engine, store: FileStore, *, stopping: Callable[[], bool] = lambda: False
) -> int:
    """Put all files in place whose next try is due; return how many.

    A file that can't be put is tried again later, after growing pauses. Raises StoreUnavailable
    if the store takes no file at all.
    """
    put, passed, holder = 0, set[str](), uuid4().hex
    while not stopping():
        with begin(engine) as (connection, now):
            file = first_waiting(connection, now, passed)
            if file is None:
                return put
            # Nothing is locked while a store takes its time. Twice at once does no harm.
            is_ours = leases.take(connection, _lease(file), holder, at=monotonic())
            if is_ours:
                begun(connection, file)
        if not is_ours:
            passed.add(file.name)
            continue
        failure = _put(engine, store, file, holder)
        with begin(engine) as (connection, now):
            if failure is not None:
                not_written(connection, file, now, _why(failure))
            elif written(connection, file, now):
                put += 1
            leases.release(connection, _lease(file), holder)
        if failure is not None and not isinstance(failure, Altered):
            _check_store(store, failure)
    return put


def _put(engine: Engine, store: FileStore, file: File, holder: str) -> Exception | None:
    """Put a file in its place; return why it can't be."""
    is_over = Event()
    try:
        store.put(file.name, _whole(engine, file, holder, is_over), size=file.bytes)
    except Exception as error:
        # A full disk, a folder that may not be written, a store that is away: each fsspec library
        # raises errors of its own.
        log.warning("file not written", file=file.name, error=type(error).__name__)
        return error
    finally:
        is_over.set()
    log.info("file written", file=file.name, cards=file.cards)
    return None


def _why(failure: Exception) -> str:
    """Say what went wrong, without texts of other libraries: they may hold a password."""
    match failure:
        case Altered():
            said: str | None = "its content in the database isn't what was sealed"
        case TimeoutError():
            said = failure.strerror or str(failure)
        case OSError():
            said = failure.strerror
        case _:
            said = None
    return f"{type(failure).__name__}: {said or 'see the log'}"[:ERROR_CHARS_MAX]


def _check_store(store: FileStore, failure: Exception) -> None:
    """Find out whether a failure concerns one file or the whole store. Raises StoreUnavailable."""
    if isinstance(failure, TimeoutError):
        raise StoreUnavailable from failure
    try:
        store.probe()
    except Exception as error:
        raise StoreUnavailable from error


def _whole(engine: Engine, file: File, holder: str, is_over: Event) -> Iterable[bytes]:
    """Yield the content of a file. Raises Altered at its end if it isn't what was sealed.

    `is_over` says that nobody waits for the file any more.
    """
    size, digest, renew_at = 0, sha256(), monotonic() + RENEW_S
    for part in parts(engine, file):
        if is_over.is_set():
            raise TimeoutError
        size += len(part)
        digest.update(part)
        yield part
        if monotonic() > renew_at:
            with begin(engine) as (connection, _):
                leases.take(connection, _lease(file), holder, at=monotonic())
            renew_at = monotonic() + RENEW_S
    if (size, digest.hexdigest()) != (file.bytes, file.sha256):
        raise Altered(file.name)


def _lease(file: File) -> str:
    return f"file {file.name}"


class FileWriter:
    """A thread that puts files when it is woken. It is started by the first call."""

    def __init__(self, engine: Engine, store: FileStore) -> None:
        self._engine, self._store = engine, store
        self._is_wanted, self._is_closed = Event(), Event()
        self._thread: Thread | None = None

    def wake(self) -> None:
        """Let files that wait be put. Returns at once."""
        self._is_wanted.set()
        if self._thread is None:
            self._thread = Thread(target=self._run, name="file writer", daemon=True)
            self._thread.start()

    def close(self, *, within_s: float) -> None:
        """Put no further file; wait for the end of the one at hand, at most so long."""
        self._is_closed.set()
        self._is_wanted.set()
        if self._thread is not None:
            self._thread.join(within_s)

    def _run(self) -> None:
        pauses = Pauses(first_s=1.0, max_s=PAUSE_S_MAX)
        self._probe()
        while self._is_wanted.wait() and not self._is_closed.is_set():
            self._is_wanted.clear()
            try:
                write_files(self._engine, self._store, stopping=self._is_closed.is_set)
            except StoreUnavailable as error:
                # Whoever wakes the thread meanwhile is served after the pause.
                pause_s = pauses.log_next("file store unavailable", error.__cause__ or error)
                self._is_closed.wait(pause_s)
            except Exception as error:
                log.warning("files put off", **described(error))

    def _probe(self) -> None:
        """Say at the start whether the store takes files."""
        try:
            self._store.probe()
        except Exception as error:
            log.warning("file store unavailable", store=str(self._store), **described(error))
        else:
            log.info("file store ready", store=str(self._store))
