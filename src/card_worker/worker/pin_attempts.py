"""PIN attempts are recorded in a commit of their own, before any of the PINs is compared."""

from collections.abc import Sequence

from sqlalchemy import Engine

from card_worker.contracts.commands import Command
from card_worker.contracts.queries import Look
from card_worker.storage.engine import LOCK_TIMEOUT_MS, begin
from card_worker.storage.errors import own_fault
from card_worker.storage.pin_attempts import guessing, note_guesses


def record_attempts(
    engine: Engine, requests: Sequence[Command | Look], lock_timeout_ms: int = LOCK_TIMEOUT_MS
) -> None:
    """Record the PIN attempts among commands or queries. Raises OwnFault."""
    if guessing(requests):
        with own_fault(), begin(engine, lock_timeout_ms=lock_timeout_ms) as (connection, now):
            note_guesses(connection, requests, now)
