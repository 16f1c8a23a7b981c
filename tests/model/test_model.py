"""The real thing beside a plain model of it, whatever is asked, again, and in whatever groups."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection, Engine, select

from card_worker.contracts.commands import Command, event_id
from card_worker.contracts.json_text import write_time
from card_worker.contracts.message import UnreadableItem, read_commands
from card_worker.domain.answers import Answer
from card_worker.storage.queries import card_at, find_card
from card_worker.storage.reconcile import differences, totals
from card_worker.storage.tables import cards, outbox, tokens
from tests.codes import OWNER, PIN, TOKEN_PEPPERS, VAULT, WRONG_PIN, plain_issuer
from tests.model.model import Model
from tests.orders import ON_CARDS
from tests.storage.test_handler import noted

ACCOUNT = "T00000001"
START = datetime(2026, 11, 22, 10, tzinfo=UTC)
# `make test-model` takes more of both.
EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "25"))
STEPS = int(os.environ.get("MODEL_STEPS", "25"))

NAMES = st.sampled_from(["A1", "A2", "A3"])
CARD, WHY = {"card_id": NAMES}, {"reason": st.just("because")}
REF = {"ref_id": st.sampled_from([f"r{number}" for number in range(6)])}
MONEY = {"currency": st.sampled_from(["NOK"] * 7 + ["SEK"])}
PARTS = st.none() | st.integers(1, 60)
ENDS = st.none() | st.integers(1, 90)
"""Seconds from now."""
STARTS = st.sampled_from([None, None, None, -5, 20])
BEFORE = {"transaction_id": st.integers(0, 30)}
"""One of the transactions so far, by number."""
SEALED = {"seal_to": st.just([OWNER.recipient])}
SERVES = st.fixed_dictionaries(
    {},
    optional={
        "expires_in": st.integers(1, 60),
        "expires_after_transaction": st.booleans(),
    },
)
CODES = {"card_token": SERVES, "pin": st.just({})}
NAMED = st.integers(0, 12)
"""One of the tokens so far, by number, or one that nobody has."""
ASKED: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "cards.create": {
        **CARD,
        **MONEY,
        **CODES,
        **SEALED,
        "amount": st.integers(0, 300),
        "active_from": STARTS,
        "expires_at": ENDS,
    },
    "cards.batch_create": {
        **SEALED,
        "cards": st.lists(st.fixed_dictionaries(CARD), min_size=1, max_size=3),
        "options": st.fixed_dictionaries({}, optional=CODES),
    },
    "cards.activate": {
        **CARD,
        **MONEY,
        "amount": st.integers(0, 300),
        "active_from": STARTS,
        "expires_at": ENDS,
        "card_token": st.none() | SERVES,
    },
    "cards.rotate_pin": {**CARD, **SEALED, "pin": st.just({})},
    "tokens.create": {
        **CARD,
        **REF,
        **SEALED,
        "expires_in": st.integers(1, 60),
        "expires_after_transaction": st.none() | st.booleans(),
    },
    "tokens.revoke": {**CARD, "named": NAMED},
    "cards.reverse_activation": CARD,
    "cards.update": {**CARD, "name": st.just("x"), "expires_at": ENDS},
    "cards.block": {**CARD, **WHY},
    "cards.unblock": {**CARD, **WHY},
    "cards.close": {**CARD, **WHY},
    "cards.replace": {**CARD, **WHY, "new_card_id": st.sampled_from(["A2", "A4", "A5"])},
    "cards.transfer": {**CARD, **REF, "to_card_id": NAMES, "amount": PARTS},
    "cards.adjust": {
        **CARD,
        **REF,
        **MONEY,
        **WHY,
        "amount": st.integers(-60, 60).filter(lambda amount: amount != 0),
    },
    "cards.expire": CARD,
    "transactions.create": {
        **CARD,
        **REF,
        **MONEY,
        "amount": st.integers(1, 120),
        "type": st.sampled_from([None, None, "fund"]),
    },
    "transactions.capture": {
        **BEFORE,
        **REF,
        "amount": PARTS,
        "final": st.sampled_from([None, None, True]),
    },
    "transactions.void": {**BEFORE, **REF},
    "transactions.refund": {**BEFORE, **REF, "amount": PARTS},
    "holds.expire": BEFORE,
}
HOLD = ASKED["transactions.create"] | {
    "type": st.none(),
    "pending": st.just(True),
    "hold_expires_in": st.none() | st.integers(1, 60),
}
BY_TOKEN = ASKED["transactions.create"] | {
    "card_id": st.none(),
    "token": NAMED,
    "pin": st.sampled_from([None, PIN, PIN, WRONG_PIN]),
}
# Money more often than the rest.
SPENDING = [
    *[("transactions.create", HOLD)] * 3,
    *[("transactions.create", BY_TOKEN)] * 5,
    ("transactions.create", ASKED["transactions.create"]),
]
DRAWN = st.sampled_from([*ASKED.items(), *SPENDING]).flatmap(
    lambda one: st.tuples(st.just(one[0]), st.fixed_dictionaries(one[1]))
)


class Beside(RuleBasedStateMachine):
    """Both are asked the same; nothing may differ."""

    engine: Engine

    def __init__(self) -> None:
        super().__init__()
        self.connection: Connection = self.engine.connect()
        self.commit = self.connection.begin()
        self.now = START
        self.model = Model(right_pin=PIN)
        self.issuer = plain_issuer()
        self.asked: list[Command] = []
        self.answers: dict[str, str] = {}
        """The answer to each key, to the byte."""
        self.expected: dict[str, str] = {}
        self.moved: list[str] = []
        """The ids of what may be transactions."""

    def teardown(self) -> None:
        self.commit.rollback()
        self.connection.close()

    @rule(seconds=st.integers(1, 40) | st.just(900))
    def time_goes_by(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(drawn=st.lists(DRAWN, min_size=1, max_size=4))
    def ask(self, drawn: list[tuple[str, dict[str, Any]]]) -> None:
        group = [command for task, fields in drawn for command in self._command(task, fields)]
        self._handle(group)

    @rule(places=st.lists(st.integers(0, 200), min_size=1, max_size=3))
    def deliver_again(self, places: list[int]) -> None:
        if self.asked:
            self._handle([self.asked[place % len(self.asked)] for place in places])

    @invariant()
    def the_books_add_up(self) -> None:
        assert list(differences(self.connection)) == []
        assert all(one.adds_up for one in totals(self.connection))

    @invariant()
    def cards_are_as_the_model_says(self) -> None:
        names = set(self.connection.execute(select(cards.c.card_id)).scalars())
        assert names == set(self.model.cards)
        for name, expected in self.model.cards.items():
            card = find_card(self.connection, ACCOUNT, name)
            assert card is not None
            seen = card_at(self.connection, card, self.now)
            assert (
                seen.status(self.now),
                seen.version,
                seen.amount_funds,
                seen.amount_drawdown,
                seen.amount_balance,
                seen.amount_pending,
                card.amount_reserved,
                seen.amount_reserved,
            ) == (
                expected.shows(self.now),
                expected.version,
                expected.funds,
                expected.spent,
                expected.balance,
                expected.pending,
                self.model.locked_by_rows(name),
                self.model.locked(name, self.now),
            )

    @invariant()
    def versions_are_told_without_a_gap(self) -> None:
        last = Counter[str]()
        events = self.connection.execute(select(outbox.c.event).order_by(outbox.c.position))
        for event in map(json.loads, events.scalars()):
            if event["type"] == "batch.completed":
                last.update(card["card_id"] for card in event["data"]["cards"])
            elif "sequence" in event:
                last[event["subject"]] += 1
                assert int(event["sequence"]) == last[event["subject"]]

    def _command(self, task: str, fields: dict[str, Any]) -> Sequence[Command]:
        given = {name: value for name, value in fields.items() if value is not None}
        if "transaction_id" in given:
            if not self.moved:
                return ()
            given["transaction_id"] = self.moved[given["transaction_id"] % len(self.moved)]
        if not self._name_token(task, given):
            return ()
        if given.get("to_card_id", given.get("new_card_id")) == given.get("card_id", ""):
            return ()
        for name in given.keys() & {"active_from", "expires_at"}:
            given[name] = self.now + timedelta(seconds=given[name])
        sent = {
            name: write_time(value) if isinstance(value, datetime) else value
            for name, value in given.items()
            if name != "named"
        }
        number = len(self.asked)
        (command,) = read_commands(task, f"c{number}", {"account_id": ACCOUNT, **sent}, VAULT)
        assert not isinstance(command, UnreadableItem)
        # A reference that is used again for something else is refused before the rules; the model
        # starts where they do.
        if command.key in self.expected:
            return ()
        self.asked.append(command)
        id = str(event_id(ACCOUNT, command.key))
        if task.startswith("transactions."):
            self.moved.append(id)
        self.expected[command.key] = self.model.do(task, given, id, self.now)
        return (command,)

    def _name_token(self, task: str, given: dict[str, Any]) -> bool:
        """Put a token in the place of its number; say whether anybody could know it by now."""
        field = "named" if task == "tokens.revoke" else "token"
        if field not in given:
            return True
        given[field] = f"TOKEN-{given[field]}"
        (hash,) = TOKEN_PEPPERS.token_hashes(ACCOUNT, given[field])
        kept = select(tokens.c.id).where(tokens.c.digest == hash.digest)
        id = self.connection.execute(kept).scalar()
        if field == "named":
            given["token_id"] = str(id)
            return id is not None
        return id is not None or given[field] not in self.model.tokens

    def _handle(self, group: Sequence[Command]) -> None:
        told: list[Answer] = noted(self.connection, group, self.now, self.issuer)
        for command, answer in zip(group, told, strict=True):
            said = str(answer.type) if answer.reason is None else str(answer.reason)
            data = json.loads(answer.event)
            assert data["data"].get("reason", said) == self.expected[command.key], command
            assert self.answers.setdefault(command.key, answer.event) == answer.event


def test_every_command_is_drawn() -> None:
    assert set(ASKED) == ON_CARDS


def test_it_does_what_the_model_does(engine: Engine) -> None:
    class OnThis(Beside):
        pass

    OnThis.engine = engine
    run_state_machine_as_test(
        OnThis,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
