"""Validates the setting FILES_URL."""

import re
from pathlib import Path

from fsspec import available_protocols

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//)?")
_LOCAL = ("file", "local")


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
    if scheme in _LOCAL and not store[match.end() :].startswith("/"):
        raise ValueError("must have an absolute path: file:///folder")
    return text
