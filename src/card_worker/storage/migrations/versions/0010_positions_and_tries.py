"""How far the holder of a lease has come; when a file that couldn't be put is tried again."""

import sqlalchemy as sa
from alembic import op

from card_worker.storage.types import UtcTime, WholeNumber

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("leases", sa.Column("position", WholeNumber, nullable=True))
    op.add_column("files", sa.Column("tries", WholeNumber, nullable=False, server_default="0"))
    op.add_column("files", sa.Column("next_try_at", UtcTime, nullable=True))


def downgrade() -> None:
    op.drop_column("files", "next_try_at")
    op.drop_column("files", "tries")
    op.drop_column("leases", "position")
