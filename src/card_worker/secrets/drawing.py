"""Draws random tokens and PINs: uniformly, from the operating system's random source, in bulk."""

import os
import re
from collections.abc import Sequence
from functools import lru_cache

from card_worker import uuids
from card_worker.secrets.formats import (
    DIGITS,
    FORMULA_SIGNS,
    LETTERS,
    LOOKALIKES,
    PREFIX_MAX,
    SYMBOLS,
    PinFormat,
    TokenFormat,
)

PREFIX = "DINCARD:"
"""The beginning of a token without a format; a UUID follows."""
_WITH_UUID = re.compile(PREFIX + "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SHOWN = 4
HIDDEN_BITS_MIN = 64
"""The last SHOWN characters of a token are shown only if so many random bits stay hidden."""
MASK = "*"
UUID_MASK = f"{PREFIX}********-****-****-****-********"
"""What stands before the last SHOWN characters of a token without a format."""
SPARE = 1.02
"""More random bytes are read than will be needed on average, by this factor."""


def draw_tokens(format: TokenFormat | None, count: int) -> list[str]:
    """Return `count` random tokens. They may repeat each other, or tokens that exist."""
    if format is None:
        return [f"{PREFIX}{uuid}" for uuid in _uuids(count)]
    return [format.prefix + value for value in _draw(format.alphabet, format.length, count)]


def draw_pins(format: PinFormat, count: int) -> list[str]:
    """Return `count` random PINs."""
    return _draw(format.alphabet, format.length, count)


def mask(values: Sequence[str], format: TokenFormat | None) -> list[str]:
    """Mask tokens of a format, or masked ones again, except for the prefix and, if enough random
    bits stay hidden, the last four characters."""
    if format is None:
        return [UUID_MASK + value[-SHOWN:] for value in values]
    shown = SHOWN if format.bits(format.length - SHOWN) >= HIDDEN_BITS_MIN else 0
    hidden = format.prefix + MASK * (format.length - shown)
    return [hidden + value[len(value) - shown :] for value in values]


def is_uuid_token(value: str) -> bool:
    """Say whether a token looks like one without a format."""
    return _WITH_UUID.fullmatch(value) is not None


def may_be_short(value: str) -> bool:
    """Say whether a format with fewer than HIDDEN_BITS_MIN random bits may have made a token.

    The first PREFIX_MAX characters may be a prefix, which is not random.
    """
    rest = set(random := value[PREFIX_MAX:])
    least = TokenFormat(
        symbols=not rest.isdisjoint(SYMBOLS),
        numbers=not rest.isdisjoint(DIGITS),
        characters=not rest.isdisjoint(LETTERS),
        unambiguous=rest.isdisjoint(LOOKALIKES),
    )
    return not least.alphabet or least.bits(len(random)) < HIDDEN_BITS_MIN


def _draw(alphabet: str, length: int, count: int) -> list[str]:
    """Return `count` uniformly distributed values that do not begin like a formula."""
    text = _letters(alphabet, length * count)
    values = [text[start : start + length] for start in range(0, length * count, length)]
    beginning = "".join(c for c in alphabet if c not in FORMULA_SIGNS)
    if beginning == alphabet:
        return values
    # Characters are independent of each other, so the first one can be replaced.
    firsts = _letters(beginning, count)
    return [first + value[1:] for first, value in zip(firsts, values, strict=True)]


def _letters(alphabet: str, count: int) -> str:
    drawn = bytearray()
    _, rejected = _table(alphabet)
    bytes_per_letter = 256 / (256 - len(rejected)) * SPARE
    while (missing := count - len(drawn)) > 0:
        drawn += letters_of(os.urandom(int(missing * bytes_per_letter) + 16), alphabet)
    return drawn[:count].decode("ascii")


def letters_of(raw: bytes, alphabet: str) -> bytes:
    """Convert random bytes to letters of an alphabet, each letter with equal probability.

    Bytes that would make some letters more likely are dropped.
    """
    table, rejected = _table(alphabet)
    return raw.translate(table, rejected)


@lru_cache(maxsize=64)
def _table(alphabet: str) -> tuple[bytes, bytes]:
    """Return the letter for each byte value, and the byte values that are dropped."""
    letters = alphabet.encode("ascii")
    accepted = 256 - 256 % len(letters)
    table = bytes(letters[value % len(letters)] for value in range(256))
    return table, bytes(range(accepted, 256))


def _uuids(count: int) -> list[str]:
    """Return random UUIDs (RFC 9562, version 4)."""
    digits = uuids.stamp(os.urandom(uuids.BYTES * count), 4).hex()
    each = (digits[start : start + 32] for start in range(0, 32 * count, 32))
    return [f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}" for h in each]
