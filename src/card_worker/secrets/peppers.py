"""Keyed hashes of tokens and PINs. The keys, called peppers, are not in the database."""

import base64
import binascii
import hmac
import os
import re
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

KEY_BYTES, KEY_BYTES_MIN = 32, 16
_LENGTH_OF_UUID = (16).to_bytes(4, "big")
# RFC 2104: the size of a block in bytes, and the paddings of the inner and the outer hash.
_BLOCK = 64
_INSIDE, _OUTSIDE = (bytes(value ^ pad for value in range(256)) for pad in (0x36, 0x5C))
_KID = re.compile(r"[A-Za-z0-9_-]{1,16}", re.ASCII)


class Pepper(NamedTuple):
    """A key and its name, which is stored with each hash made with it."""

    kid: str
    key: bytes

    def __repr__(self) -> str:
        return f"Pepper({self.kid!r})"


class Hash(NamedTuple):
    """HMAC-SHA256 as 64 hex digits, and the name of its key."""

    kid: str
    digest: str


class Hashes(NamedTuple):
    """Hashes of many values, in their order, all with the same key."""

    kid: str
    digests: list[str]

    def each(self) -> Iterator[Hash]:
        return (Hash(self.kid, digest) for digest in self.digests)


class Peppers:
    """Several keys: the newest makes new hashes, older ones still verify theirs."""

    def __init__(self, peppers: Iterable[Pepper]) -> None:
        self._by_kid = {pepper.kid: pepper for pepper in peppers}
        self._newest = next(iter(self._by_kid.values()))

    @classmethod
    def read(cls, text: str) -> "Peppers":
        """Parse `name:base64,name:base64`, the newest first.

        Raises ValueError, whose text repeats no part of `text`.
        """
        peppers = [_read(part, place) for place, part in enumerate(text.split(","))]
        if len({pepper.kid for pepper in peppers}) < len(peppers):
            raise ValueError("two keys have the same name")
        return cls(peppers)

    @property
    def keys(self) -> frozenset[bytes]:
        return frozenset(pepper.key for pepper in self._by_kid.values())

    def hash_tokens(self, account_id: str, values: Iterable[str]) -> Hashes:
        """Return the hashes of many tokens of an account."""
        kid, key = self._newest
        digest = prefixed_hmac(key, _with_lengths(b"token", account_id.encode()))
        return Hashes(kid, [digest(_with_length(value.encode())) for value in values])

    def hash_pins(self, cards: Iterable[bytes], values: Iterable[str]) -> Hashes:
        """Return the hashes of the PINs of many cards, given by their ids of 16 bytes."""
        kid, key = self._newest
        digest = prefixed_hmac(key, _with_lengths(b"pin") + _LENGTH_OF_UUID)
        each = zip(cards, values, strict=True)
        return Hashes(kid, [digest(card + _with_length(value.encode())) for card, value in each])

    def newest_key(self, purpose: bytes) -> tuple[str, bytes]:
        """Return the name of the newest pepper, and a key of 32 bytes derived from it."""
        kid, key = self._newest
        return kid, _derived_key(key, purpose)

    @property
    def names(self) -> frozenset[str]:
        """The names of all of them."""
        return frozenset(self._by_kid)

    def key(self, kid: str, purpose: bytes) -> bytes | None:
        """Return the key derived from the pepper called `kid`; None if there is none."""
        pepper = self._by_kid.get(kid)
        return None if pepper is None else _derived_key(pepper.key, purpose)

    def token_hashes(self, account_id: str, value: str) -> list[Hash]:
        """Return the hashes of a token with each pepper, the newest first."""
        parts = b"token", account_id.encode(), value.encode()
        return [_hash(pepper, *parts) for pepper in self._by_kid.values()]

    def hash_pin(self, card: UUID, value: str) -> Hash:
        """Return the hash of a card's PIN. Equal PINs of two cards have different hashes."""
        return _hash(self._newest, b"pin", card.bytes, value.encode())

    def verify_pin(self, card: UUID, stored: Hash, value: str) -> bool:
        """Return whether `value` is the card's PIN. Takes the same time if it isn't."""
        pepper = self._by_kid.get(stored.kid)
        given = _hash(pepper or self._newest, b"pin", card.bytes, value.encode())
        return hmac.compare_digest(given.digest, stored.digest) and pepper is not None


def new_pepper(name: str) -> str:
    """Generate a pepper in the form `name:base64`. Raises ValueError if the name is invalid."""
    text = f"{name}:{base64.b64encode(os.urandom(KEY_BYTES)).decode()}"
    _read(text, 0)
    return text


def _read(part: str, place: int) -> Pepper:
    kid, colon, encoded = part.strip().partition(":")
    if not colon or not _KID.fullmatch(kid):
        raise ValueError(f"key {place + 1}: use name:base64, the name of up to 16 of A-Za-z0-9_-")
    try:
        key = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise ValueError(f"key {place + 1}: not base64") from None
    if len(key) < KEY_BYTES_MIN:
        raise ValueError(f"key {place + 1}: {len(key)} bytes, at least {KEY_BYTES_MIN} are needed")
    return Pepper(kid, key)


def _hash(pepper: Pepper, *parts: bytes) -> Hash:
    return Hash(pepper.kid, hmac.digest(pepper.key, _with_lengths(*parts), "sha256").hex())


def _with_lengths(*parts: bytes) -> bytes:
    # Each part follows its length, so that no two lists of parts give the same message.
    return b"".join(map(_with_length, parts))


def _with_length(part: bytes) -> bytes:
    return len(part).to_bytes(4, "big") + part


def prefixed_hmac(key: bytes, prefix: bytes) -> Callable[[bytes], str]:
    """Return a function from a message to the HMAC-SHA256, in hex, of `prefix` and the message.

    Key and prefix are hashed once; each call continues from a copy. Copying an object of `hmac`
    would take three times as long.
    """
    block = (sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
    inside, outside = sha256(block.translate(_INSIDE) + prefix), sha256(block.translate(_OUTSIDE))

    def hexdigest(message: bytes) -> str:
        inner, outer = inside.copy(), outside.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.hexdigest()

    return hexdigest


def _derived_key(key: bytes, purpose: bytes) -> bytes:
    return hmac.digest(key, _with_lengths(b"key", purpose), "sha256")
