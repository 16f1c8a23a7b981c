"""With limits of seconds, the running system deletes what is old, and keeps answering."""

from sqlalchemy import ColumnElement, Table, func, select, true

from card_worker.storage.engine import reading
from card_worker.storage.tables import dead_letters, jobs, outbox, pin_attempts
from tests.flow.processes import until
from tests.flow.system import System, card, envelope

KEPT = {f"KEEP_{name}_S": "1" for name in ("EVENTS", "PIN_ATTEMPTS", "DEAD_LETTERS", "JOBS")}
ROUNDS, CARDS = 3, 40
MONEY = {"amount": 1, "currency": "NOK"}


def left(system: System) -> dict[str, int]:
    """Return how much there is of what is deleted when it is old."""
    counted: dict[str, tuple[Table, ColumnElement[bool]]] = {
        "events": (outbox, outbox.c.event.startswith('{"specversion"')),
        "attempts": (pin_attempts, true()),
        "letters": (dead_letters, true()),
        "jobs": (jobs, true()),
    }
    with reading(system.engine) as connection:
        return {
            name: connection.execute(
                select(func.count()).select_from(table).where(condition)
            ).scalar_one()
            for name, (table, condition) in counted.items()
        }


def test_old_rows_reach_a_plateau(own: System) -> None:
    own.sql("UPDATE retention SET minimum_s = 0")
    settings = {"SWEEP_INTERVAL_S": "0.5", "EVENT_STREAM_KEEP_S": "1"}
    for part in ("worker", "relay", "beat"):
        own.start(part, **KEPT, **settings)
    for number in range(ROUNDS):
        for place in range(CARDS):
            own.send("cards.create", f"sale-{number}-{place}", **card(f"card-{number}-{place}"))
        order = {"batch_id": f"b{number}", "count": 3, "card_id_pattern": f"o{number}-{{n:04d}}"}
        own.send("cards.batch_create", f"order-{number}", **order)
        # There is no such token, and so no PIN to be compared.
        paid = {"token": "T", "pin": "1234", "ref_id": f"r{number}", **MONEY}
        own.send("transactions.create", f"paid-{number}", **paid)
        own.push(envelope("cards.burn", f"unknown-{number}"))
        letter = own.letter(f"unknown-{number}")
        assert own.cli("dead-letters", "drop", str(letter.id)).exit_code == 0
        until(lambda: not any(left(own).values()), "the deletion of all that is old")
    assert own.rows()["cards"] == ROUNDS * (CARDS + 3)
    own.send("cards.create", "sale-0-0", **card("card-0-0"))
    until(lambda: own.types("sale-0-0") and repeats(own) == 1, "the answer of an old command")
    assert own.rows()["cards"] == ROUNDS * (CARDS + 3)
    assert own.cli("reconcile").exit_code == 0
    assert own.redis.xlen("card-events") < ROUNDS * CARDS


def repeats(system: System) -> int:
    return sum(each["type"] == "command.repeated" for each in system.stream())
