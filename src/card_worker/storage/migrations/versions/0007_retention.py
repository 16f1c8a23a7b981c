"""Events that are to be published again; rows that are deleted when they are old."""

import sqlalchemy as sa
from alembic import op

from card_worker.storage.types import Flag, WholeNumber

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

MINIMUM_S = 7 * 86_400
INDEXES = {
    "ix_unpublished_again": ("unpublished", "position", "again"),
    "ix_pin_attempts_created_at": ("pin_attempts", "created_at", "outcome = 'cleared'"),
    "ix_dead_letters_resolved_at": ("dead_letters", "resolved_at", "resolved_at IS NOT NULL"),
    "ix_jobs_ended_at": ("jobs", "ended_at", "ended_at IS NOT NULL"),
}
"""Each with its table, its column, and the condition of its rows."""
_SEQUENCE = "substr(event, length(event) - 33, 34)"
_DATA = "CAST(event AS json) #> '{{data,{}}}'"
# An event that waits to be published is kept, and all later ones.
PRUNE = f"""
CREATE FUNCTION prune(what text, older_than timestamptz, rows_max integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = SCHEMA, pg_temp AS $$
DECLARE
    kept retention%ROWTYPE;
    age_from timestamptz;
    upto bigint;
    pruned bigint := 0;
BEGIN
    SELECT * INTO STRICT kept FROM retention WHERE name = what FOR UPDATE;
    age_from := least(older_than, clock_timestamp() - make_interval(secs => kept.minimum_s));
    CASE what
    WHEN 'events' THEN
        SELECT coalesce(min(position) FILTER (WHERE NOT is_old) - 1, max(position)) INTO upto
        FROM (SELECT position, created_at < age_from
                AND NOT EXISTS (SELECT 1 FROM unpublished WHERE position = outbox.position)
                AND NOT EXISTS (SELECT 1 FROM repeats WHERE event_id = outbox.id) AS is_old
            FROM outbox WHERE position > kept.position ORDER BY position LIMIT rows_max) AS next;
        UPDATE outbox SET event = '{{"command":' || ({_DATA.format("command")})
            || CASE WHEN {_DATA.format("dry_run")} IS NULL THEN '' ELSE ',"dry_run"\\:true' END
            || CASE WHEN {_SEQUENCE} LIKE '"sequence":"%' THEN ',' || {_SEQUENCE} ELSE '}}' END
        WHERE position > kept.position AND position <= upto;
        GET DIAGNOSTICS pruned = ROW_COUNT;
        UPDATE retention SET position = upto WHERE name = what AND position < upto;
    WHEN 'pin_attempts' THEN
        DELETE FROM pin_attempts WHERE id IN (SELECT id FROM pin_attempts
            WHERE outcome = 'cleared' AND created_at < age_from ORDER BY created_at LIMIT rows_max);
        GET DIAGNOSTICS pruned = ROW_COUNT;
    WHEN 'dead_letters' THEN
        DELETE FROM dead_letters WHERE id IN (SELECT id FROM dead_letters
            WHERE resolved_at < age_from ORDER BY resolved_at LIMIT rows_max);
        GET DIAGNOSTICS pruned = ROW_COUNT;
    WHEN 'jobs' THEN
        WITH gone AS (DELETE FROM jobs WHERE id IN (SELECT id FROM jobs
                WHERE ended_at < age_from ORDER BY ended_at LIMIT rows_max)
            RETURNING account_id, batch_id),
        counted AS (SELECT account_id, batch_id, count(*) AS jobs FROM gone GROUP BY 1, 2),
        changed AS (UPDATE batches SET pruned_jobs = pruned_jobs + counted.jobs FROM counted
            WHERE batches.account_id = counted.account_id AND batches.batch_id = counted.batch_id)
        SELECT count(*) INTO pruned FROM gone;
    END CASE;
    RETURN pruned;
END $$"""  # noqa: S608  # the SQL is made of constants


def upgrade() -> None:
    again: sa.Column[bool] = sa.Column("again", Flag, nullable=False, server_default=sa.false())
    op.add_column("unpublished", again)
    _insert_unpublished("unpublished (position)")
    pruned: sa.Column[int] = sa.Column(
        "pruned_jobs", WholeNumber, nullable=False, server_default="0"
    )
    op.add_column("batches", pruned)
    for name, (table, column, condition) in INDEXES.items():
        only = sa.text(condition)
        op.create_index(name, table, [column], postgresql_where=only, sqlite_where=only)
    retention = op.create_table(
        "retention",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("minimum_s", WholeNumber, nullable=False),
        sa.Column("position", WholeNumber, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("name", name="pk_retention"),
        sqlite_strict=True,
    )
    names = ("events", "pin_attempts", "dead_letters", "jobs")
    op.bulk_insert(retention, [{"name": name, "minimum_s": MINIMUM_S} for name in names])
    if op.get_bind().dialect.name == "postgresql":
        schema = "SELECT quote_ident(current_schema())"
        op.execute(PRUNE.replace("SCHEMA", op.get_bind().scalar(sa.text(schema))))
        op.execute("REVOKE ALL ON FUNCTION prune(text, timestamptz, integer) FROM PUBLIC")


def _insert_unpublished(into: str) -> None:
    """Replace SQLite's trigger of the outbox, which inserts a row with all its columns."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER insert_unpublished")
        op.execute(
            "CREATE TRIGGER insert_unpublished AFTER INSERT ON outbox"  # noqa: S608
            f" BEGIN INSERT INTO {into} VALUES (new.position); END"
        )


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION prune(text, timestamptz, integer)")
    op.drop_table("retention")
    for name in INDEXES:
        op.drop_index(name)
    op.drop_column("batches", "pruned_jobs")
    op.drop_column("unpublished", "again")
    _insert_unpublished("unpublished")
