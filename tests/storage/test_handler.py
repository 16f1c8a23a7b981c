"""Handling commands: hostile content, conflicts in a group, times at the edges of the calendar."""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Connection, Engine, Table, literal, make_url, select, text

from card_worker.contracts.commands import Command, event_id
from card_worker.contracts.message import UnreadableItem, read_commands
from card_worker.contracts.traces import Trace
from card_worker.domain.answers import Answer
from card_worker.domain.rows import Card
from card_worker.handler import handle
from card_worker.secret_issuer import SecretIssuer
from card_worker.storage.engine import begin, reading
from card_worker.storage.pin_attempts import store_pin_attempts
from card_worker.storage.queries import find_card, find_transactions
from card_worker.storage.reconcile import differences
from card_worker.storage.tables import (
    cards,
    idempotency_keys,
    metadata,
    outbox,
    pin_attempts,
    repeats,
)
from tests.codes import OWNER, PIN, SEAL_TO, VAULT, WRONG_PIN, plain_issuer
from tests.orders import ON_CARDS
from tests.storage.statements import counting, slices_of

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
ACCOUNT = "T00000001"
LOAD = {"amount": 500, "currency": "NOK"}


def command(task: str, command_id: str, /, **fields: Any) -> Command:
    (read,) = read_commands(task, command_id, {"account_id": ACCOUNT, **fields}, VAULT)
    assert not isinstance(read, UnreadableItem)
    return read


def batch(*card_ids: str, command_id: str = "batch", **fields: Any) -> Command:
    asked = [{"card_id": card_id} for card_id in card_ids]
    return command("cards.batch_create", command_id, cards=asked, **fields)


def activate(card_id: str, command_id: str | None = None, /, **fields: Any) -> Command:
    named = command_id or f"activate-{card_id}"
    return command("cards.activate", named, **{"card_id": card_id, **LOAD, **fields})


def create(card_id: str, command_id: str | None = None, /, **fields: Any) -> Command:
    named = command_id or f"create-{card_id}"
    return command("cards.create", named, **{"card_id": card_id, **LOAD, **fields})


def spend(card_id: str, ref_id: str, **fields: Any) -> Command:
    asked = {"card_id": card_id, "ref_id": ref_id, "amount": 100, "currency": "NOK", **fields}
    return command("transactions.create", f"{ref_id}-{card_id}", **asked)


def follow_up(what: str, first: Command, **fields: Any) -> Command:
    """Return the command that captures, voids or refunds the transaction that `first` makes."""
    id = str(event_id(ACCOUNT, first.key))
    return command(f"transactions.{what}", f"{what}-{id}", transaction_id=id, ref_id=what, **fields)


def transfer(card_id: str, to: str) -> Command:
    asked = {"card_id": card_id, "to_card_id": to, "ref_id": "move", "amount": 1}
    return command("cards.transfer", f"move-{card_id}", **asked)


def handle_commands(engine: Engine, *commands: Command, now: datetime = NOW) -> list[Answer]:
    with begin(engine) as (connection, _):
        return handle(connection, commands, now)


def answer_types(answers: Sequence[Answer]) -> list[str]:
    """Return the types of answers, with the reason of a refusal instead."""
    data = [json.loads(answer.event) for answer in answers]
    return [one["data"].get("reason", one["type"]) for one in data]


def everything(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of all tables, but for the order in which they were written, and for the
    repeats: what is sent again within a group needs none."""
    return {
        table.name: sorted(
            map(
                tuple,
                connection.execute(
                    select(literal(1), *(c for c in table.c if c.name != "position"))
                ),
            ),
            key=repr,
        )
        for table in metadata.sorted_tables
        if table is not repeats
    }


def _but_position(table: Table) -> list[Column[Any]]:
    return [column for column in table.columns if column.name != "position"]


def test_no_commands_have_no_answers(engine: Engine) -> None:
    assert handle_commands(engine) == []


def test_commands_of_a_group_are_handled_in_order(engine: Engine) -> None:
    made = handle_commands(engine, activate("A1", "early"), batch("A1"), activate("A1", "late"))
    assert answer_types(made) == ["card_not_found", "batch.completed", "card.activated"]


def test_the_first_of_two_contents_in_a_group_has_the_key(engine: Engine) -> None:
    first, second, third = activate("A1", "k"), activate("A1", "k", amount=1), activate("A2", "k")
    group = [batch("A1", "A2"), first, second, third, second, first]
    made = handle_commands(engine, *group)
    conflict = "idempotency_conflict"
    assert answer_types(made)[1:] == [
        "card.activated",
        conflict,
        conflict,
        conflict,
        "card.activated",
    ]
    assert made[2] == made[4] != made[3]
    assert made[1] == made[5]
    assert [one.event for one in handle_commands(engine, *group)] == [one.event for one in made]


def test_a_conflict_reveals_nothing_of_the_first_command(engine: Engine) -> None:
    handle_commands(engine, batch("A1"), activate("A1", "k", amount=77_777, name="For Kari"))
    (refused,) = handle_commands(engine, activate("A1", "k", currency="SEK"))
    data = json.loads(refused.event)["data"]
    assert data.keys() == {"command", "command_id", "account_id", "card_id", "reason", "message"}
    assert "77777" not in refused.event
    assert "Kari" not in refused.event


def test_a_key_belongs_to_its_account(engine: Engine) -> None:
    mine, yours = create("A1", "k"), create("A1", "k", account_id="P00000001")
    assert answer_types(handle_commands(engine, mine, yours)) == ["card.created", "card.created"]


def test_an_invalid_command_uses_its_key(engine: Engine) -> None:
    (refused,) = handle_commands(engine, create("A1", "k", amount="5"))
    assert handle_commands(engine, create("A1", "k", amount="5"))[0].event == refused.event
    assert answer_types(handle_commands(engine, create("A1", "k"))) == ["idempotency_conflict"]


def test_a_conflict_comes_before_what_is_wrong_with_the_command(engine: Engine) -> None:
    """Else a producer would take the command that had this key first as not done."""
    handle_commands(engine, create("A1", "k"))
    past = "2026-01-01T00:00:00Z"
    wrong, ended = create("A2", "k", amount="5"), create("A2", "k", expires_at=past)
    late, other = create("A2", "k", not_after=past), create("A3", "k")
    group = [wrong, ended, late, other]
    answers = handle_commands(engine, *group)
    assert answer_types(answers) == ["idempotency_conflict"] * 4
    again = handle_commands(engine, *group)
    assert [answer.event for answer in again] == [answer.event for answer in answers]


def test_a_dry_run_does_not_use_the_key(engine: Engine) -> None:
    dry, real = create("A1", "k", dry_run=True), create("A1", "k")
    assert answer_types(handle_commands(engine, dry, real, dry)) == ["card.created"] * 3
    assert answer_types(handle_commands(engine, create("A1", "k", dry_run=True, amount=1))) == [
        "idempotency_conflict"
    ]


def test_refusals_do_not_affect_other_commands(engine: Engine) -> None:
    made = handle_commands(
        engine,
        batch("A1", "A2"),
        batch("A2", "A3", command_id="again"),
        activate("A9"),
        activate("A1"),
        create("A2"),
        create("A4", amount=True),
        create("A5", not_after="2026-11-22T09:59:59.999Z"),
        create("A6", expires_at="2026-11-22T10:00:00.000Z"),
        create("A7"),
    )
    done = [answer.type.startswith(("card.", "batch.")) for answer in made]
    assert done == [True, False, False, True, False, False, False, False, True]
    with reading(engine) as connection:
        found = connection.execute(select(cards.c.card_id).order_by(cards.c.card_id)).scalars()
        assert list(found) == ["A1", "A2", "A7"]
        assert list(differences(connection)) == []


def test_a_dry_run_does_not_affect_other_commands_of_its_group(engine: Engine) -> None:
    made = handle_commands(
        engine, create("A1", dry_run=True), activate("A1"), batch("A1"), create("A1")
    )
    assert answer_types(made) == [
        "card.created",
        "card_not_found",
        "batch.completed",
        "card_exists",
    ]


STRANGE = {
    "a field with half a surrogate pair": {"\ud800": 1},
    "a field with NUL": {"a\x00": 1},
    "a field with a very long name": {"x" * 60_000: 1},
    "a value with half a surrogate pair": {"name": "\ud800"},
    "a whole number that is huge": {"metadata": {"a": 10**4000, "b": 2**70}},
    "fractions": {"metadata": {"a": 1e300, "b": 1e-7, "c": 0.1, "d": -0.0}},
    "text that looks like JSON": {"card_id": 'a"\\u0000\\', "name": "'; -- {}[]%s:x ?"},
    "any letters": {"name": "😀 \u00a0\u200b\ufeff", "metadata": {"😀\n": "\x7f"}},
}


@pytest.mark.parametrize("fields", STRANGE.values(), ids=STRANGE.keys())
def test_values_of_a_command_are_returned_unchanged(engine: Engine, fields: dict[str, Any]) -> None:
    asked = create("A1", "strange", **fields)
    (first,) = handle_commands(engine, asked)
    (again,) = handle_commands(engine, asked)
    assert again.event == first.event
    shown = json.loads(first.event)["data"].get("card")
    if shown is None:
        assert answer_types([first]) == ["invalid"]
    else:
        wanted = {"card_id": "A1", **fields}
        assert {name: shown[name] for name in wanted} == wanted
        assert stored_card(engine, shown["card_id"]).metadata == fields.get("metadata")


def stored_card(engine: Engine, card_id: str) -> Card:
    with begin(engine) as (connection, _):
        card = find_card(connection, ACCOUNT, card_id)
    assert card is not None
    return card


EDGES = {"active_from": "0001-01-01T00:00:00.000Z", "expires_at": "9999-12-31T23:59:59.999Z"}


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/New_York"])
def test_the_first_and_last_times_of_the_calendar_are_stored(engine: Engine, zone: str) -> None:
    if engine.dialect.name == "postgresql":
        name = make_url(str(engine.url)).database
        with engine.begin() as connection:
            connection.execute(text(f"ALTER DATABASE \"{name}\" SET timezone = '{zone}'"))
        engine.dispose()  # so that it is the zone of the next connection
    handle_commands(engine, create("A1", **EDGES))
    (refused,) = handle_commands(engine, command("cards.expire", "expire", card_id="A1"))
    assert answer_types([refused]) == ["not_due"]
    card = stored_card(engine, "A1")
    assert card.active_from == datetime.min.replace(tzinfo=UTC)
    assert card.expires_at == datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)


def test_the_stored_card_equals_its_event(engine: Engine) -> None:
    (answer,) = handle_commands(
        engine, create("A1", **EDGES, metadata={"b": [1], "a": None}, name="Kari")
    )
    said = json.loads(answer.event)["data"]
    card = stored_card(engine, "A1")
    with begin(engine) as (connection, _):
        (row,) = find_transactions(connection, card)
    assert (said["card"]["id"], said["transaction"]["id"]) == (str(card.id), str(row.id))
    assert said["card"]["metadata"] == card.metadata
    assert said["card"]["amount_balance"] == card.amount_balance == row.balance_after == 500
    assert (card.created_at, row.created_at, answer.created_at) == (NOW, NOW, NOW)


SAME_TO_PYTHON = {
    "one": (1, True, 1.0, 1),
    "zero": (0, False, -0.0, 0.0),
    "nested": ({"a": [{"b": 1}]}, {"a": [{"b": True}]}, {"a": [{"b": 1.0}]}),
}


@pytest.mark.parametrize("values", SAME_TO_PYTHON.values(), ids=SAME_TO_PYTHON.keys())
def test_metadata_that_differ_only_in_json_are_stored(
    engine: Engine, values: Sequence[Any]
) -> None:
    handle_commands(engine, create("A1", metadata={"v": values[-1]}))
    for number, value in enumerate(values):
        update = command("cards.update", f"u{number}", card_id="A1", metadata={"v": value})
        (answer,) = handle_commands(engine, update)
        # As text, since to Python they are equal.
        said = json.dumps(json.loads(answer.event)["data"]["card"]["metadata"])
        assert json.dumps(stored_card(engine, "A1").metadata) == said


def test_every_key_has_one_answer_and_every_answer_a_key(engine: Engine) -> None:
    handle_commands(
        engine, batch("A1"), activate("A1"), activate("A1"), activate("A1", amount=1), create("A1")
    )
    with reading(engine) as connection:
        ids = [
            list(connection.execute(select(c)).scalars())
            for c in (idempotency_keys.c.event_id, outbox.c.id)
        ]
    assert Counter(ids[0]) == Counter(ids[1])
    assert len(ids[0]) == 4


def test_a_command_can_be_handled_again_after_a_rollback(engine: Engine) -> None:
    with begin(engine) as (connection, _):
        before = everything(connection)
    with engine.connect() as connection, connection.begin() as commit:
        first = handle(connection, [batch("A1"), activate("A1")], NOW)
        commit.rollback()
    with begin(engine) as (connection, _):
        assert everything(connection) == before
    assert handle_commands(engine, batch("A1"), activate("A1")) == first


@pytest.mark.parametrize("repeated", [False, True], ids=["fresh", "repeated"])
def test_the_number_of_statements_does_not_grow_with_any_kind_of_command(
    engine: Engine, repeated: bool
) -> None:
    def group(size: int) -> list[Command]:
        some = range(size)
        return [
            batch(*(f"{size}-B{n}" for n in some), command_id=f"{size}"),
            *(create(f"{size}-C{n}", expires_at="2026-11-22T10:00:01Z") for n in some),
            *(activate(f"{size}-B{n}") for n in some),
            *(activate(f"{size}-B{n}", amount=1) for n in some),
            *(activate(f"{size}-X{n}") for n in some),
            *(create(f"{size}-D{n}", dry_run=True) for n in some),
            *(spend(f"{size}-B{n}", "draw") for n in some),
            *(spend(f"{size}-B{n}", "hold", pending=True) for n in some),
            *(follow_up("capture", spend(f"{size}-B{n}", "hold"), amount=1) for n in some),
            *(follow_up("void", spend(f"{size}-B{n}", "hold")) for n in some),
            *(follow_up("refund", spend(f"{size}-B{n}", "draw"), amount=1) for n in some),
            *(follow_up("refund", spend(f"{size}-X{n}", "draw"), amount=1) for n in some),
            *(transfer(f"{size}-B{n}", f"{size}-B0") for n in some),
        ]

    handle_commands(engine, *group(0))  # what a driver asks a server once
    counts, slices = [], 0
    for size in (1, 100):
        if repeated:
            handle_commands(engine, *group(size))
        with counting(engine) as said:
            handle_commands(engine, *group(size))
        slices = slices_of(engine, 0 if repeated else len(group(size)))
        counts.append(len(said) - slices)
    # A slice with holds has one more statement.
    assert counts[0] <= counts[1] <= counts[0] + slices
    assert counts[1] < 26


# --- at once, one by one, in any groups -------------------------------------------------------

CARD_IDS = st.sampled_from(["A1", "A2", "A3"])
LOADED: dict[str, st.SearchStrategy[Any]] = {
    "card_id": CARD_IDS,
    "amount": st.sampled_from([0, 1, 500, -1]),
    "currency": st.sampled_from(["NOK", "EUR"]),
    "expires_at": st.sampled_from([None, "2026-11-22T10:00:02Z"]),
}
CARD, NOK = {"card_id": CARD_IDS}, {"currency": st.just("NOK")}
WHY = {"reason": st.just("because")}
REFS = ("r1", "r2", "r3")
REF = {"ref_id": st.sampled_from(REFS)}
PARTS = st.sampled_from([None, 1, 3])
# What the transactions of the first two cards will be called, and those that capture them.
MADE = [str(event_id(ACCOUNT, f"ref/2/{card}/{ref}")) for card in ("A1", "A2") for ref in REFS]
MADE += [str(event_id(ACCOUNT, f"ref/{made}/r1")) for made in MADE[:2]]
BY_TRANSACTION = {"transaction_id": st.sampled_from(MADE), **REF}
SEALED = {"seal_to": st.just([OWNER.recipient])}
TOKENS = [str(event_id(ACCOUNT, f"token/2/{card}/{ref}")) for card in ("A1", "A2") for ref in REFS]
FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "cards.create": {
        **LOADED,
        **SEALED,
        "card_token": st.sampled_from([None, {}, {"expires_after_transaction": True}]),
        "pin": st.sampled_from([None, {}]),
    },
    "cards.activate": {**LOADED, "card_token": st.sampled_from([None, {"expires_in": 1}])},
    "cards.expire": {"card_id": CARD_IDS},
    "cards.reverse_activation": {"card_id": CARD_IDS},
    "cards.update": {
        "card_id": CARD_IDS,
        "name": st.sampled_from([None, "x"]),
        "expires_at": st.sampled_from([None, "2026-11-22T10:00:05Z"]),
    },
    **{task: {**CARD, **WHY} for task in ("cards.block", "cards.unblock", "cards.close")},
    "cards.replace": {**CARD, **WHY, "new_card_id": st.sampled_from(["A2", "A4"])},
    "cards.transfer": {**CARD, **REF, "to_card_id": CARD_IDS, "amount": PARTS},
    "cards.adjust": {**CARD, **REF, **WHY, "amount": st.sampled_from([7, -7]), **NOK},
    "transactions.create": {
        **CARD,
        **REF,
        **NOK,
        "amount": st.sampled_from([1, 3, 100, 600]),
        "type": st.sampled_from([None, "fund"]),
    },
    "transactions.capture": {**BY_TRANSACTION, "amount": PARTS},
    "transactions.void": BY_TRANSACTION,
    "transactions.refund": {**BY_TRANSACTION, "amount": PARTS},
    "holds.expire": {"transaction_id": BY_TRANSACTION["transaction_id"]},
    "cards.rotate_pin": {**CARD, "pin": st.just({}), **SEALED},
    "tokens.create": {
        **CARD,
        **REF,
        **SEALED,
        "expires_in": st.sampled_from([1, 60]),
        "expires_after_transaction": st.booleans(),
    },
    "tokens.revoke": {**CARD, "token_id": st.sampled_from(TOKENS)},
    "cards.batch_create": {
        "options": st.sampled_from([None, {"card_token": {}}, {"card_token": {}, "pin": {}}]),
        **SEALED,
        "cards": st.lists(st.fixed_dictionaries({"card_id": CARD_IDS}), min_size=1, max_size=3),
        "batch_id": st.sampled_from(["B1", "B2"]),
    },
}
# By the tokens of the first two cards, and by one that nobody has. What a token made in the same
# group is called, nobody can know.
BY_TOKEN = FIELDS["transactions.create"] | {
    "card_id": st.none(),
    "token": st.sampled_from(["TOKEN-0", "TOKEN-1", "TOKEN-none"]),
    "pin": st.sampled_from([None, PIN, PIN, WRONG_PIN]),
}
HOLD = FIELDS["transactions.create"] | {
    "type": st.none(),
    "pending": st.just(True),
    "hold_expires_in": st.sampled_from([None, 1]),
}
# Few keys, so that some are used twice, for the same content or for other.
ALWAYS = {"command_id": st.sampled_from("abcdefgh"), "dry_run": st.booleans()}
ASKED = st.sampled_from(
    [*FIELDS.items(), ("transactions.create", HOLD), *[("transactions.create", BY_TOKEN)] * 4]
).flatmap(
    lambda one: st.builds(
        lambda fields: command(
            one[0], "m", **{name: value for name, value in fields.items() if value is not None}
        ),
        st.fixed_dictionaries(ALWAYS | one[1]),
    )
)
# Groups of commands; a second passes between two groups.
GROUPS = st.lists(st.lists(ASKED, max_size=8), max_size=4)
BEGINNING = [
    command("cards.create", "make-A1", card_id="A1", **LOAD, **SEAL_TO, card_token={}, pin={}),
    command("cards.create", "make-A2", card_id="A2", **LOAD, **SEAL_TO, card_token={}),
]


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(GROUPS)
def test_a_group_has_the_same_result_as_its_commands_one_by_one(
    engine: Engine, groups: list[list[Command]]
) -> None:
    seen = []
    for alone in (False, True):
        issuer = plain_issuer()
        with engine.connect() as connection, connection.begin() as commit:
            answers = [
                answer.event
                for place, group in enumerate([BEGINNING, *groups])
                for part in ([[one] for one in group] if alone else [group])
                for answer in noted(connection, part, NOW + timedelta(seconds=place), issuer)
            ]
            assert list(differences(connection)) == []
            seen.append((answers, everything(connection)))
            commit.rollback()
    assert seen[0] == seen[1]
    assert len(seen[0][0]) == len(BEGINNING) + len(list(chain.from_iterable(groups)))


def noted(
    connection: Connection, commands: Sequence[Command], now: datetime, issuer: SecretIssuer
) -> list[Answer]:
    """Handle commands whose PINs are noted before."""
    store_pin_attempts(connection, commands, now)
    return handle(connection, commands, now, issuer)


def without_and_with_pin() -> tuple[Command, Command]:
    """Return the same payment twice, which needs a PIN and comes with one the second time."""
    paid = {"token": "TOKEN-0", "ref_id": "r1", "amount": 1, "currency": "NOK"}
    first = command("transactions.create", "pay", **paid)
    return first, command("transactions.create", "pay", **paid, pin=PIN)


def test_the_pin_of_a_repeated_command_is_no_pin_attempt(engine: Engine) -> None:
    issuer = plain_issuer()
    with begin(engine) as (connection, _):
        noted(connection, BEGINNING, NOW, issuer)
        first, repeated = noted(connection, without_and_with_pin(), NOW, issuer)
        assert first == repeated
        assert first.reason == "pin_required"
        assert connection.execute(select(pin_attempts)).all() == []
        assert list(differences(connection)) == []


def test_a_pin_attempt_before_a_crash_is_deleted_by_a_copy_without_pin(
    engine: Engine,
) -> None:
    issuer, (first, again) = plain_issuer(), without_and_with_pin()
    with begin(engine) as (connection, _):
        noted(connection, BEGINNING, NOW, issuer)
        store_pin_attempts(connection, [again], NOW)
        handle(connection, [first, again], NOW, issuer)
        assert connection.execute(select(pin_attempts)).all() == []


def test_a_card_may_be_activated_again_in_another_currency(engine: Engine) -> None:
    reversal = command("cards.reverse_activation", "reverse", card_id="A1")
    handle_commands(engine, batch("A1"), activate("A1"), reversal)
    with reading(engine) as connection:
        assert list(differences(connection)) == []
    handle_commands(engine, activate("A1", command_id="again", currency="EUR"))
    with reading(engine) as connection:
        assert list(differences(connection)) == []


def test_every_command_is_drawn() -> None:
    assert set(FIELDS) == ON_CARDS


def test_a_card_that_has_replaced_another_one_is_not_reversed(engine: Engine) -> None:
    """Also if nothing was left on that one: refunds of it come to the new card."""
    spent = spend("A1", "all", amount=500)
    replaced = {"card_id": "A1", "new_card_id": "A2", "reason": "lost"}
    reverse = [command("cards.reverse_activation", f"r{number}", card_id="A2") for number in (1, 2)]
    made = handle_commands(
        engine,
        *(create("A1"), batch("A2"), spent),
        *(command("cards.replace", "replace", **replaced), reverse[0]),
    )
    assert answer_types(made)[3:] == ["card.replaced", "not_reversible"]
    made = handle_commands(engine, reverse[1], follow_up("refund", spent))
    assert answer_types(made) == ["not_reversible", "card.refunded"]


def test_events_repeat_the_trace_of_the_first_message_with_their_command(engine: Engine) -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    first, second = Trace(parent, "a=b"), Trace(parent.replace("4b", "4c"))
    refused = activate("one", "again")
    commands = [create("one"), create("one"), create("two"), refused]
    with begin(engine) as (connection, _):
        answers = handle(connection, commands, NOW, traces=[first, second, None, second])
    events = [json.loads(answer.event) for answer in answers]
    assert [event.get("traceparent") for event in events] == [
        *(parent, parent, None),
        second.traceparent,
    ]
    assert [event.get("tracestate") for event in events] == ["a=b", "a=b", None, None]
    # `reconcile` finds attributes by their places.
    assert answers[0].event.startswith('{"specversion":"1.0","traceparent":"00-4bf9')
    # Sent again, with another trace: the answer is the same to the byte.
    with begin(engine) as (connection, _):
        assert (
            handle(connection, [create("one")], NOW, traces=[second])[0].event == answers[0].event
        )
    with reading(engine) as connection:
        assert list(differences(connection)) == []
