"""Signed commands: the text of a signature, and the bytes that it is made of.

A signed message has two keyword arguments. `signed` is the fields of its command as JSON text, and
`signature` is `version,key id,unix time,value`. The signature covers the text as it was sent, so
that no two programs have to write JSON alike.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple

from card_worker.contracts.dead_letters import DeadLetterReason, Unreadable
from card_worker.secrets.signing import KEY_ID, VALUE_BYTES, Algorithm, base_of, canonical

SIGNED, SIGNATURE = "signed", "signature"
# Canonical: no sign and no leading zero. Up to the year 9999.
_TIME = re.compile(r"[1-9][0-9]{0,11}", re.ASCII)
_TIME_MAX = 253_402_300_799
_PARTS = 4


class Signature(NamedTuple):
    """A signature of well-formed text, not verified."""

    algorithm: Algorithm
    key_id: str
    signed_at: datetime
    value: bytes
    base: bytes
    """The bytes that are signed."""

    @property
    def digest(self) -> str:
        """The SHA-256 of what is signed, in hex: equal for a message that is sent again."""
        return sha256(self.base).hexdigest()


def is_signed(kwargs: Mapping[str, Any]) -> bool:
    """Say whether a message claims to be signed. No command has a field of these names."""
    return SIGNED in kwargs or SIGNATURE in kwargs


def read_signature(task: str, kwargs: Mapping[str, Any]) -> Signature:
    """Return the signature of a message for `task`. Raises Unreadable."""
    signed, text = kwargs.get(SIGNED), kwargs.get(SIGNATURE)
    if kwargs.keys() != {SIGNED, SIGNATURE}:
        raise _malformed("the arguments must be signed and signature, and no others")
    if not isinstance(signed, str) or not isinstance(text, str):
        raise _malformed("signed and signature must be texts")
    parts = text.split(",")
    if len(parts) != _PARTS:
        raise _malformed("signature: must be version,key id,unix time,value")
    version, key_id, time, encoded = parts
    if version not in list(Algorithm):
        raise _malformed(f"signature: the version must be {' or '.join(Algorithm)}")
    algorithm = Algorithm(version)
    if not KEY_ID.fullmatch(key_id):
        raise _malformed("signature: the key id must be 1 to 64 of A-Za-z0-9._-")
    if not _TIME.fullmatch(time) or int(time) > _TIME_MAX:
        raise _malformed("signature: the time must be whole seconds since 1970")
    value = canonical(encoded)
    if value is None or len(value) != VALUE_BYTES[algorithm]:
        raise _malformed(f"signature: the value must be {VALUE_BYTES[algorithm]} bytes in base64")
    try:
        base = base_of(task, key_id, int(time), signed)
    except UnicodeEncodeError:
        raise _malformed("signed: is not Unicode") from None
    return Signature(algorithm, key_id, datetime.fromtimestamp(int(time), UTC), value, base)


def _malformed(detail: str) -> Unreadable:
    return Unreadable(DeadLetterReason.SIGNATURE_MALFORMED, detail)
