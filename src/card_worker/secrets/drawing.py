"""Drawing values: uniformly, from the operating system's random source, many at a time."""

import os
from collections.abc import Sequence
from functools import lru_cache

from card_worker import uuids
from card_worker.secrets.formats import DIGITS, FORMULA_SIGNS, LETTERS, PinFormat, TokenFormat

PREFIX = "DINCARD:"
"""What a token without a format begins with; a UUID follows."""
SHOWN = 4
MASK = "*"
# Of 256 byte values a whole number of times the alphabet is kept. The rest is drawn again.
SPARE = 1.02
_MASKS = bytes.maketrans((DIGITS + LETTERS).encode(), MASK.encode() * len(DIGITS + LETTERS))


def draw_tokens(format: TokenFormat | None, count: int) -> list[str]:
    """Return `count` tokens. Whether one of them exists already, their table says."""
    if format is None:
        return [f"{PREFIX}{uuid}" for uuid in _uuids(count)]
    return [format.prefix + value for value in _draw(format.alphabet, format.length, count)]


def draw_pins(format: PinFormat, count: int) -> list[str]:
    """Return `count` PINs."""
    return _draw(format.alphabet, format.length, count)


def mask(values: Sequence[str], prefix: str) -> list[str]:
    """Return what may be shown of tokens: prefix, separators, and the last four characters.

    They are of one format, and so equally long.
    """
    length, begin = len(values[0]) if values else 1, len(prefix)
    hidden = "".join(values).encode("ascii").translate(_MASKS).decode("ascii")
    starts = range(0, len(hidden), length)
    return [
        prefix + hidden[start + begin : start + length - SHOWN] + value[-SHOWN:]
        for start, value in zip(starts, values, strict=True)
    ]


def _draw(alphabet: str, length: int, count: int) -> list[str]:
    """Return values that don't begin as a formula does, each of them as likely as any other."""
    text = _letters(alphabet, length * count)
    values = [text[start : start + length] for start in range(0, length * count, length)]
    beginning = "".join(c for c in alphabet if c not in FORMULA_SIGNS)
    if beginning == alphabet:
        return values
    # Characters are drawn apart from each other, so the first of each may be another one.
    firsts = _letters(beginning, count)
    return [first + value[1:] for first, value in zip(firsts, values, strict=True)]


def _letters(alphabet: str, count: int) -> str:
    """Return so many letters of an alphabet."""
    drawn = bytearray()
    while (missing := count - len(drawn)) > 0:
        drawn += letters_of(os.urandom(int(missing * _waste(alphabet) * SPARE) + 16), alphabet)
    return drawn[:count].decode("ascii")


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
    digits = uuids.stamp(os.urandom(uuids.BYTES * count), 4).hex()
    each = (digits[start : start + 32] for start in range(0, 32 * count, 32))
    return [f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}" for h in each]
