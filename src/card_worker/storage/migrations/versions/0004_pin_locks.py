"""Locks of PINs; more of short tokens is masked."""

import sqlalchemy as sa
from alembic import op

from card_worker.secrets.drawing import mask
from card_worker.secrets.formats import TokenFormat
from card_worker.storage.types import UtcTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A card that wrong PINs have blocked stays blocked until it is unblocked, as was told. Wrong
    # PINs that count go on counting.
    op.add_column("pins", sa.Column("locked_until", UtcTime))
    _mask_tokens()


def _mask_tokens() -> None:
    """Mask tokens that have a format again; those without are masked as before."""
    format, masked = sa.column("format", sa.Text), sa.column("masked_code", sa.Text)
    tokens = sa.table("tokens", format, masked)
    connection = op.get_bind()
    formats = connection.scalars(sa.select(format).where(format.is_not(None)).distinct())
    for text in formats.all():
        (hidden,) = mask([""], TokenFormat.model_validate_json(text))
        shown = sa.literal(hidden) + sa.func.substr(masked, len(hidden) + 1)
        shows_more = sa.and_(format == text, masked != shown)
        connection.execute(sa.update(tokens).where(shows_more).values(masked_code=shown))


def downgrade() -> None:
    # The version before refuses each PIN after five wrong ones, and an unblock of such a card.
    op.execute(
        "UPDATE pin_attempts SET outcome = 'cleared' WHERE outcome = 'wrong'"
        " AND card IN (SELECT id FROM pins WHERE locked_until IS NOT NULL)"
    )
    op.drop_column("pins", "locked_until")
