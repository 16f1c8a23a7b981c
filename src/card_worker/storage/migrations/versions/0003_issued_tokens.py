"""What a reversed activation restores of its card's tokens."""

import sqlalchemy as sa
from alembic import op

from card_worker.storage.types import Flag, UtcTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tokens", sa.Column("issued_expires_at", UtcTime))
    op.add_column("tokens", sa.Column("issued_expires_after_transaction", Flag))


def downgrade() -> None:
    op.drop_column("tokens", "issued_expires_after_transaction")
    op.drop_column("tokens", "issued_expires_at")
