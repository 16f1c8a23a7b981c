"""Orders of cards that are made piece by piece, and files in parts."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from card_worker.storage.types import Flag, JsonText, UtcTime, Uuid, WholeNumber

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

FILE_WAITS = "written_at IS NULL AND confirmed_at IS NULL"
# A listed batch is known by its cards from now on.
_LISTED = {
    "postgresql": "SELECT CAST(json_agg(json_build_object('card_id', c.card_id)) AS TEXT)",
    "sqlite": "SELECT json_group_array(json_object('card_id', c.card_id))",
}


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    no = "false" if dialect == "postgresql" else "0"
    op.add_column("accounts", sa.Column("approve_from", WholeNumber, nullable=True))
    for name in ("command_id", "pattern", "approved_by", "trouble"):
        op.add_column("batches", sa.Column(name, sa.Text, nullable=True))
    for name in ("listed", "options", "recipients", "pin_recipients"):
        op.add_column("batches", sa.Column(name, JsonText, nullable=True))
    op.add_column("batches", sa.Column("completed_at", UtcTime, nullable=True))
    op.add_column("batches", sa.Column("busy", Flag, nullable=False, server_default=sa.text(no)))
    op.execute(
        "UPDATE batches SET completed_at = created_at, command_id = batch_id,"  # noqa: S608
        f" listed = ({_LISTED[dialect]} FROM cards c"
        " WHERE c.account_id = batches.account_id AND c.batch_id = batches.batch_id)"
    )
    _index("ix_batches_busy", "batches", ["account_id"], "busy")
    _let_codes_be_copied(dialect)
    _create_runs()
    _create_chunks()
    _create_files(dialect)


# As 0003 has made them, without the constraints that COPY would spend most of its time on.
_COLUMNS: dict[str, tuple[tuple[str, sa.types.TypeEngine[Any], bool], ...]] = {
    "tokens": (
        ("id", Uuid(), False),
        ("account_id", sa.Text(), False),
        ("card", Uuid(), False),
        ("kid", sa.Text(), False),
        ("digest", sa.Text(), False),
        ("masked_code", sa.Text(), False),
        ("created_at", UtcTime(), False),
        ("ref_id", sa.Text(), True),
        ("format", JsonText(), True),
        ("expires_at", UtcTime(), True),
        ("expires_after_transaction", Flag, False),
        ("metadata", JsonText(), True),
        ("spent_at", UtcTime(), True),
        ("revoked_at", UtcTime(), True),
    ),
    "pins": (
        ("id", Uuid(), False),
        ("account_id", sa.Text(), False),
        ("kid", sa.Text(), False),
        ("digest", sa.Text(), False),
        ("changed_at", UtcTime(), False),
        ("format", JsonText(), True),
    ),
}
TOKEN_IS_LEFT = "spent_at IS NULL AND revoked_at IS NULL"
HAS_REF = "ref_id IS NOT NULL"


def _let_codes_be_copied(dialect: str) -> None:
    if dialect == "postgresql":
        op.drop_constraint("fk_tokens_card", "tokens")
        op.drop_constraint("fk_pins_id", "pins")
        op.drop_constraint("uq_tokens_card_ref_id", "tokens")
    else:
        op.drop_index("ix_tokens_card", "tokens")
        _copy_table("tokens", sa.UniqueConstraint("digest", name="uq_tokens_digest"))
        _copy_table("pins")
        _index("ix_tokens_card", "tokens", ["card"], TOKEN_IS_LEFT)
    _index("uq_tokens_card_ref_id", "tokens", ["card", "ref_id"], HAS_REF, unique=True)


def _copy_table(name: str, *constraints: sa.schema.SchemaItem) -> None:
    """Make a table anew: SQLite can't drop a constraint."""
    op.rename_table(name, f"{name}_before")
    columns = [sa.Column(each, kind, nullable=null) for each, kind, null in _COLUMNS[name]]
    op.create_table(
        name,
        *columns,
        sa.PrimaryKeyConstraint("id", name=f"pk_{name}"),
        *constraints,
        sqlite_strict=True,
    )
    op.execute(f"INSERT INTO {name} SELECT * FROM {name}_before")  # noqa: S608
    op.drop_table(f"{name}_before")


def _create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("id", Uuid, nullable=False),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("batch_id", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("first", WholeNumber, nullable=False),
        sa.Column("last", WholeNumber, nullable=False),
        sa.Column("chunk_cards", WholeNumber, nullable=False),
        sa.Column("open_chunks", WholeNumber, nullable=False),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("command_id", sa.Text, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("moved_at", UtcTime, nullable=False),
        sa.Column("told_at", UtcTime, nullable=False),
        sa.Column("created_by", sa.Text, nullable=True),
        sa.Column("originated_by", sa.Text, nullable=True),
        sa.Column("reason", sa.Text, nullable=True),
        sa.Column("expires_at", UtcTime, nullable=True),
        sa.Column("done", WholeNumber, nullable=False),
        sa.Column("already", WholeNumber, nullable=False),
        sa.Column("refused", WholeNumber, nullable=False),
        sa.Column("ended_at", UtcTime, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.CheckConstraint("open_chunks >= 0", op.f("ck_runs_open_chunks")),
        sqlite_strict=True,
    )
    _index("ix_runs_unfinished", "runs", ["moved_at"], "ended_at IS NULL")


def _create_chunks() -> None:
    op.create_table(
        "chunks",
        sa.Column("run", Uuid, nullable=False),
        sa.Column("number", WholeNumber, nullable=False),
        sa.Column("done_at", UtcTime, nullable=True),
        sa.Column("kept", sa.Text, nullable=True),
        sa.Column("refused", JsonText, nullable=True),
        sa.PrimaryKeyConstraint("run", "number", name="pk_chunks"),
        sqlite_strict=True,
    )
    if op.get_bind().dialect.name == "postgresql":
        # Encrypted text doesn't get smaller.
        op.execute("ALTER TABLE chunks ALTER COLUMN kept SET STORAGE EXTERNAL")


def _create_files(dialect: str) -> None:
    op.drop_index("ix_files_unwritten", "files")
    op.rename_table("files", "files_0003")
    if dialect == "postgresql":
        op.execute("ALTER INDEX pk_files RENAME TO pk_files_0003")
    op.create_table(
        "files",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("batch_id", sa.Text, nullable=False),
        sa.Column("holds", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("cards", WholeNumber, nullable=False),
        sa.Column("bytes", WholeNumber, nullable=False),
        sa.Column("recipients", JsonText, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("written_at", UtcTime, nullable=True),
        sa.Column("confirmed_at", UtcTime, nullable=True),
        sa.Column("trouble", sa.Text, nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_files"),
        sqlite_strict=True,
    )
    op.create_index("ix_files_batch", "files", ["account_id", "batch_id"])
    _index("ix_files_waiting", "files", ["created_at"], FILE_WAITS)
    op.create_table(
        "file_parts",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("number", WholeNumber, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name", "number", name="pk_file_parts"),
        sqlite_strict=True,
    )
    if dialect == "postgresql":
        op.execute("ALTER TABLE file_parts ALTER COLUMN content SET STORAGE EXTERNAL")
    op.execute(
        "INSERT INTO files SELECT name, account_id, batch_id, 'codes', sha256, cards, bytes,"
        " recipients, created_at, written_at, confirmed_at, NULL FROM files_0003"
    )
    op.execute(
        "INSERT INTO file_parts SELECT name, 1, sealed FROM files_0003 WHERE sealed IS NOT NULL"
    )
    op.drop_table("files_0003")


def _index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(
        name, table, columns, unique=unique, postgresql_where=condition, sqlite_where=condition
    )


def downgrade() -> None:
    _let_codes_be_looked_after(op.get_bind().dialect.name)
    op.rename_table("files", "files_0004")
    op.drop_index("ix_files_batch", "files_0004")
    op.drop_index("ix_files_waiting", "files_0004")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER INDEX pk_files RENAME TO pk_files_0004")
    op.create_table(
        "files",
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("batch_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("cards", WholeNumber, nullable=False),
        sa.Column("bytes", WholeNumber, nullable=False),
        sa.Column("recipients", JsonText, nullable=False),
        sa.Column("sealed", sa.Text, nullable=True),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("written_at", UtcTime, nullable=True),
        sa.Column("confirmed_at", UtcTime, nullable=True),
        sa.PrimaryKeyConstraint("account_id", "batch_id", name="pk_files"),
        sa.CheckConstraint(
            "sealed IS NOT NULL OR confirmed_at IS NOT NULL", op.f("ck_files_sealed")
        ),
        sqlite_strict=True,
    )
    # One part is all that the older version has room for.
    op.execute(
        "INSERT INTO files SELECT f.account_id, f.batch_id, f.name, f.sha256, f.cards, f.bytes,"
        " f.recipients, p.content, f.created_at, f.written_at, f.confirmed_at FROM files_0004 f"
        " LEFT JOIN file_parts p ON p.name = f.name WHERE f.holds = 'codes' AND"
        " (SELECT count(*) FROM file_parts q WHERE q.name = f.name) <= 1"
        " AND (p.content IS NOT NULL OR f.confirmed_at IS NOT NULL)"
    )
    _index("ix_files_unwritten", "files", ["created_at"], FILE_WAITS)
    for table in ("files_0004", "file_parts", "chunks", "runs"):
        op.drop_table(table)
    op.drop_index("ix_batches_busy", "batches")
    for name in (
        *("command_id", "pattern", "approved_by", "trouble", "listed", "options"),
        *("recipients", "pin_recipients", "completed_at", "busy"),
    ):
        op.drop_column("batches", name)
    op.drop_column("accounts", "approve_from")


def _let_codes_be_looked_after(dialect: str) -> None:
    op.drop_index("uq_tokens_card_ref_id", "tokens")
    if dialect == "postgresql":
        op.create_unique_constraint("uq_tokens_card_ref_id", "tokens", ["card", "ref_id"])
        op.create_foreign_key("fk_tokens_card", "tokens", "cards", ["card"], ["id"])
        op.create_foreign_key("fk_pins_id", "pins", "cards", ["id"], ["id"])
        return
    op.drop_index("ix_tokens_card", "tokens")
    _copy_table(
        "tokens",
        sa.UniqueConstraint("digest", name="uq_tokens_digest"),
        sa.UniqueConstraint("card", "ref_id", name="uq_tokens_card_ref_id"),
        sa.ForeignKeyConstraint(["card"], ["cards.id"], name="fk_tokens_card"),
    )
    _copy_table("pins", sa.ForeignKeyConstraint(["id"], ["cards.id"], name="fk_pins_id"))
    _index("ix_tokens_card", "tokens", ["card"], TOKEN_IS_LEFT)
