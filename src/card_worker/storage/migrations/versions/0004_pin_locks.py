"""Locks of PINs."""

import sqlalchemy as sa
from alembic import op

from card_worker.storage.types import UtcTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A card that wrong PINs have blocked stays blocked until it is unblocked, as was told. Wrong
    # PINs that count go on counting.
    op.add_column("pins", sa.Column("locked_until", UtcTime))


def downgrade() -> None:
    # The version before refuses each PIN after five wrong ones, and an unblock of such a card.
    op.execute(
        "UPDATE pin_attempts SET outcome = 'cleared' WHERE outcome = 'wrong'"
        " AND card IN (SELECT id FROM pins WHERE locked_until IS NOT NULL)"
    )
    op.drop_column("pins", "locked_until")
