"""How far the holder of a lease has come."""

import sqlalchemy as sa
from alembic import op

from card_worker.storage.types import WholeNumber

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("leases", sa.Column("position", WholeNumber, nullable=True))


def downgrade() -> None:
    op.drop_column("leases", "position")
