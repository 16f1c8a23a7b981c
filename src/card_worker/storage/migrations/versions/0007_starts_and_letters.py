"""Starts that the worker itself breaks off don't count; a letter without an id is one letter."""

import sqlalchemy as sa
from alembic import op

from card_worker.storage.types import WholeNumber

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

NAME = "uq_dead_letters_message_id_digest"
LETTER_ID = sa.text("coalesce(message_id, '')")


def upgrade() -> None:
    op.add_column("starts", sa.Column("deaths", WholeNumber, nullable=True))
    # Of the letters of one entry, the last one stays.
    op.execute(
        "DELETE FROM dead_letters WHERE message_id IS NULL AND id NOT IN"
        " (SELECT max(id) FROM dead_letters WHERE message_id IS NULL GROUP BY digest)"
    )
    with op.batch_alter_table("dead_letters", table_kwargs={"sqlite_strict": True}) as letters:
        letters.drop_constraint(NAME, type_="unique")
    op.create_index(NAME, "dead_letters", [LETTER_ID, "digest"], unique=True)


def downgrade() -> None:
    op.drop_index(NAME, "dead_letters")
    with op.batch_alter_table("dead_letters", table_kwargs={"sqlite_strict": True}) as letters:
        letters.create_unique_constraint(NAME, ["message_id", "digest"])
    op.drop_column("starts", "deaths")
