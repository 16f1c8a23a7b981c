"""Leases that are counted up instead of expiring; dead letters of entries that were set aside."""

import sqlalchemy as sa
from alembic import op

from card_worker.storage.types import UtcTime, WholeNumber

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_leases(sa.Column("renewals", WholeNumber, nullable=False))
    op.add_column("dead_letters", sa.Column("aside_key", sa.Text, nullable=True))


def downgrade() -> None:
    op.drop_column("dead_letters", "aside_key")
    _create_leases(sa.Column("expires_at", UtcTime, nullable=False))


def _create_leases(column: sa.Column[object]) -> None:
    # Whoever holds one takes it again.
    op.drop_table("leases")
    op.create_table(
        "leases",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        column,
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
        sqlite_strict=True,
    )
