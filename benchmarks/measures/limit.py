"""`handle` by itself, beside one statement that writes as much with nobody outside to talk to."""

import time
from collections.abc import Callable
from functools import partial

import psycopg

from benchmarks.commands import command
from benchmarks.programs import Failed
from benchmarks.results import Result, compare
from benchmarks.rounds import Size, Speed, interleaved
from benchmarks.stage import Place, Stage
from card_worker.contracts.cards import ActivateCard
from card_worker.handler import handle
from card_worker.storage.engine import begin, open_engine
from card_worker.worker.grouping import spare_cycle_search

ROWS = 50_000
GROUP = 1_000

# The same rows in the same four tables, byte for byte as wide: the event is one that `handle` wrote
# for number 0, with the other numbers put into it.
_WRITE_ALL = """
WITH changed AS (
    UPDATE cards SET state = 'active', currency = 'NOK', amount = 50000, active_from = now(),
        version = version + 1, amount_funds = 50000, amount_balance = 50000
    FROM generate_series(0, %(rows)s::int - 1) AS number
    WHERE account_id = %(account)s AND card_id = 'card-' || number
    RETURNING number, cards.*
), moved AS (
    INSERT INTO transactions (id, account_id, card, type, amount, currency, debit, credit,
        created_at, balance_before, balance_after, version)
    SELECT md5('moved' || id)::uuid, account_id, id, 'fund', amount, currency, 'issuer', 'card',
        now(), 0, amount_balance, version FROM changed
), known AS (
    INSERT INTO idempotency_keys (account_id, key, digest, event_id, created_at)
    SELECT account_id, 'id/sale-' || number, repeat(md5(card_id), 2), md5('event' || id)::uuid,
        now() FROM changed
)
INSERT INTO outbox (id, account_id, type, subject, partition_key, event, created_at)
SELECT md5('event' || id)::uuid, account_id, 'card.activated', card_id,
    account_id || '/' || card_id,
    replace(replace(%(event)s, 'card-0', card_id), 'sale-0', 'sale-' || number),
    now() FROM changed
"""


def run(stage: Stage, size: Size) -> list[Result]:
    """Compare commands per second, each over one connection."""
    rows = max(GROUP, size.of(ROWS))
    event = _event_of_number_0(stage)
    play = {
        "handle": partial(_turn, stage, rows, event, _handle_all),
        "limit": partial(_turn, stage, rows, event, partial(_write_all, event=event)),
    }
    speed = interleaved(play, size.rounds)
    name = "handle, 1,000 a group / one statement for all"
    return [compare(name, speed["handle"], speed["limit"], "commands/s", at_least=0.5)]


def _turn(stage: Stage, rows: int, event: str, write: Callable[[Place, int], float]) -> Speed:
    with stage.place(cards=rows) as place:
        speed = Speed(rows / write(place, rows))
        _verify(place, rows, event)
        return speed


def _event_of_number_0(stage: Stage) -> str:
    with stage.place(cards=GROUP) as place:
        _handle_all(place, GROUP)
        with psycopg.connect(place.database_url) as connection:
            found = connection.execute("SELECT event FROM outbox WHERE subject = 'card-0'")
            row = found.fetchone()
    assert row is not None
    return str(row[0])


def _handle_all(place: Place, rows: int) -> float:
    """Handle one command a card, in groups; return the seconds that took."""
    commands = [ActivateCard.model_validate(command(number)) for number in range(rows)]
    spare_cycle_search()  # as a worker does when it starts
    engine = open_engine(place.database_url)
    engine.connect().close()  # so that connecting isn't counted
    place.settle()
    started = time.perf_counter()
    for start in range(0, rows, GROUP):
        with begin(engine) as (connection, now):
            handle(connection, commands[start : start + GROUP], now)
    seconds = time.perf_counter() - started
    engine.dispose()
    return seconds


def _write_all(place: Place, rows: int, event: str) -> float:
    """Write the same with one statement; return the seconds that took."""
    values = {"rows": rows, "account": command(0)["account_id"], "event": event}
    place.settle()
    with psycopg.connect(place.database_url, autocommit=True) as connection:
        started = time.perf_counter()
        connection.execute(_WRITE_ALL, values)
        return time.perf_counter() - started


def _verify(place: Place, rows: int, event: str) -> None:
    """Raise Failed unless all rows are there, and the events as wide as that of number 0."""
    done = place.done()
    if any(done[each] != rows for each in ("matching cards", "transactions", "keys", "events")):
        raise Failed(f"{done} instead of {rows} each")
    with psycopg.connect(place.database_url) as connection:
        row = connection.execute("SELECT sum(octet_length(event)) FROM outbox").fetchone()
    assert row is not None
    digits_more = sum(len(str(number)) - 1 for number in range(rows))
    numbers_in_event = event.count("card-0") + event.count("sale-0")
    if row[0] != rows * len(event) + numbers_in_event * digits_more:
        raise Failed(f"the events aren't as wide as they should be: {row[0]} bytes")
