"""Keys that sign and verify commands: HMAC-SHA256 with a secret, or Ed25519 with a key pair.

Keys are written as in Standard Webhooks: `whsec_` a secret, `whsk_` a private and `whpk_` a public
key, each followed by base64.
"""

import binascii
import hmac
import json
import os
import re
from collections.abc import Callable
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from struct import Struct
from time import time
from typing import TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from card_worker.secrets.peppers import prefixed_hmac

KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
CONTEXT = "card-worker/1"
"""The beginning of what is signed: a signature that was made for something else is of no use."""
SECRET, PRIVATE_KEY, PUBLIC_KEY = "whsec_", "whsk_", "whpk_"
KEY_BYTES = 32

Verify: TypeAlias = Callable[[bytes, bytes], bool]
"""Says whether a value is the signature of the bytes given first."""


class Signatures(StrEnum):
    """Which commands an account accepts: unsigned ones too, or signed ones only."""

    ACCEPTED = "accepted"
    REQUIRED = "required"


class Algorithm(StrEnum):
    """How a key signs. The value is the version that a signature begins with."""

    HMAC_SHA256 = "v1"
    ED25519 = "v1a"


VALUE_BYTES = {Algorithm.HMAC_SHA256: 32, Algorithm.ED25519: 64}
"""The length of a signature's value."""

_length = Struct(">I").pack


def base_of(task: str, key_id: str, unix_time: int, signed: str) -> bytes:
    """Return the bytes that a signature is made of. Raises UnicodeEncodeError.

    Each part is UTF-8 behind its length in 4 bytes, so that no two messages have the same bytes.
    """
    return _before_signed(task, key_id, unix_time) + _with_length(signed)


# Messages that are sent in one second with one key have it in common.
@lru_cache(maxsize=256)
def _before_signed(task: str, key_id: str, unix_time: int) -> bytes:
    return b"".join(map(_with_length, (CONTEXT, task, key_id, str(unix_time))))


def _with_length(text: str) -> bytes:
    raw = text.encode()
    return _length(len(raw)) + raw


def hmac_verifier(secret: bytes) -> Verify:
    """Return what verifies HMAC-SHA256, in constant time."""

    hexdigest = prefixed_hmac(secret, b"")  # takes half as long as hmac.digest

    def verify(base: bytes, value: bytes) -> bool:
        return hmac.compare_digest(hexdigest(base), value.hex())

    return verify


def ed25519_verifier(public_key: str) -> Verify:
    """Return what verifies Ed25519. Raises NotAKey."""
    key = Ed25519PublicKey.from_public_bytes(_decoded(public_key, PUBLIC_KEY))

    def verify(base: bytes, value: bytes) -> bool:
        try:
            key.verify(value, base)
        except InvalidSignature:
            return False
        return True

    return verify


class NotAKey(ValueError):
    """A key file or a key that can't be used. The text is one line and repeats no part of it."""


class SigningKey:
    """A producer's key: `key_id` and its secret, `whsec_…` or `whsk_…`. Raises NotAKey."""

    def __init__(self, key_id: str, secret: str) -> None:
        if not KEY_ID.fullmatch(key_id):
            raise NotAKey("the key id must be 1 to 64 of A-Za-z0-9._-")
        self.key_id, self._secret = key_id, secret
        if secret.startswith(PRIVATE_KEY):
            self.algorithm = Algorithm.ED25519
            self._private = Ed25519PrivateKey.from_private_bytes(_decoded(secret, PRIVATE_KEY))
        else:
            self.algorithm = Algorithm.HMAC_SHA256
            self._hmac_key = _decoded(secret, SECRET)

    def __repr__(self) -> str:
        return f"SigningKey({self.key_id!r})"

    @classmethod
    def new(cls, key_id: str) -> "SigningKey":
        """Make an Ed25519 key. Raises NotAKey."""
        return cls(key_id, PRIVATE_KEY + _encoded(os.urandom(KEY_BYTES)))

    @classmethod
    def derived(cls, key_id: str, pepper: bytes) -> "SigningKey":
        """Return the HMAC key that a pepper gives to a key id. Raises NotAKey."""
        return cls(key_id, SECRET + _encoded(hmac_secret(key_id, pepper)))

    @classmethod
    def read(cls, path: Path) -> "SigningKey":
        """Read a key file. Raises OSError and NotAKey."""
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            read = None
        match read:
            case {"key_id": str(key_id), "secret": str(secret)}:
                return cls(key_id, secret)
        raise NotAKey("is not a key file: JSON with the texts key_id and secret")

    @property
    def text(self) -> str:
        """The content of its key file: secret."""
        return f"{json.dumps({'key_id': self.key_id, 'secret': self._secret}, indent=2)}\n"

    @property
    def public_key(self) -> str:
        """The public key of an Ed25519 key, as the workers' registry has it."""
        return PUBLIC_KEY + _encoded(self._private.public_key().public_bytes_raw())

    def sign(self, task: str, signed: str, *, at: int | None = None) -> str:
        """Return the signature of the text `signed`, for a message to `task`.

        `at` is its unix time (default: now). Raises UnicodeEncodeError.
        """
        at = int(time()) if at is None else at
        value = self.value_of(base_of(task, self.key_id, at, signed))
        return f"{self.algorithm},{self.key_id},{at},{_encoded(value)}"

    def value_of(self, base: bytes) -> bytes:
        """Return the signature's value for these bytes."""
        if self.algorithm is Algorithm.ED25519:
            return self._private.sign(base)
        return hmac.digest(self._hmac_key, base, "sha256")


def hmac_secret(key_id: str, pepper: bytes) -> bytes:
    """Return the secret of an HMAC key; it is stored nowhere."""
    return hmac.digest(pepper, key_id.encode(), "sha256")


def _encoded(raw: bytes) -> str:
    return binascii.b2a_base64(raw, newline=False).decode("ascii")


def canonical(encoded: str) -> bytes | None:
    """Return the bytes of base64 in its only canonical form; None for any other text."""
    try:
        raw = binascii.a2b_base64(encoded, strict_mode=True)
    except ValueError:
        return None
    return raw if _encoded(raw) == encoded else None


def _decoded(text: str, prefix: str) -> bytes:
    raw = canonical(text.removeprefix(prefix)) if text.startswith(prefix) else None
    if raw is None or len(raw) != KEY_BYTES:
        raise NotAKey(f"the key must be {prefix} and {KEY_BYTES} bytes in base64")
    return raw
