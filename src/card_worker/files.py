"""Files about batches, put where their owners fetch them: whole or not at all.

What they hold stands in the database until somebody confirms that it has arrived. So a file that
was lost, or couldn't be written, is made again, byte for byte.
"""

import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from time import monotonic, time
from uuid import uuid4

import structlog
from fsspec.core import url_to_fs
from sqlalchemy import Connection, Engine

from card_worker.contracts import keys
from card_worker.contracts.commands import event_id
from card_worker.contracts.events import Said
from card_worker.contracts.kinds import EventType
from card_worker.domain.answers import add_files, batch_data, freeze
from card_worker.domain.rows import Batch, File, Holds
from card_worker.storage import leases, outbox
from card_worker.storage.batches import find_batch
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
from card_worker.storage.writing import write

RENEW_S = 3.0
"""How often the lease of a file is counted up while its parts are read."""
TROUBLE_CHARS_MAX = 200
BEGUN = ".writing+"
"""The beginning of a file's name while it is written. No other file here has a + in its name."""
ABANDONED_S = 3600.0
"""A file that nobody has written to for so long."""

log = structlog.get_logger(__name__)


class FileStore:
    """A folder, or whatever else an fsspec URL names."""

    def __init__(self, url: str) -> None:
        self._fs, self._root = url_to_fs(url)

    def put(self, name: str, content: Iterable[bytes]) -> None:
        """Put a file in its place. Whoever looks sees all of it, or what was there before.

        Raises OSError, and what the store's own library or `content` raises.
        """
        path = f"{self._root.rstrip('/')}/{name}"
        if "file" in self._protocols:
            _put_locally(Path(path), content)
            return
        # An object store's own put is whole or not at all, and begins with a whole file.
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder) / "content"
            _put_locally(here, content)
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.put_file(str(here), path)

    @property
    def _protocols(self) -> tuple[str, ...]:
        named = self._fs.protocol
        return (named,) if isinstance(named, str) else tuple(named)


class Incomplete(Exception):
    """What a file holds isn't all there any more."""


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
                why = file.trouble or "it waits"
                raise NotConfirmed(f"{file.name} hasn't been written yet: {why}")
            confirmed(connection, file, now)
        _tell_confirmed(connection, batch, secret, now, by)


def _tell_confirmed(
    connection: Connection, batch: Batch, files: list[File], now: datetime, by: str | None
) -> None:
    said = Said(
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


def write_files(engine: Engine, store: FileStore) -> int:
    """Put all files in place that aren't yet; return how many. What can't be put is left."""
    put, tried, holder = 0, set[str](), uuid4().hex
    while True:
        with begin(engine) as (connection, _):
            file = first_waiting(connection, tried)
            if file is None:
                return put
            # Nothing is locked while a store takes its time. Twice at once does no harm.
            is_ours = leases.take(connection, _lease(file), holder, at=monotonic())
            if is_ours:
                begun(connection, file)
        tried.add(file.name)
        if is_ours:
            why = _put(engine, store, file, holder)
            with begin(engine) as (connection, now):
                if why is not None:
                    not_written(connection, file, why)
                elif written(connection, file, now):
                    put += 1
                else:
                    tried.discard(file.name)
                leases.release(connection, _lease(file), holder)


def _put(engine: Engine, store: FileStore, file: File, holder: str) -> str | None:
    """Put a file in its place; return why it can't be."""
    try:
        store.put(file.name, _whole(engine, file, holder))
    except Exception as error:
        # A full disk, a folder that may not be written, a store that is away: the next sweep tries
        # again. The fsspec of each store raises errors of its own.
        log.warning("file not written", file=file.name, error=type(error).__name__)
        said = error.strerror if isinstance(error, OSError) else None
        return f"{type(error).__name__}: {said or 'see the log'}"[:TROUBLE_CHARS_MAX]
    log.info("file written", file=file.name, cards=file.cards)
    return None


def _whole(engine: Engine, file: File, holder: str) -> Iterable[bytes]:
    size, renew_at = 0, monotonic() + RENEW_S
    for part in parts(engine, file):
        size += len(part)
        yield part
        if monotonic() > renew_at:
            with begin(engine) as (connection, _):
                leases.take(connection, _lease(file), holder, at=monotonic())
            renew_at = monotonic() + RENEW_S
    if size != file.bytes:
        raise Incomplete(file.name)


def _lease(file: File) -> str:
    return f"file {file.name}"


def _clear(folder: Path) -> None:
    """Remove what those left who died while they wrote."""
    for left in folder.glob(f"{BEGUN}*"):
        with suppress(FileNotFoundError):
            if time() - left.stat().st_mtime > ABANDONED_S:
                left.unlink()


def _put_locally(path: Path, content: Iterable[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear(path.parent)
    # Beside its place, so that moving it there is one step.
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=BEGUN)
    try:
        with os.fdopen(handle, "wb") as file:
            for part in content:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
