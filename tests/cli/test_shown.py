"""Texts of producers are shown literally, and a terminal interprets nothing in them."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, update

from card_worker.contracts.dead_letters import DeadLetterReason
from card_worker.storage import dead_letters
from card_worker.storage.dead_letters import DeadLetter
from card_worker.storage.engine import begin, open_engine
from card_worker.storage.files import mark_failed, mark_written
from card_worker.storage.tables import batches
from tests.cli.commands import lines_of_json, run
from tests.orders import ACCOUNT, CODES, Orders

ODD = ["[/oops]", "[bold]x", "[link=x]x", ":heart:", "a\\[b]"]
UNSAFE = "\x1b]0;owned\x07\x9b2J\x7f\r\u202e\u2066\u200f\u2028"
ESCAPED = r"\x1b]0;owned\x07\x9b2J\x7f\r\u202e\u2066\u200f\u2028"
UNSAFE_CHARACTERS = set("\x1b\x07\x9b\x7f\r\u202e\u2066\u200f\u2028")
RED = "\x1b[31m"
LOAD = {"amount": 500, "currency": "NOK"}
AT = datetime(2026, 11, 25, 1, 36, 54, 999_000, tzinfo=UTC)
AT_AS_TEXT = "2026-11-25T01:36:54.999Z"


@pytest.fixture
def orders(sqlite_url: str) -> Iterator[Orders]:
    engine: Engine = open_engine(sqlite_url)
    yield Orders(engine)
    engine.dispose()


def shown(sqlite_url: str, *arguments: str) -> str:
    done = run(*arguments, DATABASE_URL=sqlite_url)
    assert done.exit_code == 0, done.exception
    return done.output


@pytest.mark.parametrize("name", ODD)
def test_names_are_text_and_not_markup(name: str, orders: Orders, sqlite_url: str) -> None:
    orders.order(1, batch_id=name, card_id_pattern="B1-{n}", name=name)
    orders.work()
    orders.ask("cards.create", "card", card_id=name, name=name, **LOAD)
    for command in (("batch", "show", name), ("card", "show", name), ("card", "history", name)):
        assert shown(sqlite_url, *command, "--account", ACCOUNT).count(name) >= 1
    assert shown(sqlite_url, "batch", "show", name, "-a", ACCOUNT).count(name) == 3
    assert name in shown(sqlite_url, "card", "list", "--account", ACCOUNT)
    assert f"{name}: completed" in shown(sqlite_url, "batch", "watch", name, "--account", ACCOUNT)
    done = run("card", "show", f"no {name}", "--account", ACCOUNT, DATABASE_URL=sqlite_url)
    assert f"no {name}" in done.stderr


def test_a_terminal_interprets_nothing(orders: Orders, sqlite_url: str) -> None:
    # No producer can use such a name, but somebody with access to the database can.
    name = f"x{UNSAFE}x"
    orders.order(1)
    orders.work()
    with begin(orders.engine) as (connection, _):
        named = {"batch_id": name, "name": name, "created_by": RED}
        connection.execute(update(batches).values(named))
    account = ("--account", ACCOUNT)
    for command in ("show", "watch"):
        output = shown(sqlite_url, "batch", command, name, *account)
        assert f"x{ESCAPED}x" in output
        assert not UNSAFE_CHARACTERS & set(output)
    (view,) = lines_of_json(run("batch", "show", name, *account, "--json", DATABASE_URL=sqlite_url))
    assert (view["batch_id"], view["name"], view["created_by"]) == (name, name, RED)
    output = shown(sqlite_url, "batch", "show", name, *account, "--json")
    assert not UNSAFE_CHARACTERS & set(output)


def test_metadata_and_bodies_do_not_change_the_direction_of_text(
    orders: Orders, sqlite_url: str
) -> None:
    # These fields may hold any character.
    orders.ask("cards.create", "card", card_id="one", metadata={"a\u202e": "\u2067b"}, **LOAD)
    letter = DeadLetter(
        received_at=AT, queue=None, reason=DeadLetterReason.DEFECT, body="\u202ea".encode()
    )
    with begin(orders.engine) as (connection, _):
        dead_letters.add(connection, letter)
    card = ("card", "show", "one", "--account", ACCOUNT)
    for command in (card, ("dead-letters", "show", "1")):
        for options in ((), ("--json",)):
            output = shown(sqlite_url, *command, *options)
            assert not {"\u202e", "\u2067"} & set(output)
    (view,) = lines_of_json(run(*card, "--json", DATABASE_URL=sqlite_url))
    assert view["metadata"] == {"a\u202e": "\u2067b"}


def test_the_last_error_of_an_order_is_text(orders: Orders, sqlite_url: str) -> None:
    orders.order(1)
    orders.work()
    change = "UPDATE batches SET last_error = :last_error"
    with begin(orders.engine) as (connection, _):
        connection.exec_driver_sql(change, {"last_error": f"[/oops] {RED}"})
    output = shown(sqlite_url, "batch", "show", "B1", "--account", ACCOUNT)
    assert r"[/oops] \x1b[31m" in output


def test_times_of_the_files_of_a_batch_are_written_as_in_events(
    orders: Orders, sqlite_url: str
) -> None:
    orders.order(1, **CODES)
    orders.work()
    file = orders.file()
    with begin(orders.engine) as (connection, _):
        mark_written(connection, file, AT)
    (view,) = lines_of_json(
        run("batch", "show", "B1", "--account", ACCOUNT, "--json", DATABASE_URL=sqlite_url)
    )
    (file_view,) = view["files"]
    assert (file_view["written_at"], file_view["confirmed_at"]) == (AT_AS_TEXT, None)
    assert AT_AS_TEXT in shown(sqlite_url, "batch", "show", "B1", "--account", ACCOUNT)
    with begin(orders.engine) as (connection, now):
        mark_failed(connection, file, now, "[/oops]")
    assert "[/oops]" in shown(sqlite_url, "batch", "show", "B1", "--account", ACCOUNT)


def test_times_of_a_dead_letter_are_written_as_in_events(orders: Orders, sqlite_url: str) -> None:
    headers: dict[str, Any] = {"id": "x", "half": "\ud800"}
    letter = DeadLetter(
        received_at=AT,
        queue="cards",
        reason=DeadLetterReason.TASK_UNKNOWN,
        detail=f"[/oops]{RED}",
        headers=headers,
        body=b"\x1b[/x]",
    )
    with begin(orders.engine) as (connection, _):
        dead_letters.add(connection, letter)
        assert dead_letters.resolve(connection, 1, AT, "dropped")
    for arguments in (("list", "--resolved"), ("show", "1")):
        command = ("dead-letters", *arguments)
        (view,) = lines_of_json(run(*command, "--json", DATABASE_URL=sqlite_url))
        assert (view["received_at"], view["resolved_at"]) == (AT_AS_TEXT, AT_AS_TEXT)
        output = shown(sqlite_url, *command)
        assert AT_AS_TEXT in output
        assert r"[/oops]\x1b[31m" in output
        assert RED[0] not in output
