"""Cards, their history, keys, outbox, dead letters, leases."""

import sqlalchemy as sa
from alembic import op

from card_worker.storage.types import Flag, JsonText, UtcTime, Uuid, WholeNumber

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

AMOUNT_MAX = 2**53 - 1


def upgrade() -> None:
    _create_cards()
    _create_transactions()
    _create_batches()
    _create_keys_and_outbox()
    _create_dead_letters()
    _create_leases()


def _create_cards() -> None:
    op.create_table(
        "cards",
        sa.Column("id", Uuid, nullable=False),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("card_id", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("blocked", Flag, nullable=False),
        sa.Column("currency", sa.Text, nullable=True),
        sa.Column("amount", WholeNumber, nullable=False),
        sa.Column("customer_id", sa.Text, nullable=True),
        sa.Column("name", sa.Text, nullable=True),
        sa.Column("originated_by", sa.Text, nullable=True),
        sa.Column("metadata", JsonText, nullable=True),
        sa.Column("active_from", UtcTime, nullable=True),
        sa.Column("expires_at", UtcTime, nullable=True),
        sa.Column("batch_id", sa.Text, nullable=True),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("created_by", sa.Text, nullable=True),
        sa.Column("version", WholeNumber, nullable=False),
        sa.Column("amount_funds", WholeNumber, nullable=False),
        sa.Column("amount_drawdown", WholeNumber, nullable=False),
        sa.Column("amount_balance", WholeNumber, nullable=False),
        sa.Column("amount_pending", WholeNumber, nullable=False),
        sa.Column("amount_reserved", WholeNumber, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_cards"),
        sa.UniqueConstraint("account_id", "card_id", name="uq_cards_account_id_card_id"),
        sa.CheckConstraint("version >= 1", op.f("ck_cards_version")),
        sa.CheckConstraint(f"amount BETWEEN 0 AND {AMOUNT_MAX}", op.f("ck_cards_amount")),
        sa.CheckConstraint(f"amount_funds BETWEEN 0 AND {AMOUNT_MAX}", op.f("ck_cards_funds")),
        sa.CheckConstraint("amount_drawdown >= 0", op.f("ck_cards_drawdown")),
        sa.CheckConstraint("amount_pending >= 0", op.f("ck_cards_pending")),
        sa.CheckConstraint(
            "amount_reserved BETWEEN 0 AND amount_balance", op.f("ck_cards_reserved")
        ),
        sa.CheckConstraint(
            "state <> 'inactive' OR (amount_funds = 0 AND currency IS NULL)",
            op.f("ck_cards_inactive"),
        ),
        sa.CheckConstraint(
            "state = 'inactive' OR currency IS NOT NULL OR state = 'closed'",
            op.f("ck_cards_currency"),
        ),
        sqlite_strict=True,
    )
    due = sa.text("state = 'active' AND expires_at IS NOT NULL")
    op.create_index("ix_cards_due", "cards", ["expires_at"], postgresql_where=due, sqlite_where=due)


def _create_transactions() -> None:
    op.create_table(
        "transactions",
        sa.Column("id", Uuid, nullable=False),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("card", Uuid, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("amount", WholeNumber, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("debit", sa.Text, nullable=False),
        sa.Column("credit", sa.Text, nullable=False),
        sa.Column("ref_id", sa.Text, nullable=True),
        sa.Column("parent_id", Uuid, nullable=True),
        sa.Column("metadata", JsonText, nullable=True),
        sa.Column("originated_by", sa.Text, nullable=True),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("created_by", sa.Text, nullable=True),
        sa.Column("balance_before", WholeNumber, nullable=False),
        sa.Column("balance_after", WholeNumber, nullable=False),
        sa.Column("version", WholeNumber, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_transactions"),
        sa.ForeignKeyConstraint(["card"], ["cards.id"], name="fk_transactions_card"),
        sa.UniqueConstraint("card", "version", name="uq_transactions_card_version"),
        sa.UniqueConstraint(
            "account_id", "card", "ref_id", name="uq_transactions_account_id_card_ref_id"
        ),
        sa.CheckConstraint("amount > 0", op.f("ck_transactions_amount")),
        sa.CheckConstraint("debit <> credit", op.f("ck_transactions_sides")),
        sa.CheckConstraint(
            "balance_before >= 0 AND balance_after >= 0 AND balance_after - balance_before ="
            " CASE WHEN credit = 'card' THEN amount WHEN debit = 'card' THEN -amount ELSE 0 END",
            op.f("ck_transactions_balance"),
        ),
        sqlite_strict=True,
    )
    _make_append_only("transactions")


def _make_append_only(table: str) -> None:
    """Refuse every UPDATE and DELETE, whoever asks: history is added to, never changed."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"CREATE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{table} is append-only'; END $$"
        )
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
            f" FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only()"
        )
        return
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table}"
            f" BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        )


def _create_batches() -> None:
    op.create_table(
        "batches",
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("batch_id", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("requested", WholeNumber, nullable=False),
        sa.Column("created", WholeNumber, nullable=False),
        sa.Column("name", sa.Text, nullable=True),
        sa.Column("metadata", JsonText, nullable=True),
        sa.Column("originated_by", sa.Text, nullable=True),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("created_by", sa.Text, nullable=True),
        sa.PrimaryKeyConstraint("account_id", "batch_id", name="pk_batches"),
        sa.CheckConstraint("created BETWEEN 0 AND requested", op.f("ck_batches_created")),
        sqlite_strict=True,
    )


def _create_keys_and_outbox() -> None:
    op.create_table(
        "keys",
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("event_id", Uuid, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.PrimaryKeyConstraint("account_id", "key", name="pk_keys"),
        sqlite_strict=True,
    )
    op.create_table(
        "outbox",
        sa.Column("position", WholeNumber, autoincrement=True, nullable=False),
        sa.Column("id", Uuid, nullable=False),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("partition_key", sa.Text, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_outbox"),
        sa.UniqueConstraint("id", name="uq_outbox_id"),
        sqlite_strict=True,
    )
    op.create_table(
        "unpublished",
        sa.Column("position", WholeNumber, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_unpublished"),
        sqlite_strict=True,
    )
    _let_events_wait()


def _let_events_wait() -> None:
    """Whatever is added to the outbox waits to be published; on PostgreSQL the relay is told."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION outbox_waits() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " INSERT INTO unpublished SELECT position FROM added;"
            " PERFORM pg_notify('card_worker_outbox', '');"
            " RETURN NULL; END $$"
        )
        op.execute(
            "CREATE TRIGGER outbox_waits AFTER INSERT ON outbox REFERENCING NEW TABLE AS added"
            " FOR EACH STATEMENT EXECUTE FUNCTION outbox_waits()"
        )
    else:
        op.execute(
            "CREATE TRIGGER outbox_waits AFTER INSERT ON outbox"
            " BEGIN INSERT INTO unpublished VALUES (new.position); END"
        )


def _create_dead_letters() -> None:
    op.create_table(
        "dead_letters",
        sa.Column("id", WholeNumber, autoincrement=True, nullable=False),
        sa.Column("received_at", UtcTime, nullable=False),
        sa.Column("queue", sa.Text, nullable=True),
        sa.Column("task", sa.Text, nullable=True),
        sa.Column("message_id", sa.Text, nullable=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=True),
        sa.Column("headers", JsonText, nullable=True),
        sa.Column("content_type", sa.Text, nullable=True),
        sa.Column("content_encoding", sa.Text, nullable=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("settled_at", UtcTime, nullable=True),
        sa.Column("settled_as", sa.Text, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_dead_letters"),
        sa.UniqueConstraint("message_id", "digest", name="uq_dead_letters_message_id_digest"),
        sqlite_strict=True,
    )
    op.create_table(
        "starts",
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("starts", WholeNumber, nullable=False),
        sa.Column("started_at", UtcTime, nullable=False),
        sa.PrimaryKeyConstraint("message_id", name="pk_starts"),
        sqlite_strict=True,
    )


def _create_leases() -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("expires_at", UtcTime, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
        sqlite_strict=True,
    )


def downgrade() -> None:
    for table in (
        "leases",
        "starts",
        "dead_letters",
        "unpublished",
        "outbox",
        "keys",
        "batches",
        "transactions",
        "cards",
    ):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION transactions_append_only(), outbox_waits()")
