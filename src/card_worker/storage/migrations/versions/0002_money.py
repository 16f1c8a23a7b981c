"""Holds, accounts with rules of their own, and when a card was activated."""

import sqlalchemy as sa
from alembic import op

from card_worker.storage.types import JsonText, UtcTime, Uuid, WholeNumber

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

AMOUNT_MAX = 2**53 - 1
IS_OPEN = "captured + released < amount"


def upgrade() -> None:
    op.add_column("cards", sa.Column("activated_at", UtcTime, nullable=True))
    # What was active before has been so at least since it was made.
    op.execute("UPDATE cards SET activated_at = created_at WHERE state <> 'inactive'")
    _index("ix_transactions_parent_id", "transactions", "parent_id", "parent_id IS NOT NULL")
    _create_holds()
    _create_accounts()


def _create_holds() -> None:
    op.create_table(
        "holds",
        sa.Column("id", Uuid, nullable=False),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("card", Uuid, nullable=False),
        sa.Column("amount", WholeNumber, nullable=False),
        sa.Column("captured", WholeNumber, nullable=False),
        sa.Column("released", WholeNumber, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("expires_at", UtcTime, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_holds"),
        sa.ForeignKeyConstraint(["id"], ["transactions.id"], name="fk_holds_id"),
        sa.ForeignKeyConstraint(["card"], ["cards.id"], name="fk_holds_card"),
        sa.CheckConstraint("captured >= 0 AND released >= 0", op.f("ck_holds_parts")),
        sa.CheckConstraint("captured + released <= amount", op.f("ck_holds_amount")),
        sqlite_strict=True,
    )
    _index("ix_holds_card", "holds", "card", IS_OPEN)
    _index("ix_holds_due", "holds", "expires_at", f"expires_at IS NOT NULL AND {IS_OPEN}")


def _create_accounts() -> None:
    op.create_table(
        "accounts",
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("currencies", JsonText, nullable=True),
        sa.Column("load_max", WholeNumber, nullable=True),
        sa.Column("balance_max", WholeNumber, nullable=True),
        sa.Column("expiry", sa.Text, nullable=False),
        sa.Column("reversal_window_s", WholeNumber, nullable=False),
        sa.PrimaryKeyConstraint("account_id", name="pk_accounts"),
        sa.CheckConstraint(f"load_max BETWEEN 0 AND {AMOUNT_MAX}", op.f("ck_accounts_load_max")),
        sa.CheckConstraint(
            f"balance_max BETWEEN 0 AND {AMOUNT_MAX}", op.f("ck_accounts_balance_max")
        ),
        sa.CheckConstraint("reversal_window_s >= 0", op.f("ck_accounts_reversal_window_s")),
        sqlite_strict=True,
    )


def _index(name: str, table: str, column: str, where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, [column], postgresql_where=condition, sqlite_where=condition)


def downgrade() -> None:
    op.drop_table("accounts")
    op.drop_table("holds")
    op.drop_index("ix_transactions_parent_id", "transactions")
    op.drop_column("cards", "activated_at")
