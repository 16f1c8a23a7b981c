"""Runs of a batch one after the other; the names of lists that are not made yet."""

import sqlalchemy as sa
from alembic import op

from card_worker.storage.types import Sortable, WholeNumber

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_LISTED = {
    "postgresql": "json_array_elements(CAST(b.listed AS JSON)) AS c(card)",
    "sqlite": "json_each(b.listed) AS c",
}
_CARD_ID = {"postgresql": "c.card->>'card_id'", "sqlite": "json_extract(c.value, '$.card_id')"}


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    for table, name in (("batches", "runs"), ("runs", "sequence")):
        # What has begun already goes on as before, at the same time.
        op.add_column(table, sa.Column(name, WholeNumber, nullable=False, server_default="0"))
    unfinished = sa.text("ended_at IS NULL")
    op.create_index(
        "ix_runs_of_batch",
        "runs",
        ["account_id", "batch_id"],
        postgresql_where=unfinished,
        sqlite_where=unfinished,
    )
    op.create_table(
        "reserved_names",
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("card_id", Sortable, nullable=False),
        sa.Column("batch_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("account_id", "card_id", name="pk_reserved_names"),
        sqlite_strict=True,
    )
    op.execute(
        "INSERT INTO reserved_names (account_id, card_id, batch_id)"  # noqa: S608
        f" SELECT b.account_id, {_CARD_ID[dialect]}, b.batch_id"
        f" FROM batches AS b, {_LISTED[dialect]} WHERE b.busy AND b.listed IS NOT NULL"
        " ON CONFLICT DO NOTHING"
    )


def downgrade() -> None:
    op.drop_table("reserved_names")
    op.drop_index("ix_runs_of_batch", "runs")
    op.drop_column("runs", "sequence")
    op.drop_column("batches", "runs")
