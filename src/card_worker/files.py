"""Writes the files of batches into the store, and confirms their arrival.

The database keeps the content of a file until somebody confirms its arrival. So a file that was
lost, or could not be written, can be written again, byte for byte. A thread of its own writes
files, so that no command waits for the store.
"""

from collections.abc import Callable, Iterable
from hashlib import sha256
from threading import Event, Thread
from time import monotonic
from uuid import uuid4

import structlog
from sqlalchemy import Engine

from card_worker.contracts import keys
from card_worker.contracts.commands import event_id
from card_worker.contracts.enums import EventType
from card_worker.contracts.events import CommandInfo
from card_worker.domain.answers import add_files, batch_data, freeze
from card_worker.domain.rows import File, FileKind
from card_worker.file_store import FileStore
from card_worker.pauses import Pauses, described
from card_worker.storage import leases, outbox
from card_worker.storage.batches import find_batch
from card_worker.storage.bulk_write import write
from card_worker.storage.engine import begin
from card_worker.storage.files import (
    find_files,
    find_unwritten,
    mark_confirmed,
    mark_failed,
    mark_started,
    mark_written,
    read_parts,
)

RENEW_S = 3.0
"""Interval of renewing the lease of a file while it is written."""
ERROR_CHARS_MAX = 200
PAUSE_S_MAX = 60.0
"""The longest pause after the store was unavailable."""

log = structlog.get_logger(__name__)


class Altered(Exception):
    """The content of a file in the database is not what was sealed."""


class StoreUnavailable(Exception):
    """The store accepts no file. `__cause__` is the error."""


class NotConfirmed(Exception):
    """The files of a batch cannot be confirmed. The text, one line, says why."""


def confirm(engine: Engine, account_id: str, batch_id: str, by: str | None = None) -> None:
    """Delete the secrets of a batch whose files have arrived, and emit batch.confirmed.

    `by` names who confirms. Raises NotConfirmed.
    """
    with begin(engine) as (connection, now):
        # The lock makes two confirmations at the same time wait for each other.
        batch = find_batch(connection, account_id, batch_id, lock=True)
        files = find_files(connection, account_id, batch_id)
        files = [file for file in files if file.kind is not FileKind.REFUSED]
        if batch is None or not files:
            raise NotConfirmed(f"there is no file of a batch {batch_id}")
        for file in files:
            if file.confirmed_at is not None:
                raise NotConfirmed(f"{file.name} was confirmed before; its secrets are deleted")
            if file.written_at is None:
                why = file.last_error or "it is waiting to be written"
                raise NotConfirmed(f"{file.name} hasn't been written yet: {why}")
            mark_confirmed(connection, file, now)
        cause = CommandInfo(
            command="cards.batch_create",
            command_id=batch.command_id or batch_id,
            account_id=account_id,
        )
        data = batch_data(cause, batch)
        add_files(data, files)
        if by is not None:
            data["confirmed_by"] = by
        id = event_id(account_id, keys.confirmation(batch_id))
        event = freeze(data, id=id, type=EventType.BATCH_CONFIRMED, subject=batch_id, at=now)
        write(connection, [outbox.new_rows([event])])


def write_files(
    engine: Engine, store: FileStore, *, stopping: Callable[[], bool] = lambda: False
) -> int:
    """Write all files that are due into the store; return their number.

    A file that cannot be written is tried again later, with growing pauses. Raises
    StoreUnavailable if the store accepts no file at all.
    """
    count, passed, holder = 0, set[str](), uuid4().hex
    while not stopping():
        with begin(engine) as (connection, now):
            file = find_unwritten(connection, now, passed)
            if file is None:
                return count
            # No row stays locked while the store works. Two writers of a file would do no harm.
            has_lease = leases.take(connection, _lease(file), holder, at=monotonic())
            if has_lease:
                mark_started(connection, file)
        if not has_lease:
            passed.add(file.name)
            continue
        error = _put(engine, store, file, holder)
        with begin(engine) as (connection, now):
            if error is not None:
                mark_failed(connection, file, now, _description(error))
            elif mark_written(connection, file, now):
                count += 1
            leases.release(connection, _lease(file), holder)
        if error is not None and not isinstance(error, Altered):
            _check_store(store, error)
    return count


def _put(engine: Engine, store: FileStore, file: File, holder: str) -> Exception | None:
    """Put a file into the store; return the error if that fails."""
    is_abandoned = Event()
    try:
        store.put(file.name, _content(engine, file, holder, is_abandoned), size=file.bytes)
    except Exception as error:
        # A full disk, missing rights, an unavailable store: each library of fsspec has its errors.
        log.warning("file not written", file=file.name, error=type(error).__name__)
        return error
    finally:
        is_abandoned.set()
    log.info("file written", file=file.name, cards=file.cards)
    return None


def _content(engine: Engine, file: File, holder: str, is_abandoned: Event) -> Iterable[bytes]:
    """Yield the content of a file, and renew its lease.

    Raises Altered at the end if it is not what was sealed, TimeoutError when `is_abandoned` is set.
    """
    size, digest, renew_at = 0, sha256(), monotonic() + RENEW_S
    for part in read_parts(engine, file):
        if is_abandoned.is_set():
            raise TimeoutError
        size += len(part)
        digest.update(part)
        yield part
        if monotonic() > renew_at:
            with begin(engine) as (connection, _):
                leases.take(connection, _lease(file), holder, at=monotonic())
            renew_at = monotonic() + RENEW_S
    if (size, digest.hexdigest()) != (file.bytes, file.sha256):
        raise Altered("its content in the database is not what was sealed")


def _description(error: Exception) -> str:
    """Describe an error without texts of other libraries, which may contain a password."""
    text = error.strerror if isinstance(error, OSError) else None
    if not text and isinstance(error, Altered | TimeoutError):
        text = str(error)
    return f"{type(error).__name__}: {text or 'see the log'}"[:ERROR_CHARS_MAX]


def _check_store(store: FileStore, error: Exception) -> None:
    """Raise StoreUnavailable if `error` concerns the whole store, not only one file."""
    if isinstance(error, TimeoutError):
        raise StoreUnavailable from error
    try:
        store.probe()
    except Exception as error_of_probe:
        raise StoreUnavailable from error_of_probe


def _lease(file: File) -> str:
    return f"file {file.name}"


class FileWriter:
    """A thread that writes the files that are due whenever it is woken."""

    def __init__(self, engine: Engine, store: FileStore) -> None:
        self._engine, self._store = engine, store
        self._is_woken, self._is_closed = Event(), Event()
        self._thread: Thread | None = None

    def wake(self) -> None:
        """Start writing the files that are due, in the thread; return at once."""
        self._is_woken.set()
        if self._thread is None:
            self._thread = Thread(target=self._run, name="file writer", daemon=True)
            self._thread.start()

    def close(self, *, within_s: float) -> None:
        """Begin no further file; wait up to `within_s` seconds for the end of the current one."""
        self._is_closed.set()
        self._is_woken.set()
        if self._thread is not None:
            self._thread.join(within_s)

    def _run(self) -> None:
        pauses = Pauses(first_s=1.0, max_s=PAUSE_S_MAX)
        self._log_store()
        while self._is_woken.wait() and not self._is_closed.is_set():
            self._is_woken.clear()
            try:
                write_files(self._engine, self._store, stopping=self._is_closed.is_set)
            except StoreUnavailable as error:
                # Calls of `wake` during the pause take effect after it.
                pause_s = pauses.log_next("file store unavailable", error.__cause__ or error)
                self._is_closed.wait(pause_s)
            except Exception as error:
                log.warning("files not written", **described(error))

    def _log_store(self) -> None:
        """Log at the start whether the store accepts files."""
        try:
            self._store.probe()
        except Exception as error:
            log.warning("file store unavailable", store=str(self._store), **described(error))
        else:
            log.info("file store ready", store=str(self._store))
