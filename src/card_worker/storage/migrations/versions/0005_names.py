"""Card_ids that sort by their code points, whatever language the database was made for."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _sort("C")


def downgrade() -> None:
    _sort("default")


def _sort(collation: str) -> None:
    # SQLite does so of itself.
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f'ALTER TABLE cards ALTER COLUMN card_id TYPE text COLLATE "{collation}"')
