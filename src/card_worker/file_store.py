"""The store that files are put into: a folder, or whatever else an fsspec URL names.

A store may be away, or hang. So it is opened when it is used, and each call has a time limit.
"""

import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import time
from typing import Any
from uuid import uuid4

from fsspec import get_filesystem_class
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

BEGUN = ".writing+"
"""The beginning of a file's name while it is written. No other file here has a + in its name."""
ABANDONED_S = 3600.0
"""A file that nobody has written to for so long."""
CALL_MAX_S = 60.0
"""Time limit of a call, besides what the bytes of a file take."""
BYTES_PER_S_MIN = 256 * 1024
PROBE_BYTES = 4096
"""Size of the file that a probe writes: on a full disk an empty one may still have room."""


class FileStore:
    """A folder, or whatever else an fsspec URL names. Nothing is opened before it is used."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._calls = _Calls()

    def __str__(self) -> str:
        # A URL may hold a password.
        return self._url.partition("://")[0] + "://..." if "://" in self._url else self._url

    def check(self) -> None:
        """Raise ImportError or ValueError if a library for the URL is missing. Opens nothing."""
        for layer in self._url.split("::"):
            scheme, _, rest = layer.partition("://")
            if rest or "::" in self._url:
                get_filesystem_class(scheme.lower())

    def put(self, name: str, content: Iterable[bytes], *, size: int = 0) -> None:
        """Put a file in its place. Whoever looks sees all of it, or what was there before.

        `size` is that of the content in bytes, for the time limit. Raises TimeoutError, other
        OSErrors, and what the store's own library or `content` raises.
        """
        limit_s = CALL_MAX_S + size / BYTES_PER_S_MIN
        self._calls.run(lambda: self._put(name, content), within_s=limit_s)

    def probe(self) -> None:
        """Put a small file and remove it. Raises as `put` does."""
        self._calls.run(self._put_and_remove, within_s=CALL_MAX_S)

    def _put_and_remove(self) -> None:
        name = f"{BEGUN}{uuid4().hex}"
        self._put(name, [bytes(PROBE_BYTES)])
        fs, root = self._opened
        with suppress(Exception):  # not everybody who may write to a store may delete
            fs.rm_file(f"{root}/{name}")

    def _put(self, name: str, content: Iterable[bytes]) -> None:
        fs, root = self._opened
        path = f"{root}/{name}"
        if isinstance(fs, LocalFileSystem):
            _put_locally(Path(path), content)
            return
        # An object store's own put is whole or not at all, and begins with a whole file.
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder) / "content"
            _put_locally(here, content)
            fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            fs.put_file(str(here), path)

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        fs, root = url_to_fs(self._url)
        return fs, root.rstrip("/")


class _Calls:
    """Calls to a store, one at a time, each in a thread that can be left behind."""

    def __init__(self) -> None:
        self._thread: Thread | None = None

    @property
    def is_busy(self) -> bool:
        """Say whether a call has not ended yet."""
        return self._thread is not None and self._thread.is_alive()

    def run(self, work: Callable[[], None], *, within_s: float) -> None:
        """Do `work`. Raises what it raises, and TimeoutError if it takes longer, or if an earlier
        call that took longer has still not ended."""
        if self.is_busy:
            raise TimeoutError("an earlier call has not ended")
        ends = SimpleQueue[BaseException | None]()

        def call() -> None:
            try:
                work()
            except BaseException as error:
                ends.put(error)
            else:
                ends.put(None)

        self._thread = Thread(target=call, name="file store", daemon=True)
        self._thread.start()
        try:
            error = ends.get(timeout=within_s)
        except Empty:
            raise TimeoutError(f"took longer than {within_s:.0f} s") from None
        if error is not None:
            raise error


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
