"""The commands that everybody is given, by number: command 7 activates card 7, once."""

from typing import Any

ACCOUNT = "T00000001"


def command(number: int) -> dict[str, Any]:
    """Return the fields of an activation."""
    return {
        "account_id": ACCOUNT,
        "card_id": f"card-{number}",
        "command_id": f"sale-{number}",
        "amount": 50_000,
        "currency": "NOK",
    }
