"""All tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

from card_worker.storage.types import Flag, JsonText, Sortable, UtcTime, Uuid, WholeNumber

revision = "0001"
down_revision = None

AMOUNT_MAX = 2**53 - 1
HOLD_IS_OPEN = "captured + released < amount"


def upgrade() -> None:
    _create_cards()
    _create_codes()
    _create_batches()
    _create_outbox()
    _create_dead_letters()
    _create("leases", "name* text, holder text, renewals int, position int?")
    if _is_postgresql():
        for table, column in (("chunks", "encrypted_secrets"), ("file_parts", "content")):
            # Compression would not make encrypted text smaller.
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STORAGE EXTERNAL")
        op.execute(
            "CREATE FUNCTION card_worker_raise(message text) RETURNS integer LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION '%', message; END $$"
        )


def _create_cards() -> None:
    _create(
        "cards",
        "id* uuid, account_id text, card_id sortable, type text, state text, blocked flag, "
        "currency text?, amount int, customer_id text?, name text?, originated_by text?, "
        "metadata json?, active_from time?, activated_at time?, expires_at time?, "
        "batch_id text?, created_at time, created_by text?, version int, amount_funds int, "
        "amount_drawdown int, amount_balance int, amount_pending int, amount_reserved int, "
        "has_codes flag=0, changed_at time?",
        unique=["account_id, card_id"],
        checks={
            "version": "version >= 1",
            "amount": f"amount BETWEEN 0 AND {AMOUNT_MAX}",
            "funds": f"amount_funds BETWEEN 0 AND {AMOUNT_MAX}",
            "drawdown": "amount_drawdown >= 0",
            "pending": "amount_pending >= 0",
            "reserved": "amount_reserved BETWEEN 0 AND amount_balance",
            "inactive": "state <> 'inactive' OR (amount_funds = 0 AND currency IS NULL)",
            "currency": "state = 'inactive' OR currency IS NOT NULL OR state = 'closed'",
        },
    )
    _index("ix_cards_due", "cards", "expires_at", "state = 'active' AND expires_at IS NOT NULL")
    _create(
        "transactions",
        "id* uuid, account_id text, card uuid, type text, amount int, currency text, debit text, "
        "credit text, ref_id text?, parent_id uuid?, metadata json?, originated_by text?, "
        "created_at time, created_by text?, balance_before int, balance_after int, version int",
        unique=["card, version", "account_id, card, ref_id"],
        references={"card": "cards.id"},
        checks={
            "amount": "amount > 0",
            "sides": "debit <> credit",
            "balance": "balance_before >= 0 AND balance_after >= 0"
            " AND balance_after - balance_before ="
            " CASE WHEN credit = 'card' THEN amount WHEN debit = 'card' THEN -amount ELSE 0 END",
        },
    )
    _index("ix_transactions_parent_id", "transactions", "parent_id", "parent_id IS NOT NULL")
    _make_append_only("transactions")
    _create(
        "holds",
        "id* uuid, account_id text, card uuid, amount int, captured int, released int, "
        "created_at time, expires_at time?",
        references={"id": "transactions.id", "card": "cards.id"},
        checks={
            "parts": "captured >= 0 AND released >= 0",
            "amount": "captured + released <= amount",
        },
    )
    _index("ix_holds_card", "holds", "card", HOLD_IS_OPEN)
    _index("ix_holds_due", "holds", "expires_at", f"expires_at IS NOT NULL AND {HOLD_IS_OPEN}")
    _create(
        "accounts",
        "account_id* text, currencies json?, load_max int?, balance_max int?, expiry text, "
        "reversal_window_s int, recipients json?, approve_from int?",
        checks={
            "load_max": f"load_max BETWEEN 0 AND {AMOUNT_MAX}",
            "balance_max": f"balance_max BETWEEN 0 AND {AMOUNT_MAX}",
            "reversal_window_s": "reversal_window_s >= 0",
        },
    )


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


def _create_codes() -> None:
    # No foreign keys to cards: they would double the time it takes to COPY rows.
    _create(
        "tokens",
        "id* uuid, account_id text, card uuid, kid text, digest text, masked_code text, "
        "created_at time, ref_id text?, format json?, expires_at time?, "
        "expires_after_transaction flag, metadata json?, spent_at time?, revoked_at time?",
        unique=["digest"],
    )
    _index("ix_tokens_card", "tokens", "card", "spent_at IS NULL AND revoked_at IS NULL")
    _index("uq_tokens_card_ref_id", "tokens", "card, ref_id", "ref_id IS NOT NULL", unique=True)
    _create(
        "pins", "id* uuid, account_id text, kid text, digest text, changed_at time, format json?"
    )
    _create(
        "pin_attempts",
        "id* uuid, account_id text, card uuid?, number int, outcome text, created_at time",
    )
    _index("ix_pin_attempts_card_number", "pin_attempts", "card, number")


def _create_batches() -> None:
    _create(
        "batches",
        "account_id* text, batch_id* text, state text, type text, requested int, created int, "
        "name text?, metadata json?, originated_by text?, created_at time, created_by text?, "
        "command_id text?, pattern text?, card_list json?, options json?, recipients json?, "
        "pin_recipients json?, busy flag=0, job_count int=0, approved_by text?, "
        "completed_at time?, last_error text?",
        checks={"created": "created BETWEEN 0 AND requested"},
    )
    _index("ix_batches_busy", "batches", "account_id", "busy")
    _create("reserved_card_ids", "account_id* text, card_id* sortable, batch_id text")
    _create(
        "jobs",
        "id* uuid, account_id text, batch_id text, action text, sequence int=0, first int, "
        "last int, chunk_cards int, open_chunks int, command text, command_id text, "
        "created_at time, last_activity_at time, last_progress_at time, created_by text?, "
        "originated_by text?, reason text?, expires_at time?, done int, already int, "
        "refused int, ended_at time?",
        checks={"open_chunks": "open_chunks >= 0"},
    )
    _index("ix_jobs_unfinished", "jobs", "last_activity_at", "ended_at IS NULL")
    _index("ix_jobs_of_batch", "jobs", "account_id, batch_id", "ended_at IS NULL")
    _create(
        "chunks",
        "job* uuid, number* int, done_at time?, encrypted_secrets text?, refused json?",
    )
    _create(
        "files",
        "name* text, account_id text, batch_id text, kind text, sha256 text, cards int, "
        "bytes int, recipients json, created_at time, written_at time?, confirmed_at time?, "
        "last_error text?, attempts int=0, next_attempt_at time?",
    )
    _index("ix_files_batch", "files", "account_id, batch_id")
    _index("ix_files_waiting", "files", "created_at", "written_at IS NULL AND confirmed_at IS NULL")
    _create("file_parts", "name* text, number* int, content text")


def _create_outbox() -> None:
    _create(
        "idempotency_keys",
        "account_id* text, key* text, digest text, event_id uuid, created_at time",
    )
    _create(
        "outbox",
        "position* int=serial, id uuid, account_id text, type text, subject text, "
        "partition_key text, event text, created_at time",
        unique=["id"],
    )
    _create("unpublished", "position* int")
    if not _is_postgresql():
        op.execute(
            "CREATE TRIGGER insert_unpublished AFTER INSERT ON outbox"
            " BEGIN INSERT INTO unpublished VALUES (new.position); END"
        )
        return
    op.execute(
        "CREATE FUNCTION insert_unpublished() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO unpublished SELECT position FROM added;"
        " PERFORM pg_notify('card_worker_outbox', '');"
        " RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER insert_unpublished AFTER INSERT ON outbox REFERENCING NEW TABLE AS added"
        " FOR EACH STATEMENT EXECUTE FUNCTION insert_unpublished()"
    )


def _create_dead_letters() -> None:
    _create(
        "dead_letters",
        "id* int=serial, received_at time, queue text?, task text?, message_id text?, "
        "reason text, detail text?, headers json?, content_type text?, content_encoding text?, "
        "body bytes, is_masked flag=0, sealed bytes?, digest text, resolved_at time?, "
        "resolution text?, aside_key text?",
    )
    message = [sa.text("coalesce(message_id, '')"), sa.text("digest")]
    op.create_index("uq_dead_letters_message_id_digest", "dead_letters", message, unique=True)
    _create("starts", "message_key* text, starts int, started_at time, deaths int?")


def _is_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


_TYPES: dict[str, Any] = {
    "text": sa.Text,
    "sortable": Sortable,
    "int": WholeNumber,
    "flag": Flag,
    "json": JsonText,
    "time": UtcTime,
    "uuid": Uuid,
    "bytes": sa.LargeBinary,
}


def _create(
    table: str,
    described: str,
    *,
    unique: Sequence[str] = (),
    references: Mapping[str, str] | None = None,
    checks: Mapping[str, str] | None = None,
) -> None:
    """Create a table. Columns are `name type, …`; `name*`: in the primary key; `type?`: may be
    NULL; `=0`: false or 0 by default; `=serial`: numbered by the database."""
    columns = [_column(*column.split()) for column in described.split(", ")]
    names = [names.split(", ") for names in unique]
    op.create_table(
        table,
        *columns,
        sa.PrimaryKeyConstraint(
            *(column.name for column in columns if column.info["is_key"]), name=f"pk_{table}"
        ),
        *(sa.UniqueConstraint(*each, name="_".join(["uq", table, *each])) for each in names),
        *(
            sa.ForeignKeyConstraint([column], [other], name=f"fk_{table}_{column}")
            for column, other in (references or {}).items()
        ),
        *(
            sa.CheckConstraint(condition, op.f(f"ck_{table}_{name}"))
            for name, condition in (checks or {}).items()
        ),
        sqlite_strict=True,
    )


def _column(name: str, described: str) -> sa.Column[Any]:
    type_, _, default = described.rstrip("?").partition("=")
    zero = sa.false() if type_ == "flag" else sa.text("'0'")
    return sa.Column(
        name.rstrip("*"),
        _TYPES[type_],
        nullable=described.endswith("?"),
        server_default=zero if default == "0" else None,
        autoincrement=default == "serial",
        info={"is_key": name.endswith("*")},
    )


def _index(
    name: str, table: str, columns: str, where: str | None = None, *, unique: bool = False
) -> None:
    only = None if where is None else sa.text(where)
    op.create_index(
        name, table, columns.split(", "), unique=unique, postgresql_where=only, sqlite_where=only
    )


def downgrade() -> None:
    for tables in (
        "leases starts dead_letters unpublished outbox idempotency_keys file_parts files chunks",
        "jobs reserved_card_ids batches accounts pin_attempts pins tokens holds transactions cards",
    ):
        for table in tables.split():
            op.drop_table(table)
    if _is_postgresql():
        op.execute(
            "DROP FUNCTION transactions_append_only(), insert_unpublished(),"
            " card_worker_raise(text)"
        )
