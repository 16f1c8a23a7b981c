"""Keyed hashes of tokens and PINs. The keys, called peppers, are not in the database."""

import base64
import binascii
import hmac
import os
import re
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

KEY_BYTES, KEY_BYTES_MIN = 32, 16
_LENGTH_OF_UUID = (16).to_bytes(4, "big")
# RFC 2104: the bytes of a block, and what the key is mixed with inside and outside.
_BLOCK = 64
_INSIDE, _OUTSIDE = (bytes(value ^ pad for value in range(256)) for pad in (0x36, 0x5C))
_KID = re.compile(r"[A-Za-z0-9_-]{1,16}", re.ASCII)


class Pepper(NamedTuple):
    """A key by the name that stands beside what was hashed with it."""

    kid: str
    key: bytes

    def __repr__(self) -> str:
        return f"Pepper({self.kid!r})"


class Hash(NamedTuple):
    """HMAC-SHA256 as 64 hex digits, and which key it was made with."""

    kid: str
    digest: str


class Hashes(NamedTuple):
    """Many hashes, made with one key, in the order of what they are made of."""

    kid: str
    digests: list[str]


class Peppers:
    """Several keys: the newest makes hashes, all of them find what was made before."""

    def __init__(self, peppers: Iterable[Pepper]) -> None:
        self._by_kid = {pepper.kid: pepper for pepper in peppers}
        self._newest = next(iter(self._by_kid.values()))

    @classmethod
    def read(cls, text: str) -> "Peppers":
        """Read `kid:base64,kid:base64`, the newest first.

        Raises ValueError, which says what is wrong and never what it read.
        """
        peppers = [_read(part, place) for place, part in enumerate(text.split(","))]
        if len({pepper.kid for pepper in peppers}) < len(peppers):
            raise ValueError("two keys have the same name")
        return cls(peppers)

    @property
    def keys(self) -> frozenset[bytes]:
        return frozenset(pepper.key for pepper in self._by_kid.values())

    def hash_token(self, account_id: str, value: str) -> Hash:
        """Return what is kept of a token."""
        return _hash(self._newest, b"token", account_id.encode(), value.encode())

    def hash_tokens(self, account_id: str, values: Iterable[str]) -> Hashes:
        """Return what is kept of many tokens."""
        kid, key = self._newest
        digest = _begun(key, _with_lengths(b"token", account_id.encode()))
        return Hashes(kid, [digest(_with_length(value.encode())) for value in values])

    def hash_pins(self, cards: Iterable[bytes], values: Iterable[str]) -> Hashes:
        """Return what is kept of many PINs, in the order of their cards: each id as 16 bytes."""
        kid, key = self._newest
        digest = _begun(key, _with_lengths(b"pin") + _LENGTH_OF_UUID)
        each = zip(cards, values, strict=True)
        return Hashes(kid, [digest(card + _with_length(value.encode())) for card, value in each])

    def key_for(self, purpose: bytes) -> tuple[str, bytes]:
        """Return a key of 32 bytes for something else, and the name of what it comes from."""
        kid, key = self._newest
        return kid, _key_for(key, purpose)

    def known_key_for(self, kid: str, purpose: bytes) -> bytes | None:
        """Return the key that `key_for` gave when this pepper was the newest; None: it is gone."""
        pepper = self._by_kid.get(kid)
        return None if pepper is None else _key_for(pepper.key, purpose)

    def find_token(self, account_id: str, value: str) -> list[Hash]:
        """Return all that may have been kept of a token, the newest first."""
        parts = b"token", account_id.encode(), value.encode()
        return [_hash(pepper, *parts) for pepper in self._by_kid.values()]

    def hash_pin(self, card: UUID, value: str) -> Hash:
        """Return what is kept of a card's PIN. The card counts: equal PINs have other hashes."""
        return _hash(self._newest, b"pin", card.bytes, value.encode())

    def is_pin(self, card: UUID, kept: Hash, value: str) -> bool:
        """Say whether `value` is the card's PIN, in the same time whether it is or not."""
        pepper = self._by_kid.get(kept.kid)
        made = _hash(pepper or self._newest, b"pin", card.bytes, value.encode())
        return hmac.compare_digest(made.digest, kept.digest) and pepper is not None


def new_pepper(name: str) -> str:
    """Return a new key, as `Peppers.read` reads it. Raises ValueError for a name that is none."""
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
    # Each part with its length, so that no two lists of parts are the same message.
    return b"".join(map(_with_length, parts))


def _with_length(part: bytes) -> bytes:
    return len(part).to_bytes(4, "big") + part


def _begun(key: bytes, head: bytes) -> Callable[[bytes], str]:
    """Return what gives the HMAC-SHA256 of `head` and what it is called with, as hex digits.

    The key and the head go through once, and each call goes on from a copy. The library's HMAC
    can be copied too, but that takes three times as long.
    """
    block = (sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
    inside, outside = sha256(block.translate(_INSIDE) + head), sha256(block.translate(_OUTSIDE))

    def hexdigest(rest: bytes) -> str:
        inner, outer = inside.copy(), outside.copy()
        inner.update(rest)
        outer.update(inner.digest())
        return outer.hexdigest()

    return hexdigest


def _key_for(key: bytes, purpose: bytes) -> bytes:
    return hmac.digest(key, _with_lengths(b"key", purpose), "sha256")
