"""What time has made due, done by ordinary commands. Twice at once has the effect of once."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

import structlog
from sqlalchemy import Connection, Engine

from card_worker.contracts.commands import Command, ExpireCard, ExpireHold
from card_worker.domain.rows import Hold
from card_worker.handler import handle
from card_worker.storage.engine import begin
from card_worker.storage.locks import try_lock
from card_worker.storage.looks import DueCard, due_cards, due_holds

SLICE_ROWS = 1_000
SLICES_MAX = 20
"""A sweep ends after so many slices; what is left is the next one's."""

Row = TypeVar("Row", DueCard, Hold)

_EXPIRE = ExpireCard(account_id="T00000000", card_id="-", command_id="-", originated_by="sweep")

log = structlog.get_logger(__name__)


def expire_cards(engine: Engine, *, slice_rows: int = SLICE_ROWS) -> int:
    """Write down the expiry of cards whose time has passed; return how many."""
    return _sweep(engine, "sweep", due_cards, _expire_card, slice_rows)


def expire_holds(engine: Engine, *, slice_rows: int = SLICE_ROWS) -> int:
    """Release what holds lock whose time has passed; return how many."""
    return _sweep(engine, "sweep holds", due_holds, _expire_hold, slice_rows)


def _sweep(
    engine: Engine,
    name: str,
    due: Callable[[Connection, datetime, int, Row | None], Sequence[Row]],
    ask: Callable[[Row], Command],
    slice_rows: int,
) -> int:
    """Do what is due, slice by slice; return how many there were.

    One slice is one commit, so nobody waits for more than a slice. While one process is at a
    slice, others leave the sweep to it. The rules don't wait for the sweep: what is over is over
    when its time has passed, swept or not.
    """
    swept, last = 0, None
    for _ in range(SLICES_MAX):
        with begin(engine) as (connection, now):
            if not try_lock(connection, name):
                break
            rows = due(connection, now, slice_rows, last)
            handle(connection, [ask(row) for row in rows], now)
        swept += len(rows)
        if len(rows) < slice_rows:
            break
        last = rows[-1]
    if swept:
        log.info("swept", what=name, rows=swept)
    return swept


# The same row gives the same key: a second sweep repeats, it doesn't ask.


def _expire_card(card: DueCard) -> ExpireCard:
    named = {"account_id": card.account_id, "card_id": card.card_id}
    # Names of cards that exist needn't be checked once more.
    return _EXPIRE.model_copy(update={**named, "command_id": f"expire-{card.id}-{card.version}"})


def _expire_hold(hold: Hold) -> ExpireHold:
    return ExpireHold(
        account_id=hold.account_id,
        transaction_id=hold.id,
        command_id=f"expire-{hold.id}",
        originated_by="sweep",
    )
