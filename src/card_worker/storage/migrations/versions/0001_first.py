"""All tables."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from card_worker.storage.types import Flag, JsonText, Sortable, UtcTime, Uuid, WholeNumber

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

AMOUNT_MAX = 2**53 - 1
UNFINISHED = "ended_at IS NULL"
HOLD_IS_OPEN = "captured + released < amount"


def upgrade() -> None:
    _create_cards()
    _create_transactions()
    _create_holds()
    _create_secrets()
    _create_accounts()
    _create_batches()
    _create_jobs()
    _create_files()
    _create_outbox()
    _create_dead_letters()
    _create_leases()
    if _is_postgresql():
        op.execute(
            "CREATE FUNCTION card_worker_raise(message text) RETURNS integer LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION '%', message; END $$"
        )


def _create_cards() -> None:
    _create(
        "cards",
        _column("id", Uuid),
        _column("account_id"),
        _column("card_id", Sortable),
        _column("type"),
        _column("state"),
        _column("blocked", Flag),
        _optional("currency"),
        _column("amount", WholeNumber),
        _optional("customer_id"),
        _optional("name"),
        _optional("originated_by"),
        _optional("metadata", JsonText),
        _optional("active_from", UtcTime),
        _optional("activated_at", UtcTime),
        _optional("expires_at", UtcTime),
        _optional("batch_id"),
        _column("created_at", UtcTime),
        _optional("created_by"),
        _column("version", WholeNumber),
        _column("amount_funds", WholeNumber),
        _column("amount_drawdown", WholeNumber),
        _column("amount_balance", WholeNumber),
        _column("amount_pending", WholeNumber),
        _column("amount_reserved", WholeNumber),
        _flag("has_codes"),
        _optional("changed_at", UtcTime),
        sa.PrimaryKeyConstraint("id", name="pk_cards"),
        sa.UniqueConstraint("account_id", "card_id", name="uq_cards_account_id_card_id"),
        _check("ck_cards_version", "version >= 1"),
        _check("ck_cards_amount", f"amount BETWEEN 0 AND {AMOUNT_MAX}"),
        _check("ck_cards_funds", f"amount_funds BETWEEN 0 AND {AMOUNT_MAX}"),
        _check("ck_cards_drawdown", "amount_drawdown >= 0"),
        _check("ck_cards_pending", "amount_pending >= 0"),
        _check("ck_cards_reserved", "amount_reserved BETWEEN 0 AND amount_balance"),
        _check(
            "ck_cards_inactive", "state <> 'inactive' OR (amount_funds = 0 AND currency IS NULL)"
        ),
        _check(
            "ck_cards_currency", "state = 'inactive' OR currency IS NOT NULL OR state = 'closed'"
        ),
    )
    _index("ix_cards_due", "cards", "expires_at", "state = 'active' AND expires_at IS NOT NULL")


def _create_transactions() -> None:
    _create(
        "transactions",
        _column("id", Uuid),
        _column("account_id"),
        _column("card", Uuid),
        _column("type"),
        _column("amount", WholeNumber),
        _column("currency"),
        _column("debit"),
        _column("credit"),
        _optional("ref_id"),
        _optional("parent_id", Uuid),
        _optional("metadata", JsonText),
        _optional("originated_by"),
        _column("created_at", UtcTime),
        _optional("created_by"),
        _column("balance_before", WholeNumber),
        _column("balance_after", WholeNumber),
        _column("version", WholeNumber),
        sa.PrimaryKeyConstraint("id", name="pk_transactions"),
        sa.ForeignKeyConstraint(["card"], ["cards.id"], name="fk_transactions_card"),
        sa.UniqueConstraint("card", "version", name="uq_transactions_card_version"),
        sa.UniqueConstraint(
            "account_id", "card", "ref_id", name="uq_transactions_account_id_card_ref_id"
        ),
        _check("ck_transactions_amount", "amount > 0"),
        _check("ck_transactions_sides", "debit <> credit"),
        _check(
            "ck_transactions_balance",
            "balance_before >= 0 AND balance_after >= 0 AND balance_after - balance_before ="
            " CASE WHEN credit = 'card' THEN amount WHEN debit = 'card' THEN -amount ELSE 0 END",
        ),
    )
    _index("ix_transactions_parent_id", "transactions", "parent_id", "parent_id IS NOT NULL")
    _make_append_only("transactions")


def _make_append_only(table: str) -> None:
    """Refuse every UPDATE and DELETE of rows of `table`."""
    if _is_postgresql():
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


def _create_holds() -> None:
    _create(
        "holds",
        _column("id", Uuid),
        _column("account_id"),
        _column("card", Uuid),
        _column("amount", WholeNumber),
        _column("captured", WholeNumber),
        _column("released", WholeNumber),
        _column("created_at", UtcTime),
        _optional("expires_at", UtcTime),
        sa.PrimaryKeyConstraint("id", name="pk_holds"),
        sa.ForeignKeyConstraint(["id"], ["transactions.id"], name="fk_holds_id"),
        sa.ForeignKeyConstraint(["card"], ["cards.id"], name="fk_holds_card"),
        _check("ck_holds_parts", "captured >= 0 AND released >= 0"),
        _check("ck_holds_amount", "captured + released <= amount"),
    )
    _index("ix_holds_card", "holds", "card", HOLD_IS_OPEN)
    _index("ix_holds_due", "holds", "expires_at", f"expires_at IS NOT NULL AND {HOLD_IS_OPEN}")


def _create_secrets() -> None:
    # No foreign keys to cards: they would double the time it takes to COPY rows.
    _create(
        "tokens",
        _column("id", Uuid),
        _column("account_id"),
        _column("card", Uuid),
        _column("kid"),
        _column("digest"),
        _column("masked_code"),
        _column("created_at", UtcTime),
        _optional("ref_id"),
        _optional("format", JsonText),
        _optional("expires_at", UtcTime),
        _column("expires_after_transaction", Flag),
        _optional("metadata", JsonText),
        _optional("spent_at", UtcTime),
        _optional("revoked_at", UtcTime),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("digest", name="uq_tokens_digest"),
    )
    _index("ix_tokens_card", "tokens", "card", "spent_at IS NULL AND revoked_at IS NULL")
    _index("uq_tokens_card_ref_id", "tokens", "card, ref_id", "ref_id IS NOT NULL", unique=True)
    _create(
        "pins",
        _column("id", Uuid),
        _column("account_id"),
        _column("kid"),
        _column("digest"),
        _column("changed_at", UtcTime),
        _optional("format", JsonText),
        sa.PrimaryKeyConstraint("id", name="pk_pins"),
    )
    _create(
        "pin_attempts",
        _column("id", Uuid),
        _column("account_id"),
        _optional("card", Uuid),
        _column("number", WholeNumber),
        _column("outcome"),
        _column("created_at", UtcTime),
        sa.PrimaryKeyConstraint("id", name="pk_pin_attempts"),
    )
    _index("ix_pin_attempts_card_number", "pin_attempts", "card, number")


def _create_accounts() -> None:
    _create(
        "accounts",
        _column("account_id"),
        _optional("currencies", JsonText),
        _optional("load_max", WholeNumber),
        _optional("balance_max", WholeNumber),
        _column("expiry"),
        _column("reversal_window_s", WholeNumber),
        _optional("recipients", JsonText),
        _optional("approve_from", WholeNumber),
        sa.PrimaryKeyConstraint("account_id", name="pk_accounts"),
        _check("ck_accounts_load_max", f"load_max BETWEEN 0 AND {AMOUNT_MAX}"),
        _check("ck_accounts_balance_max", f"balance_max BETWEEN 0 AND {AMOUNT_MAX}"),
        _check("ck_accounts_reversal_window_s", "reversal_window_s >= 0"),
    )


def _create_batches() -> None:
    _create(
        "batches",
        _column("account_id"),
        _column("batch_id"),
        _column("state"),
        _column("type"),
        _column("requested", WholeNumber),
        _column("created", WholeNumber),
        _optional("name"),
        _optional("metadata", JsonText),
        _optional("originated_by"),
        _column("created_at", UtcTime),
        _optional("created_by"),
        _optional("command_id"),
        _optional("pattern"),
        _optional("listed", JsonText),
        _optional("options", JsonText),
        _optional("recipients", JsonText),
        _optional("pin_recipients", JsonText),
        _flag("busy"),
        _count("job_count"),
        _optional("approved_by"),
        _optional("completed_at", UtcTime),
        _optional("last_error"),
        sa.PrimaryKeyConstraint("account_id", "batch_id", name="pk_batches"),
        _check("ck_batches_created", "created BETWEEN 0 AND requested"),
    )
    _index("ix_batches_busy", "batches", "account_id", "busy")
    _create(
        "reserved_names",
        _column("account_id"),
        _column("card_id", Sortable),
        _column("batch_id"),
        sa.PrimaryKeyConstraint("account_id", "card_id", name="pk_reserved_names"),
    )


def _create_jobs() -> None:
    _create(
        "jobs",
        _column("id", Uuid),
        _column("account_id"),
        _column("batch_id"),
        _column("action"),
        _count("sequence"),
        _column("first", WholeNumber),
        _column("last", WholeNumber),
        _column("chunk_cards", WholeNumber),
        _column("open_chunks", WholeNumber),
        _column("command"),
        _column("command_id"),
        _column("created_at", UtcTime),
        _column("last_activity_at", UtcTime),
        _column("last_progress_at", UtcTime),
        _optional("created_by"),
        _optional("originated_by"),
        _optional("reason"),
        _optional("expires_at", UtcTime),
        _column("done", WholeNumber),
        _column("already", WholeNumber),
        _column("refused", WholeNumber),
        _optional("ended_at", UtcTime),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        _check("ck_jobs_open_chunks", "open_chunks >= 0"),
    )
    _index("ix_jobs_unfinished", "jobs", "last_activity_at", UNFINISHED)
    _index("ix_jobs_of_batch", "jobs", "account_id, batch_id", UNFINISHED)
    _create(
        "chunks",
        _column("job", Uuid),
        _column("number", WholeNumber),
        _optional("done_at", UtcTime),
        _optional("encrypted_secrets"),
        _optional("refused", JsonText),
        sa.PrimaryKeyConstraint("job", "number", name="pk_chunks"),
    )
    _do_not_compress("chunks", "encrypted_secrets")


def _create_files() -> None:
    _create(
        "files",
        _column("name"),
        _column("account_id"),
        _column("batch_id"),
        _column("holds"),
        _column("sha256"),
        _column("cards", WholeNumber),
        _column("bytes", WholeNumber),
        _column("recipients", JsonText),
        _column("created_at", UtcTime),
        _optional("written_at", UtcTime),
        _optional("confirmed_at", UtcTime),
        _optional("last_error"),
        _count("tries"),
        _optional("next_try_at", UtcTime),
        sa.PrimaryKeyConstraint("name", name="pk_files"),
    )
    _index("ix_files_batch", "files", "account_id, batch_id")
    _index("ix_files_waiting", "files", "created_at", "written_at IS NULL AND confirmed_at IS NULL")
    _create(
        "file_parts",
        _column("name"),
        _column("number", WholeNumber),
        _column("content"),
        sa.PrimaryKeyConstraint("name", "number", name="pk_file_parts"),
    )
    _do_not_compress("file_parts", "content")


def _do_not_compress(table: str, column: str) -> None:
    """Store a column as it is: encrypted text doesn't get smaller."""
    if _is_postgresql():
        op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STORAGE EXTERNAL")


def _create_outbox() -> None:
    _create(
        "idempotency_keys",
        _column("account_id"),
        _column("key"),
        _column("digest"),
        _column("event_id", Uuid),
        _column("created_at", UtcTime),
        sa.PrimaryKeyConstraint("account_id", "key", name="pk_idempotency_keys"),
    )
    _create(
        "outbox",
        sa.Column("position", WholeNumber, autoincrement=True, nullable=False),
        _column("id", Uuid),
        _column("account_id"),
        _column("type"),
        _column("subject"),
        _column("partition_key"),
        _column("event"),
        _column("created_at", UtcTime),
        sa.PrimaryKeyConstraint("position", name="pk_outbox"),
        sa.UniqueConstraint("id", name="uq_outbox_id"),
    )
    _create(
        "unpublished",
        sa.Column("position", WholeNumber, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_unpublished"),
    )
    if not _is_postgresql():
        op.execute(
            "CREATE TRIGGER outbox_waits AFTER INSERT ON outbox"
            " BEGIN INSERT INTO unpublished VALUES (new.position); END"
        )
        return
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


def _create_dead_letters() -> None:
    _create(
        "dead_letters",
        sa.Column("id", WholeNumber, autoincrement=True, nullable=False),
        _column("received_at", UtcTime),
        _optional("queue"),
        _optional("task"),
        _optional("message_id"),
        _column("reason"),
        _optional("detail"),
        _optional("headers", JsonText),
        _optional("content_type"),
        _optional("content_encoding"),
        _column("body", sa.LargeBinary),
        _flag("is_masked"),
        _optional("sealed", sa.LargeBinary),
        _column("digest"),
        _optional("settled_at", UtcTime),
        _optional("settled_as"),
        _optional("aside_key"),
        sa.PrimaryKeyConstraint("id", name="pk_dead_letters"),
    )
    letter = [sa.text("coalesce(message_id, '')"), sa.text("digest")]
    op.create_index("uq_dead_letters_message_id_digest", "dead_letters", letter, unique=True)
    _create(
        "starts",
        _column("message_key"),
        _column("starts", WholeNumber),
        _column("started_at", UtcTime),
        _optional("deaths", WholeNumber),
        sa.PrimaryKeyConstraint("message_key", name="pk_starts"),
    )


def _create_leases() -> None:
    _create(
        "leases",
        _column("name"),
        _column("holder"),
        _column("renewals", WholeNumber),
        _optional("position", WholeNumber),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )


def _is_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _create(name: str, *parts: sa.schema.SchemaItem) -> None:
    op.create_table(name, *parts, sqlite_strict=True)


def _column(name: str, type_: Any = sa.Text) -> sa.Column[Any]:
    return sa.Column(name, type_, nullable=False)


def _optional(name: str, type_: Any = sa.Text) -> sa.Column[Any]:
    return sa.Column(name, type_, nullable=True)


def _flag(name: str) -> sa.Column[Any]:
    no = sa.text("false" if _is_postgresql() else "0")
    return sa.Column(name, Flag, nullable=False, server_default=no)


def _count(name: str) -> sa.Column[Any]:
    return sa.Column(name, WholeNumber, nullable=False, server_default="0")


def _check(name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, op.f(name))


def _index(
    name: str, table: str, columns: str, where: str | None = None, *, unique: bool = False
) -> None:
    only = None if where is None else sa.text(where)
    op.create_index(
        name,
        table,
        columns.split(", "),
        unique=unique,
        postgresql_where=only,
        sqlite_where=only,
    )


def downgrade() -> None:
    for tables in (
        ("leases", "starts", "dead_letters", "unpublished", "outbox", "idempotency_keys"),
        ("file_parts", "files", "chunks", "jobs", "reserved_names", "batches", "accounts"),
        ("pin_attempts", "pins", "tokens", "holds", "transactions", "cards"),
    ):
        for table in tables:
            op.drop_table(table)
    if _is_postgresql():
        op.execute(
            "DROP FUNCTION transactions_append_only(), outbox_waits(), card_worker_raise(text)"
        )
