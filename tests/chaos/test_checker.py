"""The checker of `make chaos-servers` sees what it is there for: each thing is spoilt once."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest

from card_worker.embedded.valkey import NoServer
from tests import servers
from tests.chaos.servers.checker import Entry
from tests.chaos.servers.journal import Asked, Journal, is_answer
from tests.chaos.servers.run import Run
from tests.chaos.servers.world import World, world

COMMANDS, SEED = 600, 1
Spoil = Callable[[list[Entry]], list[Entry]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as running:
        folder = tmp_path_factory.mktemp("checker")
        try:
            opened = world(folder, seed=SEED, is_long=False, own_clock=False)
            yield running.enter_context(opened)
        except NoServer as error:
            servers.missing(error, servers.DATABASE_FROM)


@pytest.fixture(scope="module")
def done(made: World) -> Run:
    """A run without a fault, after its end."""
    run = Run(made, [], commands=COMMANDS, seed=SEED)
    report = run.run()
    assert report.failures == []
    assert report.commands >= COMMANDS
    return run


def entries_of(done: Run) -> list[Entry]:
    """Return each event once, where it came first: a relay may publish one again."""
    first: dict[str, str] = {}
    for id, raw in done.entries():
        first.setdefault(id, raw)
    return list(first.items())


@contextmanager
def database(made: World) -> Iterator["psycopg.Connection[Any]"]:
    """Give a session that may change anything, and whose changes are rolled back."""
    with made.database.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL session_replication_role = replica")  # without triggers
        yield connection


def wrong(done: Run, entries: list[Entry], connection: "psycopg.Connection[Any]") -> str:
    return "\n".join(done.checker(entries, connection).violations())


def _is(event: dict[str, Any], kind: str) -> bool:
    return bool(event["type"] == kind and "sequence" in event)


def _at(entries: list[Entry], kind: str, times: int = 1) -> list[int]:
    """Return the places of the events of one card of a kind, so many at least."""
    found: dict[str, list[int]] = {}
    for place, (_, raw) in enumerate(entries):
        event = json.loads(raw)
        if _is(event, kind):
            found.setdefault(event["partitionkey"], []).append(place)
    return next(places for places in found.values() if len(places) >= times)


def _changed(entries: list[Entry], place: int, change: Callable[[Any], None]) -> list[Entry]:
    id, raw = entries[place]
    event = json.loads(raw)
    change(event)
    return [*entries[:place], (event.get("id", id), json.dumps(event)), *entries[place + 1 :]]


def _without_one(entries: list[Entry]) -> list[Entry]:
    (place, *_) = _at(entries, "card.drawn_down")
    return entries[:place] + entries[place + 1 :]


def _other_bytes(entries: list[Entry]) -> list[Entry]:
    id, raw = entries[0]
    return [*entries, (id, f"{raw} ")]


def _swapped(entries: list[Entry]) -> list[Entry]:
    one, other, *_ = _at(entries, "card.drawn_down", 2)
    entries = list(entries)
    entries[one], entries[other] = entries[other], entries[one]
    return entries


def _other_amount(entries: list[Entry]) -> list[Entry]:
    def change(event: Any) -> None:
        event["data"]["card"]["amount_balance"] += 1

    return _changed(entries, _at(entries, "card.drawn_down")[0], change)


def _answered_twice(entries: list[Entry]) -> list[Entry]:
    id, raw = next(one for one in entries if json.loads(one[1])["type"] == "command.rejected")
    other = f"{id[:-4]}0000"
    return [*entries, (other, json.dumps(json.loads(raw) | {"id": other}))]


def _too_early(entries: list[Entry]) -> list[Entry]:
    def change(event: Any) -> None:
        event["time"] = "2020-01-01T00:00:00.000Z"

    return _changed(entries, _at(entries, "card.funded")[0], change)


def _too_late(entries: list[Entry]) -> list[Entry]:
    def change(event: Any) -> None:
        event["time"] = "2999-01-01T00:00:00.000Z"

    return _changed(entries, _at(entries, "card.funded")[0], change)


def _spent_while_blocked(entries: list[Entry]) -> list[Entry]:
    def change(event: Any) -> None:
        event["type"] = "card.blocked"

    # The next event of the same card has to spend, too.
    before = dict[str, int]()
    for place, (_, text) in enumerate(entries):
        event = json.loads(text)
        spends = event["type"] == "card.drawn_down"
        earlier = before.pop(event["subject"], None)
        if spends and earlier is not None and entries[earlier][0] != event["id"]:
            return _changed(entries, earlier, change)
        if spends:
            before[event["subject"]] = place
    pytest.fail("no card was spent from twice")


@pytest.mark.parametrize(
    ("spoil", "seen"),
    [
        (_without_one, r"lost: c\d+ \(transactions.create\) has \d of \d answers"),
        (_without_one, "is in the outbox only"),
        (_without_one, "are not in order"),
        (_other_bytes, "was told with different bytes"),
        (_swapped, "are not in order"),
        (_other_amount, "shows other amounts"),
        (_other_amount, "has other bytes in the outbox"),
        (_answered_twice, r"doubled: .* has \d answers"),
        (_too_early, "answers what was sent at"),
        (_too_late, "of 2999-.* was seen at"),
        (_spent_while_blocked, "was spent from while blocked"),
    ],
    ids=lambda value: value.__name__ if callable(value) else value,
)
def test_what_is_wrong_on_the_stream_is_seen(
    spoil: Spoil, seen: str, made: World, done: Run
) -> None:
    with database(made) as connection:
        assert re.search(seen, wrong(done, spoil(entries_of(done)), connection))


LETTER = (
    "INSERT INTO dead_letters (received_at, message_id, reason, body, is_masked, digest)"
    " SELECT received_at, 'nobody-sent', reason, body, is_masked, 'x' FROM dead_letters LIMIT 1"
)
SPOILT = {
    "UPDATE cards SET amount_balance = amount_balance + 1 WHERE id = {card}": "not the sums",
    "UPDATE cards SET version = version + 1 WHERE id = {card}": "not what its events give",
    "UPDATE cards SET blocked = NOT blocked WHERE id = {card}": "not what its events give",
    "DELETE FROM transactions WHERE id = (SELECT id FROM transactions LIMIT 1)": "is told of only",
    "UPDATE transactions SET type = 'adjustment' WHERE type = 'fund'": "not the sums",
    "UPDATE transactions SET parent_id = (SELECT id FROM transactions WHERE type = 'drawdown'"
    " ORDER BY amount LIMIT 1) WHERE type = 'fund'": "was refunded",
    "DELETE FROM dead_letters": r"lost: garbage-\d+\. is no dead letter",
    "UPDATE dead_letters SET body = '' WHERE message_id LIKE 'list-%'": "is not in the dead",
    LETTER: "a message in order became a dead letter: nobody-sent",
    "INSERT INTO unpublished (position) VALUES (1)": "1 events still wait to be published",
    "INSERT INTO idempotency_keys SELECT account_id, 'x', digest, gen_random_uuid(), created_at"
    " FROM idempotency_keys LIMIT 1": "has no answer",
    "INSERT INTO audit.pin_attempts (id, card, outcome) SELECT gen_random_uuid(), {card}, 'wrong'"
    " FROM generate_series(1, 6)": "card .*: [2-9] wrong PINs lock it, [0-9] locks",
    "DELETE FROM outbox WHERE position = (SELECT max(position) FROM outbox)": "on the stream only",
}
A_CARD = "(SELECT id FROM cards WHERE version > 2 LIMIT 1)"


@pytest.mark.parametrize(("statement", "seen"), SPOILT.items())
def test_what_is_wrong_in_the_database_is_seen(
    statement: str, seen: str, made: World, done: Run
) -> None:
    with database(made) as connection:
        assert connection.execute(statement.format(card=A_CARD).encode()).rowcount > 0
        assert re.search(seen, wrong(done, entries_of(done), connection))


def test_a_command_without_an_answer_is_seen(made: World, done: Run) -> None:
    with _asked(made.journal, Asked("never", "cards.block", accepted=1.0)):
        with database(made) as connection:
            told = wrong(done, entries_of(done), connection)
        assert told == "lost: never (cards.block) has 0 of 1 answers"


@contextmanager
def _asked(journal: Journal, one: Asked) -> Iterator[None]:
    journal.asked[one.command_id] = [one]
    try:
        yield
    finally:
        del journal.asked[one.command_id]


def test_commands_that_overtook_one_another_are_seen(
    made: World, done: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = entries_of(done)
    earlier, later, *_ = (
        json.loads(entries[place][1]) for place in _at(entries, "card.drawn_down", 2)
    )
    assert is_answer(earlier)
    for one in made.journal.asked[earlier["correlationid"]]:
        monkeypatch.setattr(one, "first_sent", made.journal.arrivals[later["id"]] + 1)
    with database(made) as connection:
        told = wrong(done, entries, connection)
    assert f"{earlier['correlationid']} was sent after" in told


def test_a_wrong_pin_that_opens_a_card_is_seen(
    made: World, done: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = entries_of(done)
    event = json.loads(entries[_at(entries, "card.drawn_down")[0]][1])
    (one,) = made.journal.asked[event["correlationid"]][:1]
    monkeypatch.setattr(one, "pin", "wrong")
    with database(made) as connection:
        told = wrong(done, entries, connection)
    assert told == f"{one.command_id} brought a wrong PIN and was let in"


def test_a_pin_that_opens_a_card_while_it_is_locked_is_seen(
    made: World, done: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lock(event: Any) -> None:
        event["data"]["card"]["pin"] = {"locked_until": "2999-01-01T00:00:00.000Z"}

    entries = entries_of(done)
    paid = _at(entries, "card.drawn_down", 2)[1]
    event = json.loads(entries[paid][1])
    before = [json.loads(raw) for _, raw in entries[:paid]]
    of_card = [at for at, one in enumerate(before) if one["subject"] == event["subject"]]
    last = max(at for at in of_card if "sequence" in before[at])
    (one,) = made.journal.asked[event["correlationid"]][:1]
    monkeypatch.setattr(one, "pin", "right")
    with database(made) as connection:
        told = wrong(done, _changed(entries, last, lock), connection)
    assert f"{one.command_id} brought a PIN to {event['subject']} while it was locked" in told
