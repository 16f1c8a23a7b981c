"""The queries of the relay."""

import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, text

from card_worker.contracts.enums import EventType
from card_worker.handler import handle
from card_worker.storage import outbox
from card_worker.storage.engine import begin, open_engine, reading
from card_worker.storage.outbox import Unpublished, Watermark
from tests.storage.statements import counting
from tests.storage.test_bulk_write import create

PUBLISHED = 2_000


def test_reading_unpublished_events_does_not_slow_down_with_old_events(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    with begin(engine) as (connection, now):
        handle(connection, create(*(f"card-{number}" for number in range(PUBLISHED))), now)
        events = outbox.first_unpublished(connection, PUBLISHED)
        assert len(events) == PUBLISHED
        outbox.mark_published(connection, events)
    with begin(engine) as (connection, now):
        handle(connection, create("new"), now)
    with reading(engine) as connection:
        connection.execute(text("ANALYZE"))
    assert _rows_read(engine) <= 2
    engine.dispose()


def _rows_read(engine: Engine) -> int:
    """Return how many rows of the outbox a query reads."""
    with reading(engine) as connection, counting(engine) as said:
        assert len(outbox.first_unpublished(connection, 500)) == 1
    return sum(
        node["Actual Rows"] * node["Actual Loops"]
        for node in _nodes(_plan(engine, said[-1]))
        if node.get("Relation Name") == "outbox"
    )


def _plan(engine: Engine, statement: str, *, above: int = 0) -> dict[str, Any]:
    """Execute a query of unpublished events; return its plan with what each step has read."""
    for name, value in (("events_max", 500), ("above", above), ("param_1", 1)):
        statement = re.sub(rf"%\({name}\)s(::\w+)?", str(value), statement)
    with reading(engine) as connection:
        ((plan,),) = connection.execute(
            text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}")
        )
    root: dict[str, Any] = plan[0]["Plan"]
    return root


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for part in plan.get("Plans", ()) for node in _nodes(part))]


# --- the watermark --------------------------------------------------------------------------------


def event(position: int) -> Unpublished:
    type = EventType.CARD_CREATED
    return Unpublished(position, UUID(int=position), "T00000001", type, "card", "{}")


def test_the_watermark_waits_for_older_transactions(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    mark = Watermark()
    with engine.connect() as first, engine.connect() as second:
        with first.begin():
            handle(first, create("first"), datetime.now(UTC))
            first.execute(text("SELECT 1"))  # the server has done all that was sent before
            with second.begin():
                handle(second, create("second"), datetime.now(UTC))
            assert _published(engine, mark, times=4) == ["second"]
            assert mark.position == 0
        assert _published(engine, mark, times=4) == ["first"]
        assert mark.position == 2
    engine.dispose()


def test_the_watermark_waits_for_transactions_above_the_newest_that_has_ended(
    postgres_url: str,
) -> None:
    engine = open_engine(postgres_url)
    mark = Watermark()
    with engine.connect() as early, engine.connect() as late:
        early.execute(TAKE_NUMBER)
        with late.begin():
            late.execute(TAKE_NUMBER)
            handle(late, create("late"), datetime.now(UTC))
            late.execute(text("SELECT 1"))  # the server has done all that was sent before
            handle(early, create("early"), datetime.now(UTC))
            early.commit()
            assert _published(engine, mark, times=4) == ["early"]
            assert mark.position == 0
        assert _published(engine, mark, times=4) == ["late"]
        assert mark.position == 2
    engine.dispose()


TAKE_NUMBER = text("SELECT pg_current_xact_id()")


def test_the_watermark_stays_below_unpublished_positions(sqlite_url: str) -> None:
    engine = open_engine(sqlite_url)
    mark = Watermark()
    with begin(engine) as (connection, _):
        mark.note(connection, 7, at=0.0)
    # Position 5 was assigned before 7 and is committed later; the sink is away.
    mark.advance([event(5)], oldest=0)
    assert mark.position == 0
    mark.advance([], oldest=0)
    assert mark.position == 7
    engine.dispose()


def test_the_watermark_moves_while_there_is_a_backlog(sqlite_url: str) -> None:
    engine = open_engine(sqlite_url)
    mark = Watermark()
    for second in range(120):
        first = 1 + 500 * second
        mark.advance([event(first + number) for number in range(500)], oldest=0)
        with begin(engine) as (connection, _):
            mark.note(connection, first + 499, at=float(second))
    assert mark.position == 500 * 119
    engine.dispose()


def _published(engine: Engine, mark: Watermark, *, times: int) -> list[str]:
    """Publish a few times; return the subjects of the events."""
    return [told.subject for _ in range(times) for told in publish(engine, mark)]


def test_events_of_a_card_keep_their_order_during_long_commits(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    mark, published = Watermark(), list[str]()

    def make(*card_ids: str) -> None:
        with begin(engine) as (connection, now):
            handle(connection, create(*card_ids), now)

    with engine.connect() as slow:
        with slow.begin():
            handle(slow, create("slow"), datetime.now(UTC))
            slow.execute(text("SELECT 1"))  # the server has done all that was sent before
            for number in range(4):
                make(f"other {number}")
                published += _published(engine, mark, times=1)
        make("later")
        published += _published(engine, mark, times=4)
    assert published == [*(f"other {number}" for number in range(4)), "slow", "later"]
    with begin(engine) as (connection, _):
        assert outbox.newest_position(connection) == mark.position
    engine.dispose()


def test_an_open_snapshot_does_not_slow_the_relay_down(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    snapshot = engine.connect().execution_options(isolation_level="REPEATABLE READ")
    mark = Watermark()
    with snapshot:
        snapshot.execute(text("SELECT count(*) FROM unpublished"))
        with begin(engine) as (connection, _):
            connection.execute(MANY, {"events": MANY_EVENTS})
        while publish(engine, mark):
            pass
        with begin(engine) as (connection, now):
            handle(connection, create("new"), now)
        with reading(engine) as connection, counting(engine) as said:
            (new,) = outbox.first_unpublished(connection, 500, above=mark.position)
        assert new.position > mark.position == MANY_EVENTS
        assert _blocks(engine, said[-1], mark.position) * 10 < _blocks(engine, said[-1], 0)
    engine.dispose()


MANY_EVENTS = 20_000
MANY = text("""
    INSERT INTO outbox (id, account_id, type, subject, partition_key, event, created_at)
    SELECT gen_random_uuid(), 'T00000001', 'card.created', n, n, '{}', now()
    FROM generate_series(1, :events) AS n
""")


def publish(engine: Engine, mark: Watermark) -> list[Unpublished]:
    """Publish the next events as a relay does, hours after those before."""
    with begin(engine) as (connection, _):
        oldest = outbox.oldest_running(connection)
        events = outbox.first_unpublished(connection, 5_000, above=mark.position)
    mark.advance(events, oldest=oldest)
    if events:
        with begin(engine) as (connection, _):
            outbox.mark_published(connection, events)
            mark.note(connection, events[-1].position, at=3_600.0 * events[-1].position)
    return events


def _blocks(engine: Engine, statement: str, above: int) -> int:
    """Return how many blocks a query reads to find unpublished positions."""
    return sum(
        node["Shared Hit Blocks"] + node["Shared Read Blocks"]
        for node in _nodes(_plan(engine, statement, above=above))
        if node.get("Relation Name") == "unpublished"
    )
