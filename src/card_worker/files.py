"""Sealed files of cards, put where their owners fetch them: whole or not at all.

What the files hold stands in the database until somebody confirms that it has arrived. So a file
that was lost, or couldn't be written, is made again, byte for byte.
"""

import base64
import os
import tempfile
from pathlib import Path

import structlog
from fsspec.core import url_to_fs
from sqlalchemy import Engine

from card_worker.domain.rows import File
from card_worker.storage.engine import begin
from card_worker.storage.files import unwritten, written

FILES_TOGETHER = 10

log = structlog.get_logger(__name__)


class FileStore:
    """A folder, or whatever else an fsspec URL names."""

    def __init__(self, url: str) -> None:
        self._fs, self._root = url_to_fs(url)

    def put(self, name: str, content: bytes) -> None:
        """Put a file in its place. Whoever looks sees all of it, or what was there before.

        Raises OSError, and what the store's own library raises.
        """
        path = f"{self._root.rstrip('/')}/{name}"
        if "file" in self._protocols:
            _put_locally(Path(path), content)
        else:  # an object store's own put is whole or not at all
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(path, content)

    @property
    def _protocols(self) -> tuple[str, ...]:
        named = self._fs.protocol
        return (named,) if isinstance(named, str) else tuple(named)


def write_files(engine: Engine, store: FileStore) -> int:
    """Put all files in place that aren't yet; return how many. What can't be put is left."""
    put, tried = 0, set[tuple[str, str]]()
    while True:
        with begin(engine) as (connection, now):
            waiting = unwritten(connection, FILES_TOGETHER, tried)
            for file in waiting:
                if _put(store, file):
                    written(connection, file, now)
                    put += 1
                tried.add((file.account_id, file.batch_id))
        if len(waiting) < FILES_TOGETHER:
            return put


def _put(store: FileStore, file: File) -> bool:
    assert file.sealed is not None
    try:
        store.put(file.name, base64.b64decode(file.sealed))
    except Exception as error:
        # A full disk, a folder that may not be written, a store that is away: the next sweep tries
        # again. The fsspec of each store raises errors of its own.
        log.warning("file not written", file=file.name, error=type(error).__name__)
        return False
    log.info("file written", file=file.name, cards=file.cards)
    return True


def _put_locally(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that moving it there is one step.
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
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
