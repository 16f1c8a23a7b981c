"""What was there before a change of the schema is there after it, and back again."""

import base64
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from alembic import command
from sqlalchemy import Engine, MetaData, Table, insert

from card_worker.cli.embedded import NoServer
from card_worker.contracts.enums import BatchState, CardType, EventType
from card_worker.contracts.fields import read_time
from card_worker.domain.rows import Holds, State
from card_worker.storage import tables
from card_worker.storage.batches import find_batch
from card_worker.storage.engine import begin, open_engine
from card_worker.storage.files import confirmed, find_files, parts
from card_worker.storage.migrations import _config, upgrade
from card_worker.storage.queries import find_card
from tests import servers
from tests.servers import Server

ACCOUNT = "T00000001"
NOW = read_time("2026-11-22T10:00:00.000Z")
SEALED = b"sealed"


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A database in which nothing is yet."""
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
        (command.downgrade if down else command.upgrade)(_config(connection), revision)


def old(engine: Engine, name: str) -> Table:
    """Return a table as it is now, whose values are written as the newest one's are."""
    found = Table(name, MetaData(), autoload_with=engine)
    for column in found.columns:
        if column.name in tables.metadata.tables[name].columns:
            column.type = tables.metadata.tables[name].columns[column.name].type
    return found


def put(engine: Engine, table: str, /, **values: object) -> None:
    known = old(engine, table)
    with engine.begin() as connection:
        connection.execute(insert(known).values(account_id=ACCOUNT, **values))


def test_batches_and_their_files_go_on(empty: Engine) -> None:
    migrate(empty, "0003")
    made = {"batch_id": "B1", "type": CardType.GIFT_CARD, "created_at": NOW}
    put(empty, "batches", **made, state=BatchState.COMPLETED, requested=2, created=2)
    amounts = ("amount", "amount_funds", "amount_drawdown", "amount_balance", "amount_pending")
    nothing = {**dict.fromkeys(amounts, 0), "amount_reserved": 0, "blocked": False}
    for number in range(2):
        card = UUID(int=number + 1)
        state = {"state": State.INACTIVE, "version": 1, "has_codes": True}
        put(empty, "cards", id=card, card_id=f"A{number}", **made, **state, **nothing)
    file = {"sha256": "0", "cards": 2, "bytes": len(SEALED), "recipients": ["age1"]}
    for batch_id, is_confirmed in (("B1", False), ("B2", True)):
        put(
            empty,
            "files",
            batch_id=batch_id,
            name=f"{batch_id}.csv.age",
            sealed=None if is_confirmed else base64.b64encode(SEALED).decode(),
            created_at=NOW,
            confirmed_at=NOW if is_confirmed else None,
            **file,
        )
    upgrade(empty.url.render_as_string(hide_password=False))
    with begin(empty) as (connection, _):
        batch = find_batch(connection, ACCOUNT, "B1")
        (kept,) = find_files(connection, ACCOUNT, "B1")
        (gone,) = find_files(connection, ACCOUNT, "B2")
    assert batch is not None
    assert (batch.completed_at, batch.busy, batch.pattern) == (NOW, False, None)
    assert sorted(batch.card_ids(1, 2)) == ["A0", "A1"]
    assert kept.holds is gone.holds is Holds.CODES
    assert (b"".join(parts(empty, kept)), b"".join(parts(empty, gone))) == (SEALED, b"")
    with begin(empty) as (connection, now):
        confirmed(connection, gone, now)

    migrate(empty, "0003", down=True)
    table = old(empty, "files")
    with empty.connect() as connection:
        rows = connection.execute(table.select().order_by(table.c.batch_id)).all()
    assert [row.sealed for row in rows] == [base64.b64encode(SEALED).decode(), None]
    upgrade(empty.url.render_as_string(hide_password=False))


def test_all_the_way_down_and_up(empty: Engine) -> None:
    url = empty.url.render_as_string(hide_password=False)
    upgrade(url)
    migrate(empty, "base", down=True)
    upgrade(url)


def test_cards_know_the_time_of_their_last_event(empty: Engine) -> None:
    migrate(empty, "0006")
    made = {"type": CardType.GIFT_CARD, "state": State.INACTIVE, "created_at": NOW, "version": 1}
    amounts = ("amount", "amount_funds", "amount_drawdown", "amount_balance", "amount_pending")
    nothing = {**dict.fromkeys(amounts, 0), "amount_reserved": 0}
    flags = {"blocked": False, "has_codes": False}
    names = ("A1", "A2", "A3")
    for number, name in enumerate(names):
        put(empty, "cards", id=UUID(int=number), card_id=name, **made, **nothing, **flags)
    told = [
        ("A1", "card.created", 0),
        ("A1", "hold.placed", 2),
        ("A1", "card.drawn_down", 1),
        ("A2", "card.created", 1),
        # Of a batch of the same name, and a refusal.
        ("A2", "batch.completed", 3),
        ("A3", "command.rejected", 4),
    ]
    for number, (subject, type, seconds) in enumerate(told):
        about: dict[str, Any] = {"subject": subject, "partition_key": f"{ACCOUNT}/{subject}"}
        at = NOW + timedelta(seconds=seconds)
        about |= {"type": EventType(type), "event": "{}", "created_at": at}
        put(empty, "outbox", id=UUID(int=number), **about)
    upgrade(empty.url.render_as_string(hide_password=False))
    with begin(empty) as (connection, _):
        cards = [find_card(connection, ACCOUNT, name) for name in names]
    last = [card.changed_at for card in cards if card is not None]
    assert last == [NOW + timedelta(seconds=2), NOW + timedelta(seconds=1), None]
    migrate(empty, "0006", down=True)
    upgrade(empty.url.render_as_string(hide_password=False))
