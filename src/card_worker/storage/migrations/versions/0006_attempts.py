"""Attempts per source: how many PINs and short tokens were sent, and how many were wrong."""

import sqlalchemy as sa
from alembic import op

from card_worker.storage.types import Flag, UtcTime, WholeNumber

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "source_attempts",
        sa.Column("began_at", UtcTime, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        *(sa.Column(name, WholeNumber, nullable=False) for name in ("attempts", "wrong")),
        sa.Column("is_reported", Flag, nullable=False),
        sa.PrimaryKeyConstraint("began_at", "source", name="pk_source_attempts"),
        sqlite_strict=True,
    )
    op.add_column(
        "producers", sa.Column("wrong_max", WholeNumber, nullable=False, server_default="50")
    )


def downgrade() -> None:
    op.drop_column("producers", "wrong_max")
    op.drop_table("source_attempts")
