"""Rows are found by keys, also where PostgreSQL's statistics call a table small.

A table that an order fills was counted when it was small, if it ever was.
"""

from typing import Any

from sqlalchemy import Connection, text

from card_worker.storage import outbox
from card_worker.storage.engine import begin, open_engine, reading
from card_worker.storage.repeats import first_repeats
from tests.codes import SEAL_TO
from tests.orders import Orders

LOAD = {"amount": 500, "currency": "NOK"}
TOKENS: dict[str, Any] = {"options": {"card_token": {}}, **SEAL_TO}
CARDS = 3_000


def test_no_commit_reads_a_whole_table(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    orders = Orders(engine)
    orders.order(3, "B0", **TOKENS)
    orders.work()
    with reading(engine) as connection:
        connection.execute(text("ANALYZE"))
        connection.commit()
    orders.order(CARDS, **TOKENS)
    orders.work()
    rows = orders.opened(orders.file())
    engine.dispose()  # a connection remembers what it read before
    with begin(engine) as (connection, now):
        orders.handle(connection, now, "cards.activate", "on", card_id="B1-0001", **LOAD)
        paid = {"token": rows[0]["token"], "ref_id": "pay", **LOAD}
        orders.handle(connection, now, "transactions.create", "pay", **paid)
        assert read_whole(connection) == {}
    engine.dispose()
    with begin(engine) as (connection, _):
        assert len(outbox.first_unpublished(connection, 2)) == 2
        assert read_whole(connection) == {}
    engine.dispose()
    with begin(engine) as (connection, _):
        assert first_repeats(connection, 2) == []
        read = "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_xact_user_tables"
        assert not connection.execute(text(f"{read} WHERE relname = 'outbox'")).scalar()
    engine.dispose()


def read_whole(connection: Connection) -> dict[str, int]:
    """Return how many rows of which tables a new connection has read one after the other."""
    statement = "SELECT relname, seq_tup_read FROM pg_stat_xact_user_tables WHERE seq_tup_read > 0"
    return {row.relname: row.seq_tup_read for row in connection.execute(text(statement))}
