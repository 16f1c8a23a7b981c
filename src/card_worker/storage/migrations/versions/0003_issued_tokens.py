"""What a reversed activation restores of its card's tokens; PIN attempts on removed cards."""

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
    # Of cards that were removed with a cancelled order.
    op.execute(
        "UPDATE pin_attempts SET card = NULL, number = 0 WHERE card IS NOT NULL"
        " AND NOT EXISTS (SELECT 1 FROM cards WHERE cards.id = pin_attempts.card)"
    )


def downgrade() -> None:
    op.drop_column("tokens", "issued_expires_after_transaction")
    op.drop_column("tokens", "issued_expires_at")
