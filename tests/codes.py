"""What tests on tokens and PINs share: peppers, an owner, and an issuer without chance."""

from itertools import count
from typing import Any

from card_worker.secret_issuer import SecretIssuer, SecretTools
from card_worker.secrets.formats import PinFormat, TokenFormat
from card_worker.secrets.peppers import Pepper, Peppers
from card_worker.secrets.sealing import new_key_pair
from card_worker.secrets.vault import Vault

OWNER = new_key_pair()
SEAL_TO = {"seal_to": [OWNER.recipient]}
TOKEN_PEPPERS = Peppers([Pepper("t1", bytes(32))])
PIN_PEPPERS = Peppers([Pepper("p1", bytes(range(32)))])
VAULT = Vault(TOKEN_PEPPERS, PIN_PEPPERS)
WRONG_PIN = "#wrong"
"""No PIN has this in it."""
PIN = "4711"


def plain_issuer(vault: Vault = VAULT, *tokens: str) -> SecretIssuer:
    """Return an issuer whose tokens are those given, then TOKEN-0, TOKEN-1 …, with one PIN for all.

    What it seals, anybody can read.
    """
    numbers = count()
    first = iter(tokens)

    def draw(_: TokenFormat | None, wanted: int) -> list[str]:
        return [next(first, None) or f"TOKEN-{next(numbers)}" for _ in range(wanted)]

    def draw_pins(_: PinFormat, wanted: int) -> list[str]:
        return [PIN] * wanted

    def seal(_: Any, plain: bytes) -> bytes:
        return b"age " + plain

    def seal_text(_: Any, plain: str) -> str:
        return f"age {plain}"

    return SecretIssuer(vault, SecretTools(draw, draw_pins, seal, seal_text))
