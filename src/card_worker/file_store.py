"""The store for the files of batches: a folder, or anything else that an fsspec URL names.

A store may be unavailable, or hang. So it is opened on first use, and each call has a time limit.
"""

import os
import re
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from threading import Thread
from time import time
from typing import Any
from uuid import uuid4

from fsspec import available_protocols, get_filesystem_class
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

UNFINISHED = ".writing+"
"""The beginning of a file's name while it is written. Names of finished files have no +."""
ABANDONED_S = 3600.0
"""Unfinished files that have not changed for so long are removed."""
CALL_MAX_S = 60.0
"""Time limit of a call, in addition to the time for the bytes of a file."""
BYTES_PER_S_MIN = 256 * 1024
PROBE_BYTES = 4096
"""Size of the file that a probe writes. A full disk may still have room for an empty one."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//)?")


def read_files_url(text: str) -> str:
    """Return the fsspec URL of a store, or the absolute path of a folder.

    Raises ValueError, whose text repeats no part of `text`.
    """
    if not text.strip():
        raise ValueError("must not be blank")
    *layers, store = text.split("::")
    schemes = [layer.partition(":")[0].lower() for layer in layers]
    match = _SCHEME.match(store)
    if match is None:
        if layers or "://" in store:
            raise ValueError("must be a folder or a URL, such as file:///folder")
        return str(Path(store).absolute())
    scheme, slashes = match[1].lower(), match[2]
    if "memory" in (*schemes, scheme):
        raise ValueError("must not be in memory: the files would be lost when the worker ends")
    if not {*schemes, scheme} <= set(available_protocols()):
        raise ValueError("has a scheme that fsspec does not support")
    if slashes is None:
        raise ValueError("must be a folder, or a URL with :// behind its scheme")
    if scheme in ("file", "local") and not store[match.end() :].startswith("/"):
        raise ValueError("must have an absolute path: file:///folder")
    return text


class FileStore:
    """A folder, or anything else that an fsspec URL names."""

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
        """Write a file. Readers see either the whole file, or what was there before.

        `size` is that of the content in bytes, for the time limit. Raises TimeoutError, other
        OSErrors, and the errors of `content` and of the library of the store.
        """
        limit_s = CALL_MAX_S + size / BYTES_PER_S_MIN
        self._calls.run(lambda: self._put(name, content), within_s=limit_s)

    def probe(self) -> None:
        """Write a small file and remove it. Raises the errors of `put`."""
        self._calls.run(self._put_and_remove, within_s=CALL_MAX_S)

    def _put_and_remove(self) -> None:
        name = f"{UNFINISHED}{uuid4().hex}"
        self._put(name, [bytes(PROBE_BYTES)])
        fs, root = self._opened
        with suppress(Exception):  # deleting may not be allowed
            fs.rm_file(f"{root}/{name}")

    def _put(self, name: str, content: Iterable[bytes]) -> None:
        fs, root = self._opened
        path = f"{root}/{name}"
        if isinstance(fs, LocalFileSystem):
            _put_locally(Path(path), content)
            return
        # The put of an object store is atomic, and needs a complete local file.
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "content"
            _put_locally(copy, content)
            fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            fs.put_file(str(copy), path)

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        fs, root = url_to_fs(self._url)
        return fs, root.rstrip("/")


class _Calls:
    """Calls to a store, one at a time, each in a thread that can be abandoned."""

    def __init__(self) -> None:
        self._last = Future[None]()
        self._last.set_result(None)

    @property
    def is_busy(self) -> bool:
        """Whether the last call has not ended yet."""
        return not self._last.done()

    def run(self, work: Callable[[], None], *, within_s: float) -> None:
        """Call `work`. Raises its errors, or TimeoutError if it or an earlier call takes longer."""
        if self.is_busy:
            raise TimeoutError("an earlier call has not ended")
        self._last = future = Future[None]()

        def call() -> None:
            try:
                work()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)

        Thread(target=call, name="file store", daemon=True).start()
        if not wait([future], within_s).done:
            raise TimeoutError(f"took longer than {within_s:.0f} s")
        future.result()


def _put_locally(path: Path, content: Iterable[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent)
    # In the same folder, so that it can be renamed in one step.
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as file:
            for part in content:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        Path(unfinished).replace(path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _remove_abandoned(folder: Path) -> None:
    """Remove the unfinished files of processes that died while they wrote."""
    for file in folder.glob(f"{UNFINISHED}*"):
        with suppress(FileNotFoundError):
            if time() - file.stat().st_mtime > ABANDONED_S:
                file.unlink()
