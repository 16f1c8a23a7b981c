"""Producers, their keys and rights; accounts that require signatures."""

import sqlalchemy as sa
from alembic import op

from card_worker.storage.types import Flag, JsonText, UtcTime, WholeNumber

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_CHANGES = "UPDATE registry SET version = version + 1"


def upgrade() -> None:
    op.create_table(
        "producers",
        *(sa.Column(name, sa.Text, nullable=False) for name in ("key_id", "producer", "algorithm")),
        *(sa.Column(name, UtcTime, nullable=False) for name in ("created_at", "valid_from")),
        *(sa.Column(name, sa.Text) for name in ("public_key", "pepper")),
        *(sa.Column(name, JsonText) for name in ("accounts", "tasks", "issued_max")),
        *(sa.Column(name, WholeNumber) for name in ("amount_max", "cards_max")),
        *(sa.Column(name, UtcTime) for name in ("valid_until", "revoked_at")),
        sa.PrimaryKeyConstraint("key_id", name="pk_producers"),
        sqlite_strict=True,
    )
    op.create_table(
        "registry",
        sa.Column("id", WholeNumber, nullable=False, autoincrement=False),
        sa.Column("version", WholeNumber, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_registry"),
        sqlite_strict=True,
    )
    op.execute("INSERT INTO registry VALUES (1, 1)")
    op.create_table(
        "issued",
        *(sa.Column(name, sa.Text, nullable=False) for name in ("producer", "day", "currency")),
        sa.Column("amount", WholeNumber, nullable=False),
        sa.PrimaryKeyConstraint("producer", "day", "currency", name="pk_issued"),
        sqlite_strict=True,
    )
    op.create_table(
        "unauthenticated",
        *(sa.Column(name, sa.Text, nullable=False) for name in ("day", "reason")),
        *(sa.Column(name, WholeNumber, nullable=False) for name in ("stored", "counted", "bytes")),
        sa.PrimaryKeyConstraint("day", "reason", name="pk_unauthenticated"),
        sqlite_strict=True,
    )
    op.add_column(
        "accounts", sa.Column("signatures", sa.Text, nullable=False, server_default="accepted")
    )
    op.add_column(
        "accounts",
        sa.Column("signature_window_s", WholeNumber, nullable=False, server_default="604800"),
    )
    op.add_column(
        "accounts",
        sa.Column("only_own_recipients", Flag, nullable=False, server_default=sa.false()),
    )
    op.add_column("batches", sa.Column("producer", sa.Text))
    op.add_column("dead_letters", sa.Column("signature", sa.Text))
    only = sa.text("signature IS NOT NULL")
    op.create_index(
        "ix_dead_letters_signature",
        "dead_letters",
        ["signature"],
        postgresql_where=only,
        sqlite_where=only,
    )
    _add_triggers()


def _add_triggers() -> None:
    """Count a new version of the registry when a key, its rights or an account changes."""
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    if is_postgresql:
        op.execute(
            "CREATE FUNCTION registry_changes() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" {_CHANGES}; RETURN NULL; END $$"
        )
    for table in ("producers", "accounts"):
        if is_postgresql:
            op.execute(
                f"CREATE TRIGGER registry_changes AFTER INSERT OR UPDATE OR DELETE ON {table}"
                " FOR EACH STATEMENT EXECUTE FUNCTION registry_changes()"
            )
            continue
        for change in ("insert", "update", "delete"):
            op.execute(
                f"CREATE TRIGGER registry_changes_{table}_{change} AFTER {change.upper()}"
                f" ON {table} BEGIN {_CHANGES}; END"
            )


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER registry_changes ON accounts")
    else:
        for change in ("insert", "update", "delete"):
            op.execute(f"DROP TRIGGER registry_changes_accounts_{change}")
    op.drop_index("ix_dead_letters_signature")
    op.drop_column("dead_letters", "signature")
    op.drop_column("batches", "producer")
    for name in ("only_own_recipients", "signature_window_s", "signatures"):
        op.drop_column("accounts", name)
    for table in ("unauthenticated", "issued", "registry", "producers"):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION registry_changes()")
