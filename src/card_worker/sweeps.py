"""Sweeps: commands for the cards, holds and orders whose time has passed. They are idempotent."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, NamedTuple, TypeAlias, TypeVar
from uuid import UUID

import structlog
from pydantic import Field
from sqlalchemy import Connection, Engine

from card_worker.contracts import keys
from card_worker.contracts.batches import APPROVAL_WITHIN, LapseBatch
from card_worker.contracts.commands import Command, event_id
from card_worker.contracts.enums import EventType
from card_worker.contracts.internal import SweptCard, SweptHold
from card_worker.defects import report
from card_worker.domain.answers import Answer
from card_worker.domain.rows import Hold
from card_worker.handler import handle
from card_worker.storage.attempts import delete_attempts
from card_worker.storage.batches import find_unapproved
from card_worker.storage.due import After, DueCard, due_cards, due_holds
from card_worker.storage.engine import SHORT_LOCK_TIMEOUT_MS, begin, try_lock
from card_worker.storage.errors import is_lock_timeout, is_retryable
from card_worker.storage.retention import Kind, prune

SLICE_ROWS = 1_000
SLICES_MAX = 20
"""Maximum of slices that one sweep changes; the next sweep continues."""
LAPSING_MAX = 100
"""Maximum of orders that one sweep cancels; the next sweep continues."""
ATTEMPTS_KEPT = timedelta(days=1)
"""How long it is kept how many attempts a source has made: for operators, and for the limit."""

Row = TypeVar("Row", DueCard, Hold)
FindDue: TypeAlias = Callable[[Connection, datetime, int, After | None], Sequence[Row]]
"""A query for rows that are due: (connection, time, maximum of rows, last row before) → rows."""


class Place(NamedTuple):
    """The progress of a sweep."""

    swept: Annotated[int, Field(ge=0)] = 0
    """Number of rows changed so far."""
    expires_at: datetime | None = None
    id: UUID | None = None
    """With `expires_at`, the last row that was read."""

    @property
    def after(self) -> After | None:
        if self.expires_at is None or self.id is None:
            return None
        return self.expires_at, self.id


BEGIN = Place()


class Swept(NamedTuple):
    """The outcome of a slice of a sweep."""

    changed: int
    """Number of rows."""
    following: Place | None
    """The place where the next slice begins; None if the sweep has ended."""


_EXPIRE = SweptCard(account_id="T00000000", card_id="-", command_id="-", originated_by="sweep")

log = structlog.get_logger(__name__)


def lapse_orders(engine: Engine) -> int:
    """Cancel orders that were not approved in time, each in its own commit; return their number.

    An order that is locked, or cannot be cancelled, does not stop the others.
    """
    with begin(engine, writing=False) as (connection, now):
        due = find_unapproved(connection, now - APPROVAL_WITHIN, batches_max=LAPSING_MAX)
    return sum(_do_alone(engine, _lapse(*key), now, row=key[1]) for key in due)


def delete_old(engine: Engine, kept_s: Mapping[str, int], place: Place = BEGIN) -> Swept:
    """Delete a slice of what is older than `kept_s`, in a commit for each kind.

    It ends when nothing is left, or SLICES_MAX slices were deleted.
    """
    changed, is_full = 0, False
    for name, seconds in kept_s.items():
        with begin(engine) as (connection, now):
            rows = prune(connection, Kind(name), now - timedelta(seconds=seconds), SLICE_ROWS)
        changed, is_full = changed + rows, is_full or rows >= SLICE_ROWS
        if rows:
            log.info("old rows deleted", what=name, rows=rows)
    swept = place.swept + changed
    is_last = not is_full or swept >= SLICES_MAX * SLICE_ROWS
    return Swept(changed, None if is_last else Place(swept))


def _lapse(account_id: str, batch_id: str) -> LapseBatch:
    return LapseBatch(
        account_id=account_id,
        batch_id=batch_id,
        # A batch_id can be longer than any command_id.
        command_id=f"lapse-{event_id(account_id, keys.internal(batch_id))}",
        originated_by="sweep",
        reason=f"not approved within {APPROVAL_WITHIN.days} days",
    )


def forget_attempts(engine: Engine) -> None:
    """Delete how many attempts there were more than a day ago."""
    with begin(engine) as (connection, now):
        delete_attempts(connection, now - ATTEMPTS_KEPT)


def _sweep(
    name: str,
    find_due: FindDue[Row],
    command_for: Callable[[Row], Command],
    engine: Engine,
    place: Place = BEGIN,
    *,
    slice_rows: int = SLICE_ROWS,
) -> Swept:
    """Handle a slice of the rows that are due, in one commit.

    If the commit fails because of a defect or a locked row, each row gets a commit of its own, and
    rows that cannot be changed are skipped.

    A sweep ends when it has read all rows that are due, or has changed SLICES_MAX slices of rows.
    One process at a time does it. Rules do not depend on sweeps: a card expires at its time, swept
    or not.
    """
    rows: Sequence[Row] = ()
    try:
        with begin(engine) as (connection, now):
            if not try_lock(connection, name):
                return Swept(0, None)
            rows = find_due(connection, now, slice_rows, place.after)
            answers = handle(connection, [command_for(row) for row in rows], now)
        changed = _changed(rows, answers)
    except Exception as defect:
        if _ends_sweep(defect) or not rows:
            raise
        changed = sum(_do_alone(engine, command_for(row), now, row=str(row.id)) for row in rows)
    if changed:
        log.info("swept", what=name, rows=changed)
    swept = place.swept + changed
    if len(rows) < slice_rows or swept >= SLICES_MAX * slice_rows:
        return Swept(changed, None)
    last = rows[-1]
    return Swept(changed, Place(swept, last.expires_at, last.id))


def _do_alone(engine: Engine, command: Command, at: datetime, *, row: str) -> bool:
    """Handle a command for the row `row` in its own commit; return whether it was done.

    `at` is when the row was found to be due. Raises errors that end the whole sweep.
    """
    try:
        with begin(engine, lock_timeout_ms=SHORT_LOCK_TIMEOUT_MS) as (connection, now):
            # If the clock was set back since then, the command would be refused for ever.
            (answer,) = handle(connection, [command], max(now, at))
    except Exception as defect:
        if _ends_sweep(defect):
            raise
        log.warning("row not swept", row=row, error=type(defect).__name__)
        if not is_lock_timeout(defect):
            report(defect)
        return False
    return answer.type is not EventType.COMMAND_REJECTED


def _ends_sweep(error: Exception) -> bool:
    return is_retryable(error) and not is_lock_timeout(error)


def _changed(rows: Sequence[Row], answers: Sequence[Answer]) -> int:
    """Return the number of changed rows. Expiring a hold expires all that are due on its card."""
    done = {
        row.card
        for row, answer in zip(rows, answers, strict=True)
        if answer.type is not EventType.COMMAND_REJECTED
    }
    return sum(row.card in done for row in rows)


# The idempotency key depends on the row only, so sweeping it again changes nothing.


def _expire_card(card: DueCard) -> SweptCard:
    ids = {"account_id": card.account_id, "card_id": card.card_id}
    # A copy is not validated again: these ids are valid.
    return _EXPIRE.model_copy(update={**ids, "command_id": f"expire-{card.id}-{card.version}"})


def _expire_hold(hold: Hold) -> SweptHold:
    return SweptHold(
        account_id=hold.account_id,
        transaction_id=hold.id,
        command_id=f"expire-{hold.id}",
        originated_by="sweep",
    )


expire_cards = partial(_sweep, "cards", due_cards, _expire_card)
"""Expire a slice of the cards whose time has passed: (engine, place, *, slice_rows) → Swept."""
expire_holds = partial(_sweep, "holds", due_holds, _expire_hold)
"""Expire a slice of the holds whose time has passed: (engine, place, *, slice_rows) → Swept."""
