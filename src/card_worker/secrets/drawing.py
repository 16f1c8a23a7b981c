"""Drawing values: uniformly, from the operating system's random source, many at a time."""

import os
from functools import lru_cache
from uuid import UUID

from card_worker.secrets.formats import PinFormat, TokenFormat

PREFIX = "DINCARD:"
"""What a token without a format begins with; a UUID follows."""
SHOWN = 4
MASK = "*"
# Of 256 byte values a whole number of times the alphabet is kept. The rest is drawn again.
SPARE = 1.02


def draw_tokens(format: TokenFormat | None, count: int) -> list[str]:
    """Return `count` tokens. Whether one of them exists already, their table says."""
    if format is None:
        return [f"{PREFIX}{_uuid(raw)}" for raw in _cut(os.urandom(16 * count), 16)]
    return [format.prefix + value for value in _draw(format.alphabet, format.length, count)]


def draw_pins(format: PinFormat, count: int) -> list[str]:
    """Return `count` PINs."""
    return _draw(format.alphabet, format.length, count)


def mask(value: str, prefix: str) -> str:
    """Return what may be shown of a token: prefix, separators, and the last four characters."""
    hidden, shown = value[len(prefix) : -SHOWN], value[-SHOWN:]
    return prefix + "".join(MASK if c.isalnum() else c for c in hidden) + shown


def _draw(alphabet: str, length: int, count: int) -> list[str]:
    wanted = length * count
    drawn = bytearray()
    while (missing := wanted - len(drawn)) > 0:
        drawn += letters_of(os.urandom(int(missing * _waste(alphabet) * SPARE) + 16), alphabet)
    text = drawn[:wanted].decode("ascii")
    return [text[start : start + length] for start in range(0, wanted, length)]


def letters_of(raw: bytes, alphabet: str) -> bytes:
    """Return the letters that random bytes stand for: each by as many byte values as any other."""
    table, rejected = _table(alphabet)
    return raw.translate(table, rejected)


@lru_cache(maxsize=64)
def _table(alphabet: str) -> tuple[bytes, bytes]:
    """Return which letter each byte value stands for, and which stand for none."""
    letters = alphabet.encode("ascii")
    accepted = 256 - 256 % len(letters)
    table = bytes(letters[value % len(letters)] for value in range(256))
    return table, bytes(range(accepted, 256))


def _waste(alphabet: str) -> float:
    _, rejected = _table(alphabet)
    return 256 / (256 - len(rejected))


def _cut(raw: bytes, size: int) -> list[bytes]:
    return [raw[start : start + size] for start in range(0, len(raw), size)]


def _uuid(raw: bytes) -> UUID:
    return UUID(bytes=raw, version=4)
