"""UUIDs (RFC 9562) in bulk. They are 16 bytes each, because UUID objects take longer to create."""

import hashlib
from collections.abc import Callable
from functools import cache
from uuid import UUID

BYTES = 16
_VARIANT = bytes(value & 0x3F | 0x80 for value in range(256))


def stamp(raw: bytes, version: int) -> bytes:
    """Set the bits for version and variant in `raw`, which has 16 bytes for each UUID."""
    stamped = bytearray(raw)
    stamped[6::BYTES] = stamped[6::BYTES].translate(_version(version))
    stamped[8::BYTES] = stamped[8::BYTES].translate(_VARIANT)
    return bytes(stamped)


def cut(uuids: bytes) -> list[bytes]:
    """Split concatenated UUIDs."""
    return [uuids[start : start + BYTES] for start in range(0, len(uuids), BYTES)]


@cache
def _version(version: int) -> bytes:
    return bytes(value & 0x0F | version << 4 for value in range(256))


def named(namespace: UUID) -> Callable[[str], UUID]:
    """Return a function from a name to its UUID (version 5), faster than `uuid5`."""
    prefix = hashlib.sha1(namespace.bytes, usedforsecurity=False)

    def of(name: str) -> UUID:
        hashing = prefix.copy()
        hashing.update(name.encode())
        return UUID(bytes=hashing.digest()[:BYTES], version=5)

    return of
