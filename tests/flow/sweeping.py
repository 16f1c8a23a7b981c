"""Runs sweeps from beginning to end, slice by slice as workers do."""

from typing import Protocol

from sqlalchemy import Engine

from card_worker import sweeps
from card_worker.sweeps import BEGIN, SLICE_ROWS, Place, Swept


class Sweep(Protocol):
    def __call__(self, engine: Engine, place: Place, *, slice_rows: int) -> Swept: ...


def expire_cards(engine: Engine, *, slice_rows: int = SLICE_ROWS) -> int:
    """Sweep cards; return how many were changed."""
    return _sweep_all(engine, sweeps.expire_cards, slice_rows)


def expire_holds(engine: Engine, *, slice_rows: int = SLICE_ROWS) -> int:
    """Sweep holds; return how many were changed."""
    return _sweep_all(engine, sweeps.expire_holds, slice_rows)


def _sweep_all(engine: Engine, sweep: Sweep, slice_rows: int) -> int:
    changed, place = 0, BEGIN
    while True:
        swept = sweep(engine, place, slice_rows=slice_rows)
        changed += swept.changed
        if swept.following is None:
            return changed
        place = swept.following
