"""An example message and answer for each command: the real code handles them in a database of
its own. Secrets and the clock are fixed, so that the result is the same every time."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from card_worker.contracts.message import UnreadableItem, read_commands
from card_worker.handler import handle
from card_worker.secret_issuer import SecretIssuer, SecretTools
from card_worker.secrets.peppers import Pepper, Peppers
from card_worker.secrets.vault import Vault
from card_worker.storage.engine import begin, open_engine
from card_worker.storage.migrations import upgrade

Fields = dict[str, Any]

ACCOUNT = "T00000001"
NOW = datetime(2026, 1, 15, 10, 0, tzinfo=UTC)
_TOKEN = "DINCARD:7c9e6679-7425-40de-944b-e07fc1f90ae7"  # noqa: S105
_SEALED = "-----BEGIN AGE ENCRYPTED FILE-----\n…\n-----END AGE ENCRYPTED FILE-----\n"
_VAULT = Vault(Peppers([Pepper("t1", bytes(32))]), Peppers([Pepper("p1", bytes(range(32)))]))
_RECIPIENT = "age17v954p0yzl752986h5aa9jtp5q5mcdpg3tg6saexnh48ruztya9s7w64nl"
_LOAD = {"amount": 50000, "currency": "NOK"}
_PAYMENT = {"card_id": "card-01", "amount": 12500, "currency": "NOK"}

# Each message: its task, its fields, and whether the page shows it. "@x" is the id of the
# transaction with the ref_id x, "#x" that of the token.
_MESSAGES: list[tuple[str, Fields, bool]] = [
    ("cards.create", {"card_id": "card-01", **_LOAD, "expires_at": "2027-01-15T10:00:00Z"}, True),
    ("cards.batch_create", {"batch_id": "july", "cards": [{"card_id": "card-02"}]}, True),
    ("cards.activate", {"card_id": "card-02", **_LOAD, "originated_by": "till 7"}, True),
    ("cards.reverse_activation", {"card_id": "card-02", "reason": "wrong card"}, True),
    ("cards.update", {"card_id": "card-01", "name": "For Kari"}, True),
    ("transactions.create", {**_PAYMENT, "ref_id": "receipt-17"}, True),
    ("transactions.refund", {"transaction_id": "@receipt-17", "ref_id": "r-1"}, True),
    ("transactions.create", {**_PAYMENT, "ref_id": "order-5", "pending": True}, False),
    (
        "transactions.capture",
        {"transaction_id": "@order-5", "ref_id": "parcel-1", "amount": 5000},
        True,
    ),
    ("transactions.void", {"transaction_id": "@order-5", "ref_id": "void-1"}, True),
    (
        "transactions.create",
        {**_PAYMENT, "ref_id": "order-6", "pending": True, "hold_expires_in": 60},
        False,
    ),
    ("holds.expire", {"transaction_id": "@order-6"}, True),
    (
        "cards.adjust",
        {"card_id": "card-01", **_LOAD, "amount": -100, "ref_id": "a-1", "reason": "rounding"},
        True,
    ),
    ("cards.create", {"card_id": "card-03", **_LOAD, "expires_at": "2026-01-15T11:00:00Z"}, False),
    ("cards.transfer", {"card_id": "card-01", "to_card_id": "card-03", "ref_id": "t-1"}, True),
    ("cards.block", {"card_id": "card-01", "reason": "lost"}, True),
    ("cards.unblock", {"card_id": "card-01", "reason": "found"}, True),
    (
        "tokens.create",
        {"card_id": "card-01", "ref_id": "app", "expires_in": 3600, "seal_to": [_RECIPIENT]},
        True,
    ),
    ("tokens.revoke", {"card_id": "card-01", "token_id": "#app"}, True),
    ("cards.rotate_pin", {"card_id": "card-01", "pin": {}, "seal_to": [_RECIPIENT]}, True),
    ("cards.replace", {"card_id": "card-01", "new_card_id": "card-04", "reason": "worn"}, True),
    ("cards.close", {"card_id": "card-04", "reason": "asked by the customer"}, True),
    ("cards.expire", {"card_id": "card-03"}, True),
    (
        "cards.batch_create",
        {
            "batch_id": "august",
            "count": 5000,
            "card_id_pattern": "AUG-{n:06d}",
            "needs_approval": True,
            "created_by": "kari",
        },
        False,
    ),
    ("batches.approve", {"batch_id": "august", "created_by": "ola"}, True),
    *(
        step
        for name, more in {
            "block": {"reason": "stolen"},
            "unblock": {"reason": "found"},
            "close": {"reason": "campaign is over"},
            "extend": {"expires_at": "2028-01-15T10:00:00Z"},
            "cancel": {"reason": "not needed"},
        }.items()
        for step in (
            ("cards.batch_create", {"batch_id": name, "cards": [{"card_id": name}]}, False),
            (f"batches.{name}", {"batch_id": name, **more}, True),
        )
    ),
]


class Example(NamedTuple):
    """The fields of a message, and the event that answers it."""

    fields: Fields
    answer: Fields


@cache
def examples() -> dict[str, Example]:
    """Return an example for each command, by the name of its task."""
    with TemporaryDirectory() as folder:
        return dict(_run(f"sqlite:///{Path(folder) / 'examples.db'}"))


def _run(url: str) -> Iterator[tuple[str, Example]]:
    upgrade(url)
    engine, ids = open_engine(url), dict[str, str]()
    tools = SecretTools(
        lambda _, count: [_TOKEN] * count,
        lambda _, count: ["4711"] * count,
        seal_text=lambda _, plain: _SEALED,
    )
    issuer = SecretIssuer(_VAULT, tools)
    for number, (task, fields, is_shown) in enumerate(_MESSAGES, start=1):
        given = {name: ids.get(str(value), value) for name, value in fields.items()}
        sent = {"account_id": ACCOUNT, "command_id": f"cmd-{number}", **given}
        (command,) = read_commands(task, f"cmd-{number}", sent, _VAULT)
        assert not isinstance(command, UnreadableItem)
        now = NOW + timedelta(minutes=number, hours=2 if task == "cards.expire" else 0)
        with begin(engine) as (connection, _):
            (answer,) = handle(connection, [command], now, issuer)
        event: Fields = json.loads(answer.event)
        assert event["type"] != "command.rejected", (task, event["data"])
        for sign, what in (("@", "transaction"), ("#", "token")):
            if made := event["data"].get(what):
                ids[f"{sign}{made['ref_id']}"] = made["id"]
        if is_shown:
            yield task, Example(sent, event)
    engine.dispose()
