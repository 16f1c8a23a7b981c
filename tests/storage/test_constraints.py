"""The constraints of the database, and the schema that the migrations create."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from alembic import command as alembic
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import (
    CheckConstraint,
    Engine,
    LargeBinary,
    Table,
    UniqueConstraint,
    delete,
    insert,
    inspect,
    text,
    type_coerce,
    update,
)
from sqlalchemy.exc import DBAPIError, IntegrityError

from card_worker.contracts.enums import BatchState, CardType, EventType, Side, TransactionType
from card_worker.domain.rows import State
from card_worker.money import AMOUNT_MAX, Currency
from card_worker.storage import migrations, schema
from card_worker.storage.engine import begin, open_engine
from card_worker.storage.errors import is_retryable, violated_constraint
from card_worker.storage.tables import (
    batches,
    cards,
    idempotency_keys,
    metadata,
    outbox,
    transactions,
)

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
ACCOUNT = "T00000001"
CARD: dict[str, Any] = {
    "id": UUID(int=1),
    "account_id": ACCOUNT,
    "card_id": "A1",
    "type": CardType.GIFT_CARD,
    "state": State.ACTIVE,
    "blocked": False,
    "currency": Currency.NOK,
    "amount": 500,
    "created_at": NOW,
    "version": 1,
    "amount_funds": 500,
    "amount_drawdown": 0,
    "amount_balance": 500,
    "amount_pending": 0,
    "amount_reserved": 0,
}
ROW: dict[str, Any] = {
    "id": UUID(int=2),
    "account_id": ACCOUNT,
    "card": CARD["id"],
    "type": TransactionType.FUND,
    "amount": 500,
    "currency": Currency.NOK,
    "debit": Side.ISSUER,
    "credit": Side.CARD,
    "created_at": NOW,
    "balance_before": 0,
    "balance_after": 500,
    "version": 1,
}
KEY = {
    "account_id": ACCOUNT,
    "key": "id/c",
    "digest": "",
    "event_id": UUID(int=3),
    "created_at": NOW,
}
BATCH: dict[str, Any] = {
    "account_id": ACCOUNT,
    "batch_id": "B1",
    "state": BatchState.COMPLETED,
    "type": CardType.GIFT_CARD,
    "requested": 2,
    "created": 2,
    "created_at": NOW,
}
EVENT: dict[str, Any] = {
    "id": UUID(int=3),
    "account_id": ACCOUNT,
    "type": EventType.CARD_CREATED,
    "subject": "A1",
    "partition_key": "A1",
    "event": "{}",
    "created_at": NOW,
}


@contextmanager
def refused(engine: Engine, *why: str) -> Iterator[None]:
    """Expect an error of the database whose text has one of `why`, and which isn't tried again."""
    with pytest.raises(DBAPIError) as raised:
        yield
    assert any(one in str(raised.value.orig) for one in why), raised.value
    assert engine.dialect.name in ("sqlite", "postgresql")


def put(engine: Engine, table: Table, *rows: dict[str, Any]) -> None:
    with begin(engine) as (connection, _):
        for row in rows:
            connection.execute(insert(table), row)


@pytest.mark.parametrize(
    ("changed", "constraint"),
    [
        *(
            ({name: -1}, f"ck_cards_{name.removeprefix('amount_')}")
            for name in ("amount_drawdown",)
        ),
        ({"amount_pending": -1}, "ck_cards_pending"),
        ({"amount": -1}, "ck_cards_amount"),
        ({"amount": AMOUNT_MAX + 1}, "ck_cards_amount"),
        ({"amount_funds": -1}, "ck_cards_funds"),
        ({"amount_funds": AMOUNT_MAX + 1}, "ck_cards_funds"),
        ({"amount_reserved": -1}, "ck_cards_reserved"),
        ({"amount_reserved": 501}, "ck_cards_reserved"),
        ({"amount_balance": -1}, "ck_cards_reserved"),
        ({"version": 0}, "ck_cards_version"),
        ({"currency": None}, "ck_cards_currency"),
        ({"state": State.INACTIVE}, "ck_cards_inactive"),
        ({"state": State.INACTIVE, "currency": None}, "ck_cards_inactive"),
    ],
    ids=str,
)
def test_an_impossible_card_is_refused(
    engine: Engine, changed: dict[str, Any], constraint: str
) -> None:
    with refused(engine, constraint):
        put(engine, cards, {**CARD, **changed})


@pytest.mark.parametrize(
    ("changed", "constraint"),
    [
        ({"amount": 0, "balance_after": 0}, "ck_transactions_amount"),
        ({"amount": -500, "balance_before": 500, "balance_after": 0}, "ck_transactions_amount"),
        ({"balance_after": 501}, "ck_transactions_balance"),
        ({"balance_after": 0}, "ck_transactions_balance"),
        ({"balance_before": -500, "balance_after": 0}, "ck_transactions_balance"),
        ({"debit": Side.CARD, "credit": Side.ISSUER}, "ck_transactions_balance"),
        ({"debit": Side.CARD}, "ck_transactions_sides"),
    ],
    ids=str,
)
def test_an_unbalanced_transaction_is_refused(
    engine: Engine, changed: dict[str, Any], constraint: str
) -> None:
    with refused(engine, constraint):
        put(engine, cards, CARD)
        put(engine, transactions, {**ROW, **changed})


@pytest.mark.parametrize(
    ("table", "row", "twin", "why"),
    [
        (cards, CARD, {"id": UUID(int=9)}, ("uq_cards_account_id_card_id", "cards.account_id")),
        (cards, CARD, {"card_id": "A9"}, ("pk_cards", "cards.id")),
        (batches, BATCH, {}, ("pk_batches", "batches.account_id")),
        (
            idempotency_keys,
            KEY,
            {"digest": "other"},
            ("pk_idempotency_keys", "idempotency_keys.account_id"),
        ),
        (outbox, EVENT, {"subject": "A9"}, ("uq_outbox_id", "outbox.id")),
    ],
    ids=["card_id", "card", "batch_id", "key", "event"],
)
def test_a_duplicate_row_is_refused(
    engine: Engine, table: Table, row: dict[str, Any], twin: dict[str, Any], why: tuple[str, ...]
) -> None:
    with refused(engine, *why):
        put(engine, table, row, {**row, **twin})


def test_a_version_of_a_card_has_one_transaction(engine: Engine) -> None:
    put(engine, cards, CARD)
    twin = {**ROW, "id": UUID(int=9)}
    with refused(engine, "uq_transactions_card_version", "transactions.version"):
        put(engine, transactions, ROW, twin)


def test_a_ref_id_is_unique_per_card(engine: Engine) -> None:
    put(engine, cards, {**CARD, "version": 2})
    rows = [{**ROW, "id": UUID(int=n), "version": n, "ref_id": "r"} for n in (1, 2)]
    with refused(engine, "uq_transactions_account_id_card_ref_id", "transactions.ref_id"):
        put(engine, transactions, *rows)


def test_a_transaction_belongs_to_a_card(engine: Engine) -> None:
    with refused(engine, "fk_transactions_card", "FOREIGN KEY"):
        put(engine, transactions, ROW)


def test_a_violated_check_is_not_retryable(engine: Engine) -> None:
    with pytest.raises(IntegrityError) as raised:
        put(engine, cards, {**CARD, "amount_reserved": -1})
    assert not is_retryable(raised.value)


def test_a_duplicate_position_is_retryable(engine: Engine) -> None:
    put(engine, outbox, {**EVENT, "position": 7})
    with pytest.raises(IntegrityError) as raised:
        put(engine, outbox, {**EVENT, "id": UUID(int=9), "position": 7})
    assert violated_constraint(raised.value) == "pk_outbox"
    assert is_retryable(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        update(transactions).values(amount=1, balance_after=1),
        update(transactions).values(created_by="someone"),
        delete(transactions),
        text("TRUNCATE transactions CASCADE"),
        text("TRUNCATE cards CASCADE"),
        text("INSERT OR REPLACE INTO transactions SELECT * FROM transactions"),
    ],
    ids=lambda change: str(change).replace("\n", " ")[:50],
)
def test_transactions_are_append_only(engine: Engine, change: Any) -> None:
    if str(change).startswith("TRUNCATE" if engine.dialect.name == "sqlite" else "INSERT OR"):
        change = delete(transactions)  # the other one's own words
    put(engine, cards, CARD)
    put(engine, transactions, ROW)
    with refused(engine, "transactions is append-only"), engine.begin() as connection:
        connection.execute(change)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT amount FROM transactions")).scalar_one() == 500


@pytest.mark.parametrize("column", ["amount", "version", "created_at", "id"])
def test_a_column_accepts_only_values_of_its_type(engine: Engine, column: str) -> None:
    # SQLite would else keep any text in any column.
    put(engine, cards, CARD)
    with pytest.raises(DBAPIError), engine.begin() as connection:
        connection.execute(update(cards).values({column: type_coerce(b"\xff x", LargeBinary())}))


# --- the schema -------------------------------------------------------------------------------


def _schema(engine: Engine) -> dict[str, Any]:
    """Return what `compare_metadata` overlooks: checks, unique rows, how SQLite keeps rows."""
    looks = inspect(engine)
    return {
        name: (
            {check["name"] for check in looks.get_check_constraints(name)},
            {unique["name"] for unique in looks.get_unique_constraints(name)},
            looks.get_pk_constraint(name)["name"],
            looks.get_table_options(name).get("sqlite_strict"),
        )
        for name in looks.get_table_names()
        if name != "alembic_version"
    }


def test_the_migrations_create_the_tables_of_the_code(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_the_migrations_create_the_constraints_of_the_code(engine: Engine) -> None:
    found = _schema(engine)
    assert found.keys() == metadata.tables.keys()
    for name, table in metadata.tables.items():
        checks, uniques, primary, strict = found[name]
        declared = table.constraints
        assert {one.name for one in declared if isinstance(one, CheckConstraint)} == checks
        assert {one.name for one in declared if isinstance(one, UniqueConstraint)} == uniques
        assert table.primary_key.name == primary
        assert strict is (True if engine.dialect.name == "sqlite" else None)


def test_a_database_that_is_not_migrated_is_refused(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/empty.db")
    with engine.connect() as connection, pytest.raises(schema.SchemaOutdated) as raised:
        schema.check(connection)
    assert "run card-worker migrate" in str(raised.value)
    engine.dispose()


def test_migrating_twice_is_harmless(engine: Engine, database_url: str) -> None:
    put(engine, cards, CARD)
    before = _schema(engine)
    assert migrations.upgrade(database_url) == migrations.upgrade(database_url)
    assert _schema(engine) == before
    with engine.connect() as connection:
        schema.check(connection)
        assert connection.execute(text("SELECT card_id FROM cards")).scalar_one() == "A1"


def test_a_schema_can_be_downgraded_and_upgraded_again(engine: Engine, database_url: str) -> None:
    before = _schema(engine)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes["connection"] = connection
        alembic.downgrade(config, "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]
        with pytest.raises(schema.SchemaOutdated, match="schema is empty"):
            schema.check(connection)
    engine.dispose()
    migrations.upgrade(database_url)
    assert _schema(engine) == before
