"""Encryption with age, so that only the recipients can read."""

from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO, NamedTuple, TypeAlias

import pyrage
from pyrage import x25519

Recipient: TypeAlias = x25519.Recipient

RECIPIENTS_MAX = 16


class NotOpened(Exception):
    """Encrypted for others, or not encrypted at all. The text says why, in one line."""


class Identity(NamedTuple):
    """A key pair: the private key, which its owner keeps, and the recipient (public key)."""

    secret: str
    recipient: str


def read_recipients(texts: Sequence[str]) -> list[Recipient]:
    """Return the recipients that these texts, `age1…`, stand for.

    Raises ValueError, which names the wrong one by its place, from 0.
    """
    if not 1 <= len(texts) <= RECIPIENTS_MAX:
        raise ValueError(f"must have 1 to {RECIPIENTS_MAX} recipients")
    if len(set(texts)) < len(texts):
        raise ValueError("must not have the same recipient twice")
    return [_recipient(text, place) for place, text in enumerate(texts)]


def seal(recipients: Sequence[Recipient], plain: bytes) -> bytes:
    """Return `plain` as a binary age file, which each of the recipients can open."""
    sealed: bytes = pyrage.encrypt(plain, recipients)
    return sealed


def seal_pieces(
    recipients: Sequence[Recipient], pieces: Iterable[bytes], write: Callable[[bytes], object]
) -> None:
    """Give `write` the binary age file that holds all pieces, bit by bit.

    What taking a piece or writing raises, this raises.
    """
    plain, sealed = _Source(pieces), _Sink(write)
    try:
        pyrage.encrypt_io(plain, sealed, recipients)
    except Exception as error:
        raise plain.failure or sealed.failure or error from None
    # The library says nothing of what fails at the very end.
    if failure := plain.failure or sealed.failure:
        raise failure


class _Source:
    """What the library reads from."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
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


class _Sink:
    """What the library writes to."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self.failure: Exception | None = None

    def write(self, piece: bytes) -> int:
        try:
            self._write(piece)
        except Exception as failure:
            self.failure = failure
            raise
        return len(piece)

    def flush(self) -> None: ...


def seal_text(recipients: Sequence[Recipient], plain: str) -> str:
    """Return `plain` as an age file in ASCII armor, to stand in an answer."""
    sealed: bytes = pyrage.encrypt(plain.encode(), recipients, armored=True)
    return sealed.decode("ascii")


def read_identities(texts: Sequence[str]) -> list[x25519.Identity]:
    """Return the identities that these texts, `AGE-SECRET-KEY-1…`, stand for.

    Raises NotOpened, whose text never holds one.
    """
    try:
        return [x25519.Identity.from_str(text.strip()) for text in texts]
    except pyrage.IdentityError:
        raise NotOpened("is not an age identity (AGE-SECRET-KEY-1…)") from None


def open_sealed(secrets: Sequence[str], sealed: bytes) -> bytes:
    """Return what was sealed, armored or not, to the owner of one of the identities.

    Raises NotOpened.
    """
    identities = read_identities(secrets)
    try:
        plain: bytes = pyrage.decrypt(sealed, identities)
    except pyrage.DecryptError as error:
        raise NotOpened(str(error)) from None
    return plain


def open_pieces(secrets: Sequence[str], sealed: BinaryIO, write: Callable[[bytes], object]) -> None:
    """Give `write` what was sealed, armored or not, bit by bit.

    What is given is as it was sealed; whether that was all, is known at the end. Raises NotOpened,
    and what writing raises.
    """
    identities, plain = read_identities(secrets), _Sink(write)
    try:
        pyrage.decrypt_io(sealed, plain, identities)
    except Exception as error:
        # The library knows only its own errors.
        raise plain.failure or NotOpened(str(error)) from None
    if plain.failure is not None:
        raise plain.failure


def new_identity() -> Identity:
    """Make an identity."""
    made = x25519.Identity.generate()
    return Identity(str(made), str(made.to_public()))


def _recipient(text: str, place: int) -> Recipient:
    try:
        return x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        raise ValueError(f"item {place} is not an age recipient (age1…)") from None
