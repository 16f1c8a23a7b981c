"""Drawing values: uniformly, from the operating system's random source, many at a time."""

import os
from functools import lru_cache

from card_worker.secrets.formats import DIGITS, LETTERS, PinFormat, TokenFormat

PREFIX = "DINCARD:"
"""What a token without a format begins with; a UUID follows."""
SHOWN = 4
MASK = "*"
# Of 256 byte values a whole number of times the alphabet is kept. The rest is drawn again.
SPARE = 1.02
_MASKS = {ord(c): MASK for c in DIGITS + LETTERS}
# What the bits of two bytes of a UUID are, whatever was drawn.
_VERSION = bytes(value & 0x0F | 0x40 for value in range(256))
_VARIANT = bytes(value & 0x3F | 0x80 for value in range(256))


def draw_tokens(format: TokenFormat | None, count: int) -> list[str]:
    """Return `count` tokens. Whether one of them exists already, their table says."""
    if format is None:
        return [f"{PREFIX}{uuid}" for uuid in _uuids(count)]
    return [format.prefix + value for value in _draw(format.alphabet, format.length, count)]


def draw_pins(format: PinFormat, count: int) -> list[str]:
    """Return `count` PINs."""
    return _draw(format.alphabet, format.length, count)


def mask(value: str, prefix: str) -> str:
    """Return what may be shown of a token: prefix, separators, and the last four characters."""
    hidden, shown = value[len(prefix) : -SHOWN], value[-SHOWN:]
    return prefix + hidden.translate(_MASKS) + shown


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


def _uuids(count: int) -> list[str]:
    """Return random UUIDs (RFC 9562, version 4)."""
    raw = bytearray(os.urandom(16 * count))
    raw[6::16] = raw[6::16].translate(_VERSION)
    raw[8::16] = raw[8::16].translate(_VARIANT)
    digits = raw.hex()
    each = (digits[start : start + 32] for start in range(0, 32 * count, 32))
    return [f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}" for h in each]
