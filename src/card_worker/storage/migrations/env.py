"""How Alembic reaches the database: over the connection that `upgrade` hands it."""

from alembic import context

from card_worker.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
