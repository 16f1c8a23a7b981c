"""When each card was changed last, before which nothing happens to it."""

import sqlalchemy as sa
from alembic import op

from card_worker.storage.types import UtcTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# An event of a batch, or a refusal, may have the name of a card that it doesn't change.
LAST_CHANGES = """
    UPDATE cards SET changed_at = last.at FROM (
        SELECT partition_key, max(created_at) AS at FROM outbox
        WHERE type NOT LIKE 'batch.%' AND type NOT LIKE 'command.%' GROUP BY partition_key
    ) AS last WHERE last.partition_key = cards.account_id || '/' || cards.card_id
"""


def upgrade() -> None:
    op.add_column("cards", sa.Column("changed_at", UtcTime, nullable=True))
    op.execute(sa.text(LAST_CHANGES))


def downgrade() -> None:
    op.drop_column("cards", "changed_at")
