"""Events that are to be published again; rows that are deleted when they are old."""

import sqlalchemy as sa
from alembic import op

from card_worker.storage.types import Flag

revision = "0007"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    again: sa.Column[bool] = sa.Column("again", Flag, nullable=False, server_default=sa.false())
    op.add_column("unpublished", again)
    only = sa.text("again")
    op.create_index(
        "ix_unpublished_again",
        "unpublished",
        ["position"],
        postgresql_where=only,
        sqlite_where=only,
    )
    _insert_unpublished("unpublished (position)")


def _insert_unpublished(into: str) -> None:
    """Replace SQLite's trigger of the outbox, which inserts a row with all its columns."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER insert_unpublished")
        op.execute(
            "CREATE TRIGGER insert_unpublished AFTER INSERT ON outbox"  # noqa: S608
            f" BEGIN INSERT INTO {into} VALUES (new.position); END"
        )


def downgrade() -> None:
    op.drop_index("ix_unpublished_again")
    op.drop_column("unpublished", "again")
    _insert_unpublished("unpublished")
