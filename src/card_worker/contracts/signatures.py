"""Signed commands: the text of a signature, and the bytes that it is made of.

A signed message has two keyword arguments. `signed` is the fields of its command as JSON text, and
`signature` is `version,key id,unix time,value`. The signature covers the text as it was sent, so
that no two programs have to write JSON alike.
"""

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from card_worker.contracts.dead_letters import DeadLetterReason, Unreadable
from card_worker.secrets.signing import KEY_ID, VALUE_BYTES, Algorithm, base_of, canonical

SIGNED, SIGNATURE = "signed", "signature"
_SIGNATURE = re.compile(
    rf"(v1a?),({KEY_ID.pattern}),([1-9][0-9]{{0,11}}),([A-Za-z0-9+/]+=*)", re.ASCII
)
"""One spelling of each signature: the time has no sign and no leading zero."""
_ALGORITHMS = {algorithm.value: algorithm for algorithm in Algorithm}
_TIME_MAX = 253_402_300_799  # in the year 9999


class Signature(NamedTuple):
    """A signature of well-formed text, not verified."""

    algorithm: Algorithm
    key_id: str
    time: int
    value: bytes
    base: bytes
    """The bytes that are signed."""

    @property
    def digest(self) -> str:
        """The SHA-256 of what is signed and of the value, in hex: equal for a copy of a message."""
        return sha256(self.base + self.value).hexdigest()


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
    found = _SIGNATURE.fullmatch(text)
    if found is None:
        raise _malformed("signature: must be version,key id,unix time,value; see the contract")
    version, key_id, time, encoded = found.groups()
    algorithm, value = _ALGORITHMS[version], canonical(encoded)
    if value is None or len(value) != VALUE_BYTES[algorithm]:
        raise _malformed(f"signature: the value must be {VALUE_BYTES[algorithm]} bytes in base64")
    if (unix_time := int(time)) > _TIME_MAX:
        raise _malformed("signature: the time is after the year 9999")
    try:
        base = base_of(task, key_id, unix_time, signed)
    except UnicodeEncodeError:
        raise _malformed("signed: is not Unicode") from None
    return Signature(algorithm, key_id, unix_time, value, base)


def _malformed(detail: str) -> Unreadable:
    return Unreadable(DeadLetterReason.SIGNATURE_MALFORMED, detail)
