"""Random commands through a real broker and worker, compared with the model of the contract."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyrage
import pytest
from celery import Celery

from card_worker.embedded.valkey import Valkey
from card_worker.secrets.peppers import new_pepper
from tests.differential.commands import Command, Commands
from tests.differential.model import Json, Later, Model, Rules
from tests.flow.processes import until
from tests.flow.system import STREAM, System, plain_client, system

COMMANDS = int(os.environ.get("DIFFERENTIAL_COMMANDS", "300"))
SEED = int(os.environ.get("DIFFERENTIAL_SEED", "1"))
PAGE_MAX = 400
WAIT_MAX_S = 120.0
SHOWN_MAX = 3
HISTORY_MAX = 20
RULES = {
    "T00000001": Rules(),
    "T00000002": Rules(("NOK", "SEK"), 100_000, 150_000, extends_expiry=False),
    "P00000003": Rules(has_recipients=False),
}


@pytest.fixture(scope="module")
def identity() -> pyrage.x25519.Identity:
    return pyrage.x25519.Identity.generate()


@pytest.fixture
def flow(tmp_path: Path, database_url: str, own_broker: Valkey) -> Iterator[System]:
    with system(tmp_path, database_url=database_url, broker_url=own_broker.url) as made:
        yield made


@pytest.fixture
def celery(flow: System) -> Iterator[Celery]:
    with plain_client(flow.broker_url) as client:
        yield client


class Comparison:
    """The pages of commands, sent and compared."""

    def __init__(self, flow: System, celery: Celery, identity: Any) -> None:
        self.flow, self.celery, self.identity = flow, celery, identity
        self.model = Model(RULES)
        self.commands = Commands(SEED, self.model, str(identity.to_public()))
        self.last = "0-0"
        self.pages = 0
        self.seen: dict[str, int] = {}
        self.found: list[str] = []
        self.history: dict[str, list[str]] = defaultdict(list)

    def page(self, size: int, *, listed: bool) -> None:
        """Send some commands, one by one or in lists, and compare what they lead to."""
        drawn = []
        for number in range(size):
            lasting = number == size - 1 and self.commands.random.random() < 0.5
            command = self.commands.draw(listed=listed, lasting=lasting)
            drawn.append((command, self.model.handle(*command)))
        self.pages += 1
        self._send([command for command, _ in drawn], listed=listed)
        events = self._received([event for _, expected in drawn for event in expected])
        for command, expected in drawn:
            if len(self.found) < SHOWN_MAX:
                self._compare(command, expected, events)
        left = [event for some in events.values() for event in some]
        if not self.found:
            # An answer that is published again may come late.
            left = [event for event in left if event["id"] not in self.seen]
            self.found = [f"not expected: {json.dumps(event)}" for event in left]
        letters = [f"dead letter: {letter}" for letter in self.flow.letters()]
        assert not self.found + letters, "\n\n".join(self.found + letters)

    def _compare(
        self, command: Command, expected: list[Json], events: dict[str, list[Json]]
    ) -> None:
        differences = []
        for event in expected:
            id, some = event["id"].value, events[where(event)]
            fit = [each for each in some if each["id"] == id or not (id or each["id"] in self.seen)]
            actual = min(fit, key=lambda each: kind(each) != kind(event), default=None)
            if actual:
                some.remove(actual)
                self.seen[actual["id"]] = self.pages
            elif id is not None and self.seen[id] == self.pages:
                continue  # both came at once, so the answer is published once
            differences += compare(event, actual)
            if event is expected[0]:
                self._note(command, actual)
                self._learn(event, actual)
        if differences:
            self._report(command, expected[0]["subject"], differences)

    def check_books(self) -> None:
        """Compare all cards, transactions and batches with what queries show."""
        model, found = self.model, []
        for account in RULES:
            cards: dict[str, Json] = {}
            query: Json = {"account_id": account, "limit": 500}
            while query.get("cursor", "") is not None:
                result = self._ask("cards.list", **query)
                cards |= {card["card_id"]: card for card in result["cards"]}
                query["cursor"] = result["next_cursor"]
            of_account = [card for (owner, _), card in model.cards.items() if owner == account]
            views = {card.card_id: model.card_view(card) for card in of_account}
            waiting = [card.card_id for card in of_account if model.waits(card)]
            found += compare({id: views[id] for id in views if id not in waiting}, cards, account)
            for card in self.commands.random.sample(of_account, min(len(of_account), 50)):
                if card.card_id not in waiting:
                    query = {"account_id": account, "card_id": card.card_id, "limit": 500}
                    actual = self._ask("transactions.list", **query)["transactions"]
                    moved = [model.money[id].view for id in card.transactions]
                    found += compare(moved, actual, f"{account}/{card.card_id}")
            for owner, batch_id in model.batches:
                if owner == account:
                    actual = self._ask("batches.get", account_id=account, batch_id=batch_id)
                    expected = model.batch_view(account, batch_id)
                    shown = {key: actual["batch"].get(key, "absent") for key in expected}
                    found += compare(expected, shown, f"{account}/{batch_id}")
        assert not found, "\n".join(found[:20])

    def _ask(self, name: str, **fields: Any) -> Json:
        result: Json = self.celery.send_task(name, queue="cards", kwargs=fields).get(
            timeout=WAIT_MAX_S
        )
        assert "reason" not in result, (name, fields, result)
        return result

    def _send(self, drawn: list[Command], *, listed: bool) -> None:
        if not listed:
            for name, fields, _ in drawn:
                self.flow.client.publish(name, fields, message_id=fields["command_id"])
            return
        size = self.commands.random.choice([1, 7, 100])
        for start in range(0, len(drawn), size):
            part = [{"command": c.name, **c.fields} for c in drawn[start : start + size]]
            self.flow.client.publish("commands.apply", {"commands": part})

    def _received(self, expected: list[Json]) -> dict[str, list[Json]]:
        """Return the events since the last page by what `where` says, once all are there."""
        wanted = Counter({(where(event), id(event)): 1 for event in expected})
        places = Counter(place for place, _ in wanted)
        events: dict[str, list[Json]] = defaultdict(list)

        def are_all_there() -> bool:
            idle = not self.flow.waiting()
            entries: Any = self.flow.redis.xrange(STREAM, min=f"({self.last}")
            for self.last, fields in entries:
                event = json.loads(fields["event"])
                events[where(event)].append(event)
            return idle and all(len(events[place]) >= count for place, count in places.items())

        with suppress(AssertionError):
            until(are_all_there, "the events", within_s=WAIT_MAX_S)
        return events

    def _learn(self, expected: Json, actual: Json | None) -> None:
        """Open the secrets that an answer holds."""
        if actual is None or "sealed" not in actual["data"]:
            return
        text = pyrage.decrypt(actual["data"]["sealed"].encode(), [self.identity])
        secrets = json.loads(text)
        data = actual["data"]
        card = self.model.cards[data["account_id"], data["card_id"]]
        if secrets.get("pin"):
            card.pin_secret = secrets["pin"]
        if secrets.get("token"):
            id = data["token"]["id"] if "token" in data else data["card"]["tokens"][0]["id"]
            for token in card.tokens:
                if token.value == id:
                    self.model.tokens[token].secret = secrets["token"]

    def _note(self, command: Command, actual: Json | None) -> None:
        answer = actual and actual["data"].get("reason", actual["type"])
        for card_id in {actual["subject"] if actual else "", command.fields.get("card_id", "")}:
            key = f"{command.fields['account_id']}/{card_id}"
            self.history[key].append(f"{command.name} {json.dumps(command.fields)} -> {answer}")

    def _report(self, command: Command, subject: str, differences: list[str]) -> None:
        history = self.history[f"{command.fields['account_id']}/{subject}"][-HISTORY_MAX:]
        head = f"seed {SEED}, page {self.pages}: {command.name} {json.dumps(command.fields)}"
        parts = [head, f"history of {subject}:", *history, "expected / actual:", *differences]
        self.found.append("\n  ".join(parts))


def kind(event: Json) -> str:
    return str(event["data"].get("reason", event["type"]))


def where(event: Json) -> str:
    """Return the command that led to an event; of a recall's cards, the card."""
    id = event["correlationid"]
    own = isinstance(id, str) and id.startswith("command-")
    return id if own else f"{event['source']}/{event['subject']}"


def compare(expected: Any, actual: Any, path: str = "") -> list[str]:
    """Return where a value differs from the expected one."""
    if isinstance(expected, Later):
        return [] if expected.fits(actual) else [f"{path}: {expected!r} / {actual!r}"]
    if isinstance(expected, dict) and isinstance(actual, dict):
        return [
            difference
            for key in sorted({*expected, *actual})
            for difference in compare(
                expected.get(key, "absent"), actual.get(key, "absent"), f"{path}.{key}"
            )
        ]
    if path.endswith(".tokens"):  # their order is open
        expected, actual = (
            sorted(some, key=lambda t: t["ref_id"] or "") for some in (expected, actual)
        )
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        return [
            difference
            for number, pair in enumerate(zip(expected, actual, strict=True))
            for difference in compare(*pair, f"{path}.{number}")
        ]
    return [] if expected == actual else [f"{path}: {expected!r} / {actual!r}"]


def test_the_worker_does_what_the_contract_says(
    flow: System, celery: Celery, identity: Any
) -> None:
    rules = "--currencies NOK,SEK --load-max 100000 --balance-max 150000"
    rules += " --no-transfers-extend-expiry"
    recipient = str(identity.to_public())
    for account, options in (("T00000001", ""), ("T00000002", rules)):
        done = flow.cli("account", "set", account, *options.split(), "--recipients", recipient)
        assert done.exit_code == 0, done.output
    peppers = {"TOKEN_PEPPERS": new_pepper("t1"), "PIN_PEPPERS": new_pepper("p1")}
    flow.start("worker", **peppers)
    flow.start("relay")
    comparison = Comparison(flow, celery, identity)
    random = comparison.commands.random
    while comparison.commands.drawn < COMMANDS:
        comparison.page(random.choice([1, 20, PAGE_MAX]), listed=random.random() < 0.5)
    comparison.check_books()
    done = flow.cli("reconcile")
    assert done.exit_code == 0, done.output
