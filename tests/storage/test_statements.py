"""Any mixture of commands needs few different texts of statements."""

import random
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from card_worker.contracts.commands import Command, event_id
from card_worker.contracts.json_text import write_time
from card_worker.contracts.message import UnreadableItem, read_commands
from card_worker.storage.engine import begin
from card_worker.storage.starts import Start, count_starts, forget_starts, uncount_starts
from tests.codes import OWNER, PIN, VAULT, WRONG_PIN, plain_issuer
from tests.storage.statements import counting
from tests.storage.test_handler import NOW, noted

ACCOUNT = "T00000001"
CARDS = 40
TEXTS_MAX = 75
"""There are more ways than that to put two commands of this kind together."""
SEALED = {"seal_to": [OWNER.recipient]}
END = write_time(NOW + timedelta(days=9))
OPTIONAL: dict[str, dict[str, Any]] = {
    "cards.create": {
        **{"name": "Kari", "customer_id": "c1", "metadata": {"a": 1}, "expires_at": END},
        **{"originated_by": "x", "created_by": "y", "type": "gift"},
    },
    "cards.activate": {"name": "Kari", "expires_at": END, "metadata": {"a": 2}, "created_by": "y"},
    "cards.update": {
        **{"name": "Ola", "customer_id": "c2", "metadata": {"a": 3}, "expires_at": END},
        "originated_by": "z",
    },
    "transactions.create": {"metadata": {"a": 4}, "originated_by": "x", "created_by": "y"},
}


class Mixer:
    """Draws commands that fit together, more or less, from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._number = 0
        self._moved = [event_id(ACCOUNT, "-")]

    def groups(self, number: int) -> Iterator[list[Command]]:
        for _ in range(number):
            yield [self._command() for _ in range(self._random.randint(1, 4))]

    def _command(self) -> Command:
        task, fields = self._random.choice([*self._on_cards(), *self._on_money() * 2])
        self._number += 1
        for name, value in OPTIONAL.get(task, {}).items():
            if self._random.random() < 0.3:
                fields[name] = value
        id = f"c{self._number}"
        (command,) = read_commands(task, id, {"account_id": ACCOUNT, **fields}, VAULT)
        assert not isinstance(command, UnreadableItem)
        if task.startswith("transactions."):
            self._moved.append(event_id(ACCOUNT, command.key))
        return command

    def _on_cards(self) -> list[tuple[str, dict[str, Any]]]:
        name, other = (f"card-{self._random.randrange(CARDS)}" for _ in range(2))
        card, why = {"card_id": name}, {"reason": "because"}
        money = {"amount": 50_000, "currency": "NOK"}
        codes = {"card_token": {"expires_in": 60}, "pin": {}, **SEALED}
        return [
            ("cards.create", {**card, **money}),
            ("cards.create", {"card_id": f"{name}-{self._number}", **money, **codes}),
            ("cards.batch_create", {"cards": [{"card_id": f"b{self._number}"}, card]}),
            ("cards.activate", {**card, **money}),
            ("cards.update", {**card, "name": f"n{self._number}"}),
            ("cards.block", {**card, **why}),
            ("cards.unblock", {**card, **why}),
            *([("cards.close", {**card, **why})] * (self._random.random() < 0.1)),
            ("cards.replace", {**card, **why, "new_card_id": f"{other}-{self._number}"}),
            ("cards.rotate_pin", {**card, **SEALED, "pin": {}}),
            ("tokens.create", {**card, **SEALED, "ref_id": f"t{self._number}"}),
            ("cards.reverse_activation", card),
        ]

    def _on_money(self) -> list[tuple[str, dict[str, Any]]]:
        card = {"card_id": f"card-{self._random.randrange(CARDS)}"}
        ref = {"ref_id": f"r{self._number}"}
        money = {"amount": self._random.randint(1, 50), "currency": "NOK", **ref}
        on = {"transaction_id": str(self._random.choice(self._moved[-9:])), **ref}
        token = {"token": f"TOKEN-{self._random.randrange(20)}"}
        pin = {"pin": self._random.choice([PIN, WRONG_PIN])}
        return [
            ("transactions.create", {**card, **money}),
            ("transactions.create", {**card, **money, "type": "fund"}),
            ("transactions.create", {**card, **money, "pending": True}),
            ("transactions.create", {**token, **money, **pin}),
            ("transactions.capture", on),
            ("transactions.void", on),
            ("transactions.refund", on),
            ("cards.adjust", {**card, **money, "reason": "because"}),
        ]


def handle_all(connection: Connection, groups: Iterator[Sequence[Command]]) -> None:
    issuer = plain_issuer()
    for number, group in enumerate(groups):
        noted(connection, group, NOW, issuer)
        # What is kept of messages that come back, too, whatever their number.
        ids = [f"m{number}-{place}" for place in range(number % 30 + 1)]
        count_starts(connection, [Start(id, 1) for id in ids], NOW)
        uncount_starts(connection, ids)
        forget_starts(connection, ids)


@pytest.mark.parametrize("seed", [1, 2])
def test_small_groups_of_any_kind_need_few_statement_texts(engine: Engine, seed: int) -> None:
    with counting(engine) as said, begin(engine) as (connection, _):
        handle_all(connection, Mixer(seed).groups(150))
    texts = set(map(str, said))
    assert len(said) > 1_500
    assert len(texts) < TEXTS_MAX, texts
