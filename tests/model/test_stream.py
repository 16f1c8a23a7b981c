"""A stream of mixed commands comes to the same in whatever groups it is handled."""

import json
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import Connection, Engine, select

from card_worker.contracts.commands import Command, event_id
from card_worker.contracts.message import UnreadableItem, read_commands
from card_worker.domain.books import Books
from card_worker.domain.events import Decision
from card_worker.secret_issuer import SecretIssuer
from card_worker.secrets.secret import REVEAL
from card_worker.storage.reconcile import differences
from card_worker.storage.tables import outbox, pin_attempts
from tests.codes import PIN, SEAL_TO, VAULT, WRONG_PIN, plain_issuer
from tests.orders import ON_CARDS
from tests.storage.test_handler import everything, noted

ACCOUNT = "T00000001"
NOBODY = "00000000-0000-0000-0000-000000000000"
NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
# `make test-model` takes 10,000, and 1,000 of the short ones.
LENGTH = int(os.environ.get("STREAM_COMMANDS", "1000"))
STREAMS = int(os.environ.get("STREAMS", "3"))
SHORT = 90
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
        assert not isinstance(command, UnreadableItem)
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
        assert not isinstance(command, UnreadableItem)
        made.append(command)
    return made


def _endings(
    chance: random.Random, card: dict[str, Any], number: int
) -> list[tuple[str, dict[str, Any]]]:
    """Return what ends a card: seldom, so that the others have something to be about."""
    if chance.random() < 0.8:
        return []
    return [("cards.close", card), ("cards.replace", {**card, "new_card_id": f"new-{number}"})]


def _groups(
    commands: Sequence[Command], seed: int, group_max: int = GROUP_MAX
) -> list[Sequence[Command]]:
    chance, cuts = random.Random(seed), [0]
    while cuts[-1] < len(commands):
        cuts.append(min(len(commands), cuts[-1] + chance.randint(1, group_max)))
    return [commands[start:end] for start, end in pairwise(cuts)]


def test_a_stream_comes_to_the_same_in_whatever_groups(engine: Engine) -> None:
    commands = list(stream(LENGTH, seed=1))
    beginning = _beginning(cards_of(LENGTH))
    ways = ([[one] for one in commands], _groups(commands, seed=2), [commands])
    seen = []
    for groups in ways:
        issuer = plain_issuer()
        with engine.connect() as connection, connection.begin() as commit:
            noted(connection, beginning, NOW, issuer)
            told = [answer for group in groups for answer in noted(connection, group, NOW, issuer)]
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


# --- short streams with dry runs, repeats, conflicts, chains and clocks that go back ------------


class IssuerByEvent(SecretIssuer):
    """A issuer whose values depend on nothing but the event that makes them."""

    def fill(self, connection: Connection, books: Books, decision: Decision) -> Decision:
        named = f"TOKEN-of-{decision.answer.id}"
        return plain_issuer(VAULT, named).fill(connection, books, decision)


class Group(NamedTuple):
    """Commands that are handled together, at the time that their commit's clock shows."""

    now: datetime
    commands: list[Command]


def mixed(seed: int) -> list[Command]:
    """Return a short stream in which dry runs, repeats, conflicts and chains are frequent."""
    chance = random.Random(seed)
    plain = list(stream(SHORT, seed))
    told: list[Command] = []
    for command in plain:
        match chance.randrange(8):
            case 0:
                told += [_dry(command, f"d{len(told)}"), command]
            case 1:
                told += [command, _dry(command, command.command_id)]
            case 2:
                told += [command, chance.choice([*told, command])]
            case 3:
                told += [command, _conflicting(command, chance.choice(plain))]
            case 4:
                told += [command, *_chained(command, len(told))]
            case _:
                told.append(command)
    return told[:SHORT]


def _again(command: Command, **changed: Any) -> Command:
    """Return a command that is asked anew, with some fields changed."""
    fields = command.model_dump(mode="json", exclude_unset=True, context=REVEAL) | changed
    command_id = fields.pop("command_id")
    fields = {name: value for name, value in fields.items() if value is not None}
    (read,) = read_commands(command.command, command_id, fields, VAULT)
    assert not isinstance(read, UnreadableItem)
    return read


def _dry(command: Command, command_id: str) -> Command:
    """Return a dry run of a command. Without its PIN, since a PIN that is tried counts."""
    return _again(command, command_id=command_id, dry_run=True, pin=None)


def _conflicting(command: Command, other: Command) -> Command:
    """Return another command under the same id, or the same one with another content."""
    if command.command == other.command:
        return _again(command, originated_by="elsewhere")
    return _again(other, command_id=command.command_id)


def _chained(command: Command, number: int) -> list[Command]:
    """Return commands that name the transaction which a command makes."""
    made = {"account_id": ACCOUNT, "transaction_id": str(event_id(ACCOUNT, command.key))}
    asked = [
        (task, f"chain{number}-{at}", {**made, "ref_id": f"chain{at}"})
        for at, task in enumerate(("transactions.capture", "transactions.refund"))
    ]
    chained = []
    for task, command_id, fields in asked:
        (read,) = read_commands(task, command_id, fields)
        assert not isinstance(read, UnreadableItem)
        chained.append(read)
    return chained


def grouped(commands: Sequence[Command], seed: int) -> list[Group]:
    """Return groups of commands whose clocks mostly go on, and sometimes back."""
    chance, groups, now = random.Random(seed), list[Group](), NOW
    for part in _groups(commands, seed, group_max=30):
        now += timedelta(seconds=chance.choice([0, 1, 30, 100, -0.001, -50]))
        groups.append(Group(now, list(part)))
    return groups


Seen: TypeAlias = tuple[dict[str, list[str]], dict[str, list[tuple[Any, ...]]]]


def handled(engine: Engine, groups: Sequence[Group]) -> Seen:
    """Return what is answered to each command, and all rows there are then; leave none behind."""
    issuer = IssuerByEvent(VAULT)
    told: dict[str, list[str]] = {}
    with engine.connect() as connection, connection.begin() as commit:
        noted(connection, _beginning(cards_of(SHORT)), NOW, plain_issuer())
        for now, commands in groups:
            for command, answer in zip(
                commands, noted(connection, commands, now, issuer), strict=True
            ):
                told.setdefault(command.key, []).append(answer.event)
        assert list(differences(connection)) == []
        _never_back(connection)
        rows = everything(connection)
        # PINs of a group are noted before any of its commands brings a card to a later time.
        at = list(pin_attempts.columns.keys()).index("created_at")
        rows["pin_attempts"] = [(*row[: at + 1], *row[at + 2 :]) for row in rows["pin_attempts"]]
        commit.rollback()
    return told, rows


def _never_back(connection: Connection) -> None:
    """Prove that versions and times of each card rise with the positions of its events."""
    last: dict[str, tuple[int, str]] = {}
    events = connection.execute(select(outbox.c.event).order_by(outbox.c.position)).scalars()
    for event in map(json.loads, events):
        if "sequence" in event:
            version, at = last.get(event["subject"], (0, ""))
            assert int(event["sequence"]) == version + 1 or version == 0
            assert event["time"] >= at
            last[event["subject"]] = int(event["sequence"]), event["time"]


def test_short_streams_come_to_the_same_one_by_one_and_in_groups(engine: Engine) -> None:
    reasons = Counter[str]()
    for seed in range(STREAMS):
        groups = grouped(mixed(seed), seed)
        alone = [Group(now, [one]) for now, commands in groups for one in commands]
        seen = handled(engine, groups)
        assert seen == handled(engine, alone), f"seed {seed}"
        events = [json.loads(event)["data"] for told in seen[0].values() for event in told]
        reasons.update(event.get("reason", "done") for event in events)
        reasons.update("dry" for event in events if event.get("dry_run"))
    # All that is mixed in has to come up.
    assert min(reasons[what] for what in ("done", "dry", "idempotency_conflict")) > STREAMS


def test_dry_runs_between_change_nothing(engine: Engine) -> None:
    for seed in range(STREAMS):
        groups = grouped(mixed(seed), seed)
        real = [Group(now, [one for one in some if not one.dry_run]) for now, some in groups]
        told, rows = handled(engine, groups)
        expected_told, expected_rows = handled(engine, real)
        dry = {one.key for _, some in groups for one in some if one.dry_run}
        assert {key: said for key, said in told.items() if key not in dry} == expected_told, seed
        # What a dry run leaves is its key and its answer; its token is an attempt of its source.
        expected_rows.pop("source_attempts")
        for name, expected in expected_rows.items():
            kept = Counter(map(repr, rows[name]))
            kept.subtract(map(repr, expected))
            left = [row for row, count in kept.items() for _ in range(count)]
            assert min(kept.values(), default=0) >= 0, (seed, name)
            assert not left or name in {"idempotency_keys", "outbox", "unpublished"}, (
                seed,
                name,
                left,
            )
