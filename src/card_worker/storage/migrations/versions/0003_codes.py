"""Tokens, PINs, guesses of PINs, sealed files and letters, and who opens what is sealed."""

import sqlalchemy as sa
from alembic import op

from card_worker.storage.types import Flag, JsonText, UtcTime, Uuid, WholeNumber

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TOKEN_IS_LEFT = "spent_at IS NULL AND revoked_at IS NULL"
FILE_WAITS = "written_at IS NULL AND confirmed_at IS NULL"


def upgrade() -> None:
    no = "false" if op.get_bind().dialect.name == "postgresql" else "0"
    op.add_column("cards", sa.Column("has_codes", Flag, nullable=False, server_default=sa.text(no)))
    masked: sa.Column[bool] = sa.Column(
        "is_masked", Flag, nullable=False, server_default=sa.text(no)
    )
    op.add_column("dead_letters", masked)
    op.add_column("dead_letters", sa.Column("sealed", sa.LargeBinary, nullable=True))
    op.add_column("accounts", sa.Column("recipients", JsonText, nullable=True))
    _create_tokens()
    _create_pins()
    _create_guesses()
    _create_files()


def _create_tokens() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", Uuid, nullable=False),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("card", Uuid, nullable=False),
        sa.Column("kid", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("masked_code", sa.Text, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("ref_id", sa.Text, nullable=True),
        sa.Column("format", JsonText, nullable=True),
        sa.Column("expires_at", UtcTime, nullable=True),
        sa.Column("expires_after_transaction", Flag, nullable=False),
        sa.Column("metadata", JsonText, nullable=True),
        sa.Column("spent_at", UtcTime, nullable=True),
        sa.Column("revoked_at", UtcTime, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.ForeignKeyConstraint(["card"], ["cards.id"], name="fk_tokens_card"),
        sa.UniqueConstraint("digest", name="uq_tokens_digest"),
        sa.UniqueConstraint("card", "ref_id", name="uq_tokens_card_ref_id"),
        sqlite_strict=True,
    )
    _index("ix_tokens_card", "tokens", "card", TOKEN_IS_LEFT)


def _create_pins() -> None:
    op.create_table(
        "pins",
        sa.Column("id", Uuid, nullable=False),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("kid", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("changed_at", UtcTime, nullable=False),
        sa.Column("format", JsonText, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_pins"),
        sa.ForeignKeyConstraint(["id"], ["cards.id"], name="fk_pins_id"),
        sqlite_strict=True,
    )


def _create_guesses() -> None:
    op.create_table(
        "guesses",
        sa.Column("id", Uuid, nullable=False),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("card", Uuid, nullable=True),
        sa.Column("number", WholeNumber, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_guesses"),
        sqlite_strict=True,
    )
    op.create_index("ix_guesses_card_number", "guesses", ["card", "number"])


def _create_files() -> None:
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
    _index("ix_files_unwritten", "files", "created_at", FILE_WAITS)


def _index(name: str, table: str, column: str, where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, [column], postgresql_where=condition, sqlite_where=condition)


def downgrade() -> None:
    for table in ("files", "guesses", "pins", "tokens"):
        op.drop_table(table)
    op.drop_column("accounts", "recipients")
    op.drop_column("dead_letters", "sealed")
    op.drop_column("dead_letters", "is_masked")
    op.drop_column("cards", "has_codes")
