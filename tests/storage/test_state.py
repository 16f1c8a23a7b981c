"""The state that the database holds for all processes, as metrics and operators see it."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import Engine, update
from sqlalchemy.exc import DBAPIError

from card_worker.contracts.dead_letters import DeadLetterReason
from card_worker.storage import dead_letters, leases
from card_worker.storage.dead_letters import DeadLetter
from card_worker.storage.engine import begin, open_engine
from card_worker.storage.roles import Role
from card_worker.storage.state import read_database
from card_worker.storage.tables import batches, cards, holds
from tests.codes import plain_issuer
from tests.servers import role_urls
from tests.storage.populated import Teller


@pytest.fixture
def as_worker(engine: Engine) -> Iterator[Engine]:
    """The database as the login of a worker sees it."""
    url = engine.url.render_as_string(hide_password=False)
    as_worker = open_engine(role_urls(url).get(Role.WORKER, url))
    yield as_worker
    as_worker.dispose()


def test_an_empty_database_has_nothing_to_do(as_worker: Engine) -> None:
    state = read_database(as_worker, statement_s_max=5)
    assert state[1:] == (0, None, None, {}, 0, 0, 0, 0, 0)


def test_all_that_waits_is_counted(engine: Engine, as_worker: Engine) -> None:
    teller = Teller(engine, plain_issuer())
    later = {"active_from": teller.now, "expires_at": teller.now + timedelta(days=1)}
    for card_id in ("due", "not-due", "with-hold"):
        teller.done("cards.create", card_id=card_id, amount=1_000, currency="NOK", **later)
    teller.move("with-hold", "held", pending=True, hold_expires_in=60)
    teller.done("cards.batch_create", batch_id="o", count=3, card_id_pattern="o-{n:03d}")
    with begin(engine) as (connection, now):
        due = now - timedelta(hours=1)
        connection.execute(update(cards).where(cards.c.card_id == "due").values(expires_at=due))
        connection.execute(update(holds).values(expires_at=due))
        connection.execute(update(batches).values(last_error="no space"))
        for number in range(3):
            found = DeadLetter(
                received_at=now,
                queue="cards",
                message_id=f"m{number}",
                reason=DeadLetterReason.TASK_UNKNOWN,
                body=b"?",
            )
            dead_letters.add(connection, found)
        dead_letters.resolve(connection, 1, now, "dropped")
        assert leases.take(connection, leases.RELAY, "here", at=0.0, position=1)
    state = read_database(as_worker, statement_s_max=5)
    assert state.unpublished == 4  # the first of five is published, says the relay
    assert state.oldest_unpublished is not None
    assert state.relay is not None
    assert (state.relay.holder, state.relay.position) == ("here", 1)
    assert state.dead_letters == {DeadLetterReason.TASK_UNKNOWN: 2}
    assert (state.cards_due, state.holds_due) == (1, 1)
    assert (state.jobs_running, state.jobs_in_trouble) == (1, 1)
    assert state.files_unwritten == 0


def test_a_statement_that_takes_too_long_is_an_error(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    with engine.begin() as other:
        other.exec_driver_sql("LOCK TABLE dead_letters")
        with pytest.raises(DBAPIError, match="timeout"):
            read_database(engine, statement_s_max=0.2)
    engine.dispose()
