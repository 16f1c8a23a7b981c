"""Exports: what is stored, in two formats, row by row, for a spreadsheet and for a program."""

import csv
import io
import json
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, select, update

from card_worker.contracts.json_text import write_json
from card_worker.storage.engine import begin, open_engine, reading
from card_worker.storage.migrations import upgrade
from card_worker.storage.roles import Role
from card_worker.storage.tables import cards, outbox
from tests import servers
from tests.cli.commands import lines_of_json, refused, run
from tests.codes import SEAL_TO
from tests.orders import ACCOUNT, Orders
from tests.report.memory import peak_kib
from tests.report.rows import ACCOUNTS, insert_rows, random_rows

LOAD = {"amount": 500, "currency": "NOK"}
KINDS = ("cards", "transactions", "events")


@pytest.fixture
def filled(engine: Engine) -> Orders:
    """A database with some cards, one of them with a token and a PIN."""
    orders = Orders(engine)
    for number in range(5):
        codes: dict[str, Any] = {"card_token": {}, "pin": {}, **SEAL_TO} if number == 0 else {}
        about = {"customer_id": f"kari-{number % 2}", "metadata": {"a": number}}
        orders.ask("cards.create", f"c{number}", card_id=f"card-{number}", **about, **LOAD, **codes)
        pay = {"card_id": f"card-{number}", "ref_id": "r", "amount": 100 + number}
        orders.ask("transactions.create", f"p{number}", **pay, currency="NOK", pending=number == 4)
    return orders


def export(url: str, kind: str, *options: str) -> Any:
    done = run("export", kind, "--account", ACCOUNT, *options, DATABASE_URL=url)
    assert done.exit_code == 0, done.output
    return done


def rows_of(done: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(done.stdout)))


@pytest.mark.parametrize("kind", KINDS)
def test_both_formats_have_the_same_rows(filled: Orders, database_url: str, kind: str) -> None:
    written = lines_of_json(export(database_url, kind, "--format", "jsonl"))
    rows = rows_of(export(database_url, kind))
    assert len(written) == len(rows) == {"cards": 5, "transactions": 10, "events": 10}[kind]
    if kind == "events":
        with reading(filled.engine) as connection:
            published = connection.execute(select(outbox.c.event).order_by(outbox.c.position))
            assert written == [json.loads(event) for event in published.scalars()]
        assert [json.loads(row["event"]) for row in rows] == written
        return
    for line, row in zip(written, rows, strict=True):
        assert row.keys() == line.keys()
        for name, value in line.items():
            as_text = write_json(value) if isinstance(value, dict) else str(value)
            assert row[name] == ("" if value is None else as_text)


def test_cards_are_as_they_are_shown_but_for_their_codes(filled: Orders, database_url: str) -> None:
    shown = lines_of_json(run("card", "list", "-a", ACCOUNT, "--json", DATABASE_URL=database_url))
    assert shown[0]["tokens"]
    assert shown[4]["amount_reserved"] == 104
    without = [{k: v for k, v in card.items() if k not in ("tokens", "pin")} for card in shown]
    assert lines_of_json(export(database_url, "cards", "--format", "jsonl")) == without


@pytest.mark.parametrize(
    ("kind", "cursor"), [("cards", "card_id"), *((k, "id") for k in KINDS[1:])]
)
def test_pages_together_are_all_rows(
    filled: Orders, database_url: str, kind: str, cursor: str
) -> None:
    pages, after = list[list[dict[str, str]]](), list[str]()
    while page := rows_of(export(database_url, kind, "--limit", "3", *after)):
        pages.append(page)
        after = ["--after", page[-1][cursor]]
    assert [len(page) for page in pages] == ([3, 2] if kind == "cards" else [3, 3, 3, 1])
    assert [*chain(*pages)] == rows_of(export(database_url, kind))


def test_filters_choose_rows(filled: Orders, database_url: str) -> None:
    def count(kind: str, *options: str) -> int:
        return len(rows_of(export(database_url, kind, *options)))

    assert count("cards", "--customer", "kari-0") == 3
    assert count("cards", "--status", "unused") == 1
    assert count("cards", "--available-max", "396") == 1
    assert count("transactions", "--card", "card-3") == 2
    assert count("transactions", "--type", "pending_capture") == 1
    assert count("events", "--type", "card.created") == 5
    assert count("events", "--card", "card-3") == 2
    assert count("events", "--created-from", "2999-01-01T00:00:00Z") == 0
    assert count("transactions", "--created-before", "2999-01-01T00:00:00Z") == 10


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_have_a_header(filled: Orders, database_url: str, kind: str) -> None:
    asked = ("--created-from", "2999-01-01T00:00:00Z")
    (header,) = export(database_url, kind, *asked).stdout.splitlines()
    assert header == export(database_url, kind).stdout.splitlines()[0]
    assert export(database_url, kind, *asked, "--format", "jsonl").stdout == ""


def test_an_event_without_its_content_is_a_row(filled: Orders, database_url: str) -> None:
    with begin(filled.engine) as (connection, _):
        pruned = select(outbox.c.position).order_by(outbox.c.position).limit(1).scalar_subquery()
        of_first = update(outbox).where(outbox.c.position == pruned)
        connection.execute(of_first.values(event='{"command":"cards.create"}'))
    rows = rows_of(export(database_url, "events"))
    assert [bool(row["event"]) for row in rows] == [False, *[True] * 9]
    lines = lines_of_json(export(database_url, "events", "--format", "jsonl"))
    assert lines[0] == {**rows[0], "event": None}
    assert lines[1] == json.loads(rows[1]["event"])


def test_no_cell_is_a_formula(filled: Orders, database_url: str) -> None:
    odd = ["=1+1", "+1", "-1", "@a", "\t=1", "\r=1", "a;=1", "\uff1d1", "a;b"]
    with begin(filled.engine) as (connection, _):
        for number, name in enumerate(odd[:5]):
            by_id = update(cards).where(cards.c.card_id == f"card-{number}")
            connection.execute(by_id.values(name=name, customer_id=odd[number + 4]))
    rows = rows_of(export(database_url, "cards"))
    assert [row["name"] for row in rows] == ["'=1+1", "'+1", "'-1", "'@a", "'\t=1"]
    assert [row["customer_id"] for row in rows] == [
        *("'\t=1", "'\\r=1", "a;'=1", "'\uff1d1", "a;b")
    ]
    lines = lines_of_json(export(database_url, "cards", "--format", "jsonl"))
    assert [line["name"] for line in lines] == odd[:5]


def test_a_file_is_not_overwritten(filled: Orders, database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "cards.csv"
    done = export(database_url, "cards", "--output", str(file))
    assert (done.stdout, done.stderr) == ("", f"5 rows in {file}\n")
    assert file.stat().st_mode & 0o077 == 0
    again = run("export", "cards", "-a", ACCOUNT, "-o", file, DATABASE_URL=database_url)
    assert "exists, and is not overwritten" in refused(again)[1]


def test_a_row_of_nobody_is_no_place_to_start(filled: Orders, database_url: str) -> None:
    for kind in KINDS[1:]:
        asked = ("export", kind, "-a", ACCOUNT, "--after", uuid4())
        code, line = refused(run(*asked, DATABASE_URL=database_url))
        assert (code, line) == (1, "--after: the account has no row with this id")


def test_the_role_of_readers_is_enough(postgres_url: str) -> None:
    upgrade(postgres_url)  # a copy of a database has no rights on the database itself
    engine = open_engine(postgres_url)
    orders = Orders(engine)
    codes: dict[str, Any] = {"card_token": {}, "pin": {}, **SEAL_TO}
    orders.ask("cards.create", "c", card_id="card", **LOAD, **codes)
    engine.dispose()
    reader = servers.role_urls(postgres_url)[Role.READER]
    for kind in KINDS:
        assert len(rows_of(export(reader, kind))) == 1
    done = run("card", "list", "-a", ACCOUNT, DATABASE_URL=reader)
    assert "5.00 NOK" in done.stdout


def test_memory_does_not_grow_with_the_rows(
    engine: Engine, database_url: str, tmp_path: Path
) -> None:
    insert_rows(engine, random_rows(20_000))
    peaks = []
    for limit in (4_000, 9_000):
        output = tmp_path / f"{limit}.csv"
        asked = ("export", "transactions", "-a", ACCOUNTS[0], "--limit", limit, "-o", output)
        peaks.append(peak_kib(database_url, *asked))
        assert len(output.read_text().splitlines()) == limit + 1
    assert peaks[1] - peaks[0] < 2 * 1024, peaks  # 5,000 rows as Python objects take 15 MiB
