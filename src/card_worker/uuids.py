"""UUIDs (RFC 9562) by the thousand: 16 bytes each, since a UUID object takes longer to make; and
those of names, where an object is wanted."""

import hashlib
from collections.abc import Callable
from functools import cache
from uuid import UUID

BYTES = 16
_VARIANT = bytes(value & 0x3F | 0x80 for value in range(256))


def stamp(raw: bytes, version: int) -> bytes:
    """Return what `raw`, 16 bytes for each, is as UUIDs of this version, one after the other.

    All bits stay as they are but those that say which version and variant it is.
    """
    stamped = bytearray(raw)
    stamped[6::BYTES] = stamped[6::BYTES].translate(_version(version))
    stamped[8::BYTES] = stamped[8::BYTES].translate(_VARIANT)
    return bytes(stamped)


def cut(uuids: bytes) -> list[bytes]:
    """Return the UUIDs that stand one after the other."""
    return [uuids[start : start + BYTES] for start in range(0, len(uuids), BYTES)]


@cache
def _version(version: int) -> bytes:
    return bytes(value & 0x0F | version << 4 for value in range(256))


def named(namespace: UUID) -> Callable[[str], UUID]:
    """Return what gives the UUID (version 5) of a name: `uuid5`, begun once."""
    begun = hashlib.sha1(namespace.bytes, usedforsecurity=False)

    def of(name: str) -> UUID:
        hashing = begun.copy()
        hashing.update(name.encode())
        return UUID(bytes=hashing.digest()[:BYTES], version=5)

    return of
