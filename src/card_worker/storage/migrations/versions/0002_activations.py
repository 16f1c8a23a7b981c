"""Activations, postings and successors of cards; funding; transfers; repeated answers."""

import sqlalchemy as sa
from alembic import op

from card_worker.storage.types import Flag, Uuid, WholeNumber

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# The data of an event: {"postgresql": …, "sqlite": …}.
_DATA = {"postgresql": "CAST(event AS json) -> 'data' ->> '{}'", "sqlite": "event ->> '$.data.{}'"}


def upgrade() -> None:
    for name in ("activation", "postings"):
        op.add_column("cards", sa.Column(name, WholeNumber, nullable=False, server_default="0"))
    for name in ("activated_by", "activated_from"):
        op.add_column("cards", sa.Column(name, sa.Text))
    op.add_column("cards", sa.Column("replaced_by", Uuid))
    only = sa.text("replaced_by IS NOT NULL")
    op.create_index(
        "ix_cards_replaced_by", "cards", ["replaced_by"], postgresql_where=only, sqlite_where=only
    )
    op.add_column("transactions", sa.Column("funding", sa.Text))
    op.add_column(
        "accounts",
        sa.Column("transfers_extend_expiry", Flag, nullable=False, server_default=sa.true()),
    )
    op.create_table(
        "repeats",
        sa.Column("event_id", Uuid, nullable=False),
        sa.Column("command_id", sa.Text, nullable=False),
        sa.Column("mark", WholeNumber, nullable=False),
        sa.PrimaryKeyConstraint("event_id", "command_id", name="pk_repeats"),
        sqlite_strict=True,
    )
    _fill_cards()
    _add_trigger()


def _fill_cards() -> None:
    """Derive the new columns of cards from events and transactions."""
    dialect = op.get_bind().dialect.name
    data = _DATA[dialect]
    whole = "bigint" if dialect == "postgresql" else "integer"
    began = (
        f"SELECT account_id, subject AS card_id, count(*) AS activation,"  # noqa: S608
        f" max(CAST({data.format('version')} AS {whole})) AS version FROM outbox"
        f" WHERE type IN ('card.created', 'card.activated') AND {data.format('dry_run')} IS NULL"
        f" GROUP BY account_id, subject"
    )
    op.execute(
        f"UPDATE cards SET activation = began.activation, postings = (SELECT count(*)"  # noqa: S608
        f" FROM transactions WHERE card = cards.id AND version >= began.version)"
        f" FROM ({began}) AS began"
        f" WHERE began.account_id = cards.account_id AND began.card_id = cards.card_id"
    )
    replaced = (
        f"SELECT account_id, subject AS card_id, {data.format('other_card_id')} AS other"  # noqa: S608
        f" FROM outbox WHERE type = 'card.replaced' AND {data.format('dry_run')} IS NULL"
    )
    op.execute(
        f"UPDATE cards SET replaced_by = new.id FROM ({replaced}) AS replaced, cards AS new"  # noqa: S608
        f" WHERE replaced.account_id = cards.account_id AND replaced.card_id = cards.card_id"
        f" AND new.account_id = cards.account_id AND new.card_id = replaced.other"
    )


def _add_trigger() -> None:
    """Wake the relay when a repeat is stored."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION repeats_wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " PERFORM pg_notify('card_worker_outbox', ''); RETURN NULL; END $$"
        )
        op.execute(
            "CREATE TRIGGER repeats_wait AFTER INSERT ON repeats"
            " FOR EACH STATEMENT EXECUTE FUNCTION repeats_wait()"
        )


def downgrade() -> None:
    op.drop_table("repeats")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION repeats_wait()")
    op.drop_column("accounts", "transfers_extend_expiry")
    op.drop_column("transactions", "funding")
    op.drop_index("ix_cards_replaced_by")
    for name in ("activation", "activated_by", "activated_from", "postings", "replaced_by"):
        op.drop_column("cards", name)
