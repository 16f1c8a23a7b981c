"""Sealing: encryption with age, so that only the recipients can read."""

from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO, NamedTuple, TypeAlias

import pyrage
from pyrage import x25519

Recipient: TypeAlias = x25519.Recipient

RECIPIENTS_MAX = 16


class NotOpened(ValueError):
    """Not sealed, or sealed to others. The text is one line and has no private key."""


class KeyPair(NamedTuple):
    """The identity (private key), which its owner keeps, and the recipient (public key)."""

    identity: str
    recipient: str


def read_recipients(texts: Sequence[str]) -> list[Recipient]:
    """Parse recipients, `age1…`. Raises ValueError, which names the first invalid one by its index.

    There must be 1 to RECIPIENTS_MAX, all different.
    """
    if not 1 <= len(texts) <= RECIPIENTS_MAX:
        raise ValueError(f"must have 1 to {RECIPIENTS_MAX} recipients")
    if len(set(texts)) < len(texts):
        raise ValueError("must not have the same recipient twice")
    recipients = []
    for index, text in enumerate(texts):
        try:
            recipients.append(x25519.Recipient.from_str(text))
        except pyrage.RecipientError:
            raise ValueError(f"item {index} is not an age recipient (age1…)") from None
    return recipients


def read_identities(texts: Sequence[str]) -> list[x25519.Identity]:
    """Parse identities, `AGE-SECRET-KEY-1…`. Raises NotOpened."""
    try:
        return [x25519.Identity.from_str(text.strip()) for text in texts]
    except pyrage.IdentityError:
        raise NotOpened("is not an age identity (AGE-SECRET-KEY-1…)") from None


def new_key_pair() -> KeyPair:
    """Generate a key pair."""
    identity = x25519.Identity.generate()
    return KeyPair(str(identity), str(identity.to_public()))


def seal(recipients: Sequence[Recipient], plain: bytes) -> bytes:
    """Return `plain` as a binary age file, which each of the recipients can open."""
    sealed: bytes = pyrage.encrypt(plain, recipients)
    return sealed


def seal_text(recipients: Sequence[Recipient], plain: str) -> str:
    """Return `plain` as an age file in ASCII armor."""
    sealed: bytes = pyrage.encrypt(plain.encode(), recipients, armored=True)
    return sealed.decode("ascii")


def open_sealed(identities: Sequence[str], sealed: bytes) -> bytes:
    """Return the content of an age file, armored or not. Raises NotOpened."""
    keys = read_identities(identities)
    try:
        plain: bytes = pyrage.decrypt(sealed, keys)
    except pyrage.DecryptError as error:
        raise NotOpened(str(error)) from None
    return plain


def seal_pieces(
    recipients: Sequence[Recipient], pieces: Iterable[bytes], write: Callable[[bytes], object]
) -> None:
    """Seal `pieces` as one binary age file; pass it to `write` in parts.

    Raises the errors of `pieces` and `write`.
    """
    stream = _Stream(write, pieces)
    try:
        pyrage.encrypt_io(stream, stream, recipients)
    except Exception as error:
        raise stream.failure or error from None
    # The library ignores an error in the last call.
    if stream.failure is not None:
        raise stream.failure


def open_pieces(
    identities: Sequence[str], sealed: BinaryIO, write: Callable[[bytes], object]
) -> None:
    """Pass the content of an age file, armored or not, to `write` in parts.

    Each part is authentic, but only the end shows that none is missing. Raises NotOpened, and the
    errors of `write`.
    """
    keys, stream = read_identities(identities), _Stream(write)
    try:
        pyrage.decrypt_io(sealed, stream, keys)
    except Exception as error:
        # The library converts errors of `write` into its own.
        raise stream.failure or NotOpened(str(error)) from None
    if stream.failure is not None:
        raise stream.failure


class _Stream:
    """Input and output of the library, as it expects them; stores the first error."""

    def __init__(self, write: Callable[[bytes], object], pieces: Iterable[bytes] = ()) -> None:
        self._write, self._pieces = write, iter(pieces)
        self._rest = b""
        self.failure: Exception | None = None

    def read(self, size: int) -> bytes:
        try:
            while not self._rest:
                self._rest = next(self._pieces)
        except StopIteration:
            return b""
        except Exception as failure:
            self.failure = failure
            raise
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece

    def write(self, piece: bytes) -> int:
        try:
            self._write(piece)
        except Exception as failure:
            self.failure = failure
            raise
        return len(piece)

    def flush(self) -> None: ...
