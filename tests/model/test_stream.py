"""A long stream of mixed commands comes to the same in whatever groups it is handled."""

import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from sqlalchemy import Engine

from card_worker.contracts.commands import Command, event_id
from card_worker.contracts.message import Letter, read_commands
from card_worker.storage.reconcile import differences
from tests.codes import PIN, SEAL_TO, VAULT, WRONG_PIN, plain_mint
from tests.orders import ON_CARDS
from tests.storage.test_handler import everything, noted

ACCOUNT = "T00000001"
NOBODY = "00000000-0000-0000-0000-000000000000"
NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
# `make test-model` takes 10,000.
LENGTH = int(os.environ.get("STREAM_COMMANDS", "1000"))
GROUP_MAX = 200


def cards_of(length: int) -> int:
    return max(5, length // 40)


def stream(length: int, seed: int) -> Iterator[Command]:
    """Yield commands about a few cards, some of them twice, most of them sensible."""
    chance = random.Random(seed)
    cards = [f"A{number}" for number in range(cards_of(length))]
    moved: list[str] = []
    made_tokens: list[str] = []
    asked: list[Command] = []
    money = {"currency": "NOK"}
    for number in range(length):
        if asked and chance.random() < 0.05:
            yield chance.choice(asked)
            continue
        card = {"card_id": chance.choice(cards)}
        ref = {"ref_id": f"r{number if chance.random() < 0.95 else chance.randrange(length)}"}
        before = {"transaction_id": chance.choice(moved) if moved else str(event_id("", ""))}
        why, load = {"reason": "because"}, {**money, "amount": chance.randrange(500, 2_000)}
        made = {"card_id": f"B{chance.randrange(len(cards))}"}
        choices: list[tuple[str, dict[str, Any]]] = [
            *[("cards.create", {**card, **load})] * (5 if number < length / 5 else 1),
            ("cards.batch_create", {"cards": [made]}),
            ("cards.activate", {**made, **load}),
            ("cards.reverse_activation", card),
            ("cards.update", {**card, "name": f"n{number}"}),
            ("cards.block", {**card, **why}),
            ("cards.unblock", {**card, **why}),
            ("cards.expire", card),
            ("cards.adjust", {**card, **ref, **money, **why, "amount": 5}),
            ("cards.transfer", {**card, **ref, "to_card_id": chance.choice(cards[1:])}),
            ("transactions.capture", {**before, **ref}),
            ("transactions.void", {**before, **ref}),
            ("transactions.refund", {**before, **ref, "amount": 1}),
            ("holds.expire", before),
            *[("transactions.create", _movement(chance, card, ref))] * 8,
            *[("transactions.create", _by_token(chance, len(cards), ref))] * 4,
            ("tokens.create", {**card, **ref, **SEAL_TO, "expires_in": 60}),
            ("tokens.revoke", {**card, "token_id": chance.choice([*made_tokens, NOBODY])}),
            ("cards.rotate_pin", {**card, **SEAL_TO, "pin": {}}),
            *_endings(chance, {**card, **why}, number),
        ]
        task, fields = chance.choice(choices)
        (command,) = read_commands(task, f"c{number}", {"account_id": ACCOUNT, **fields}, VAULT)
        assert not isinstance(command, Letter)
        if task == "tokens.create":
            made_tokens.append(str(event_id(ACCOUNT, command.key)))
        if task == "transactions.create":
            moved.append(str(event_id(ACCOUNT, command.key)))
        asked.append(command)
        yield command


def _movement(chance: random.Random, card: dict[str, Any], ref: dict[str, Any]) -> dict[str, Any]:
    asked = {**card, **ref, "currency": "NOK", "amount": chance.randrange(1, 300)}
    match chance.randrange(3):
        case 0:
            return asked | {"type": "fund"}
        case 1:
            return asked | {"pending": True}
    return asked


def _by_token(chance: random.Random, cards: int, ref: dict[str, Any]) -> dict[str, Any]:
    """Return a payment by the token of one of the first cards, most of them with a right PIN."""
    number = chance.randrange(cards + 1)
    asked = {**ref, "currency": "NOK", "amount": chance.randrange(1, 300)}
    asked["token"] = f"TOKEN-{number}" if number < cards else "TOKEN-none"
    if chance.random() < 0.7:
        asked["pin"] = PIN if chance.random() < 0.6 else WRONG_PIN
    return asked


def _beginning(cards: int) -> list[Command]:
    """Return what makes the first cards: nobody can know a token before it is there."""
    made = []
    for number in range(cards):
        codes = {"card_token": {"expires_after_transaction": number % 5 == 0}}
        codes |= {"pin": {}} if number % 3 else {}
        asked = {"card_id": f"A{number}", "amount": 1_000, "currency": "NOK", **codes, **SEAL_TO}
        (command,) = read_commands(
            "cards.create", f"begin-{number}", {"account_id": ACCOUNT, **asked}, VAULT
        )
        assert not isinstance(command, Letter)
        made.append(command)
    return made


def _endings(
    chance: random.Random, card: dict[str, Any], number: int
) -> list[tuple[str, dict[str, Any]]]:
    """Return what ends a card: seldom, so that the others have something to be about."""
    if chance.random() < 0.8:
        return []
    return [("cards.close", card), ("cards.replace", {**card, "new_card_id": f"new-{number}"})]


def _groups(commands: Sequence[Command], seed: int) -> list[Sequence[Command]]:
    chance, cuts = random.Random(seed), [0]
    while cuts[-1] < len(commands):
        cuts.append(min(len(commands), cuts[-1] + chance.randint(1, GROUP_MAX)))
    return [commands[start:end] for start, end in pairwise(cuts)]


def test_a_stream_comes_to_the_same_in_whatever_groups(engine: Engine) -> None:
    commands = list(stream(LENGTH, seed=1))
    beginning = _beginning(cards_of(LENGTH))
    ways = ([[one] for one in commands], _groups(commands, seed=2), [commands])
    seen = []
    for groups in ways:
        mint = plain_mint()
        with engine.connect() as connection, connection.begin() as commit:
            noted(connection, beginning, NOW, mint)
            told = [answer for group in groups for answer in noted(connection, group, NOW, mint)]
            assert list(differences(connection)) == []
            seen.append(([answer.event for answer in told], everything(connection)))
            commit.rollback()
    assert seen[0] == seen[1]
    assert seen[0] == seen[2]
    # It is worth something only when most kinds of command are both done and refused.
    done = Counter(command.command for command in commands)
    refused = Counter(answer.reason for answer in told)
    assert set(done) == ON_CARDS
    assert refused[None] > LENGTH / 4
    assert len(refused) > 10
