"""Each released schema can be upgraded with rows in it, and downgraded again."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from alembic import command
from sqlalchemy import Column, Engine, MetaData, Table, func, insert, inspect, select, update

from card_worker.contracts.enums import EventType, Side
from card_worker.contracts.fields import read_time
from card_worker.contracts.json_text import write_json
from card_worker.domain.access import LOCK_FIRST
from card_worker.domain.rows import Outcome, State
from card_worker.embedded.valkey import NoServer
from card_worker.storage import tables
from card_worker.storage.engine import open_engine, reading
from card_worker.storage.migrations import config, upgrade
from card_worker.storage.reconcile import differences
from card_worker.storage.types import EnumText, JsonText, UtcTime, Uuid
from tests import servers
from tests.codes import PIN, SEAL_TO, VAULT, WRONG_PIN, plain_issuer
from tests.servers import Server
from tests.storage.populated import Teller, populate

NOW = read_time("2026-11-22T10:00:00.000Z")
RELEASED = ["0001"]
"""The revision of each release, the oldest first. A row of each table is there before the upgrade;
where a later migration changes rows, it needs a test of its own beside this one."""
VALID: dict[str, dict[str, object]] = {
    "cards": {"state": State.ACTIVE},
    "transactions": {"debit": Side.ISSUER, "credit": Side.CARD, "balance_before": 0},
    "holds": {"captured": 0, "released": 0},
    "tokens": {"format": {"numbers": True, "length": 16}},
}
"""What check constraints and migrations demand beyond `value`."""


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A database without tables."""
    if request.param == "sqlite":
        engine = open_engine(f"sqlite:///{request.getfixturevalue('tmp_path')}/empty.db")
        yield engine
        engine.dispose()
        return
    try:
        server: Server = request.getfixturevalue("postgres_server")
    except NoServer as error:
        servers.missing(error, servers.DATABASE_FROM)
    with servers.database(server) as url:
        engine = open_engine(url)
        yield engine
        engine.dispose()


def migrate(engine: Engine, revision: str, *, down: bool = False) -> None:
    with engine.begin() as connection:
        (command.downgrade if down else command.upgrade)(config(connection), revision)


def value(column: Column[Any]) -> object:
    match column.type:
        case Uuid():
            return UUID(int=1)
        case UtcTime():
            return NOW
        case JsonText():
            return ["x"]
        case EnumText(enum=enum):
            return next(iter(enum))  # type: ignore[call-overload]
        case _ if column.type.python_type is bytes:
            return b"x"
        case _ if column.type.python_type is str:
            return "x"
        case _:
            return 1


def fill(engine: Engine) -> None:
    """Add a row to each table that is there now."""
    found = MetaData()
    found.reflect(engine)
    with engine.begin() as connection:
        for table in found.sorted_tables:
            # The version table has its row; a trigger on the outbox adds to `unpublished`.
            if table.name in ("alembic_version", "unpublished"):
                continue
            newest = tables.metadata.tables.get(table.name)
            for column in table.columns:
                if newest is not None and column.name in newest.columns:
                    column.type = newest.columns[column.name].type
            row = {column.name: value(column) for column in table.columns}
            connection.execute(insert(table).values(row | VALID.get(table.name, {})))


def rows(engine: Engine) -> dict[str, int]:
    """Count the rows of each table, having read them as the current version does."""
    with engine.connect() as connection:
        return {
            table.name: len(connection.execute(select(table)).all())
            for table in tables.metadata.tables.values()
        }


@pytest.mark.parametrize("revision", RELEASED)
def test_rows_of_each_release_are_there_after_the_upgrade(empty: Engine, revision: str) -> None:
    migrate(empty, revision)
    fill(empty)
    before = set(inspect(empty).get_table_names())
    expected = {name: int(name in before) for name in tables.metadata.tables}
    expected |= {"registry": 1, "retention": 4}
    upgrade(empty.url.render_as_string(hide_password=False))
    assert rows(empty) == expected
    migrate(empty, revision, down=True)
    assert set(inspect(empty).get_table_names()) == before
    upgrade(empty.url.render_as_string(hide_password=False))
    assert rows(empty) == expected


def test_0002_derives_its_columns_from_events_and_transactions(engine: Engine) -> None:
    populate(engine)
    with reading(engine) as connection:
        before = list(connection.execute(select(tables.cards)))
        assert not list(differences(connection))
    migrate(engine, "0001", down=True)
    migrate(engine, "head")
    with reading(engine) as connection:
        after = list(connection.execute(select(tables.cards)))
        checks = {difference.check for difference in differences(connection)}
    names = [column.name for column in tables.cards.columns]
    lost = {"activated_by", "activated_from"}
    assert _without(names, before, lost) == _without(names, after, lost)
    # Nothing tells these of what was done before.
    assert checks <= {"card_equals_its_last_event", "transactions_equal_their_events"}


def test_rows_of_0_1_0_are_no_differences_after_the_upgrade(engine: Engine) -> None:
    populate(engine)
    migrate(engine, "0001", down=True)
    attempts, events, guessed = tables.pin_attempts, tables.outbox, "guessed"
    with engine.begin() as connection:
        for id, event in connection.execute(select(events.c.id, events.c.event)).all():
            older = _as_in_0_1_0(json.loads(event))
            values = {"event": write_json(older), "type": EventType(older["type"])}
            connection.execute(update(events).where(events.c.id == id).values(values))
        # Five wrong PINs have blocked the card.
        ours = tables.cards.c.card_id == guessed
        connection.execute(update(tables.cards).where(ours).values(blocked=True))
        its = attempts.c.card == select(tables.cards.c.id).where(ours).scalar_subquery()
        assert (
            connection.execute(update(attempts).where(its).values(outcome=Outcome.WRONG)).rowcount
            == 5
        )
        # Attempts on removed cards had the card.
        removed = {"card": UUID(int=1), "number": 1}
        kept = connection.execute(update(attempts).where(attempts.c.card.is_(None)).values(removed))
        assert kept.rowcount > 0
    migrate(engine, "head")
    with reading(engine) as connection:
        assert list(differences(connection)) == []
    # The card stays blocked, and its wrong PINs go on counting, until it is unblocked.
    tell, pay = Teller(engine, plain_issuer()), {"currency": "NOK", "amount": 100}
    by_token = {**pay, "token": "TOKEN-2", "pin": PIN}
    fund = {**pay, "card_id": guessed, "type": "fund", "pin": WRONG_PIN}
    assert tell.ask("transactions.create", ref_id="a", **by_token).reason == "card_not_usable"
    assert tell.ask("transactions.create", ref_id="b", **fund).reason == "card_not_usable"
    with reading(engine) as connection:
        locks = connection.execute(select(tables.pins.c.locked_until)).scalars()
        (ends,) = filter(None, locks)
    assert ends == tell.now + 2 * LOCK_FIRST
    tell.done("cards.unblock", card_id=guessed, reason="found")
    tell.done("transactions.create", ref_id="c", **by_token)
    with reading(engine) as connection:
        assert list(differences(connection)) == []


def test_0005_masks_more_of_some_tokens(engine: Engine) -> None:
    tell = Teller(engine, plain_issuer(VAULT, "7" * 16, "-A" * 15, "8" * 16))
    short, long = {"numbers": True, "length": 16}, {"symbols": True, "characters": True}
    made, codes = {"amount": 1, "currency": "NOK", **SEAL_TO}, tables.tokens
    tell.done("cards.create", card_id="A", card_token={"format": short}, **made)
    tell.done("cards.create", card_id="B", card_token={"format": {**long, "length": 30}}, **made)
    listed: dict[str, Any] = {"cards": [{"card_id": "L"}], **SEAL_TO}
    listed["options"] = {"card_token": {"format": short}}
    tell.done("cards.batch_create", batch_id="L", **listed)
    masks = {
        "A": ("*" * 16, "*" * 12 + "7777"),
        "B": ("*" * 26 + "-A-A", "-*" * 13 + "-A-A"),
        "L": ("*" * 16, "*" * 12 + "8888"),
    }
    by_card = select(tables.cards.c.card_id, codes.c.masked_code)
    by_card = by_card.join(codes, codes.c.card == tables.cards.c.id)
    migrate(engine, "0004", down=True)
    event = tables.outbox.c.event
    with engine.begin() as connection:
        for name, (now, older) in masks.items():
            card = select(tables.cards.c.id).where(tables.cards.c.card_id == name)
            its = codes.c.card == card.scalar_subquery()
            connection.execute(update(codes).where(its).values(masked_code=older))
            told = func.replace(event, f'"{now}"', f'"{older}"')
            its = tables.outbox.c.subject == name
            connection.execute(update(tables.outbox).where(its).values(event=told))
    migrate(engine, "head")
    with reading(engine) as connection:
        rows = dict(connection.execute(by_card).all())
        assert rows == {name: now for name, (now, _) in masks.items()}
        assert list(differences(connection)) == []


def _as_in_0_1_0(value: Any) -> Any:
    """Return a value of an event as version 0.1.0 has written it: without newer fields
    and without the defaults of formats."""
    if isinstance(value, list):
        return [_as_in_0_1_0(item) for item in value]
    if not isinstance(value, dict):
        return value
    newer = {"answer", "activation", "activated_by", "activated_from", "funding", "locked_until"}
    if value.get("type") == "card.pin_locked":
        data = {**value["data"], "reason_text": "too many wrong PINs"}
        data["card"] = {**data["card"], "status": "blocked"}
        value = {**value, "type": "card.blocked", "data": data}
    if value.get("type") == "batch.completed":
        data = dict(value["data"])
        cards = data.pop("cards", None)
        if cards is not None and data["approved_by"] is None:
            data["cards"] = [{name: card[name] for name in ("card_id", "type")} for card in cards]
        value = {**value, "data": data}
    if isinstance(value.get("format"), dict):
        given = {name: item for name, item in value["format"].items() if item}
        value = {**value, "format": given}
    return {name: _as_in_0_1_0(item) for name, item in value.items() if name not in newer}


def _without(names: list[str], rows: list[Any], left_out: set[str]) -> set[Any]:
    return {
        tuple(repr(value) for name, value in zip(names, row, strict=True) if name not in left_out)
        for row in rows
    }


def test_a_downgrade_to_nothing_and_an_upgrade(empty: Engine) -> None:
    url = empty.url.render_as_string(hide_password=False)
    upgrade(url)
    migrate(empty, "base", down=True)
    version = Table("alembic_version", MetaData(), autoload_with=empty)
    assert inspect(empty).get_table_names() == [version.name]
    with empty.connect() as connection:
        assert connection.execute(select(func.count()).select_from(version)).scalar() == 0
    upgrade(url)
