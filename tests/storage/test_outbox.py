"""What the relay asks of the outbox."""

from typing import Any

from sqlalchemy import Engine, text

from card_worker.handler import handle
from card_worker.storage import outbox
from card_worker.storage.engine import begin, open_engine, reading
from tests.storage.statements import counting
from tests.storage.test_writing import create

PUBLISHED = 2_000


def test_a_look_costs_what_is_new_and_not_what_is_old(postgres_url: str) -> None:
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
    """Return how many rows of the outbox a look reads."""
    with reading(engine) as connection, counting(engine) as said:
        assert len(outbox.first_unpublished(connection, 500)) == 1
    with reading(engine) as connection:
        asked = text(f"EXPLAIN (ANALYZE, FORMAT JSON) {said[-1]}".replace("%(events_max)s", "500"))
        ((plan,),) = connection.execute(asked)
    return sum(
        node["Actual Rows"] * node["Actual Loops"]
        for node in _nodes(plan[0]["Plan"])
        if node.get("Relation Name") == "outbox"
    )


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for part in plan.get("Plans", ()) for node in _nodes(part))]
