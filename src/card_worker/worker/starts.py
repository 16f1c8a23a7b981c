"""Counted starts of messages that may be what kills their workers.

Failures of counting are never caused by a message.
"""

from collections.abc import Callable, Sequence

import structlog
from sqlalchemy import Connection, Engine

from card_worker.pauses import described
from card_worker.storage.engine import SHORT_LOCK_TIMEOUT_MS, begin
from card_worker.storage.errors import bookkeeping
from card_worker.storage.starts import Start, count_starts, forget_starts, uncount_starts
from card_worker.worker.messages import Message, start_key

STARTS_MAX = 5

log = structlog.get_logger(__name__)


class Starts:
    """Counts starts of messages in the database.

    A start that the worker itself has broken off does not count.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def count(self, messages: Sequence[Message], *, failed: bool = False) -> list[int]:
        """Count a start of each message before it is started; return the number of starts of each.

        `failed` says that the last start of each ended with a defect. Raises BookkeepingError.
        """
        started = [Start(start_key(each.id, each.body), each.deaths) for each in messages]
        with bookkeeping(), begin(self._engine) as (connection, now):
            return count_starts(connection, started, now, failed=failed)

    def has_left(self, message: Message, *, failed: bool = False) -> bool:
        """Count one more start; say whether it is within STARTS_MAX. Raises BookkeepingError."""
        (starts,) = self.count([message], failed=failed)
        return starts < STARTS_MAX

    def take_back(self, messages: Sequence[Message]) -> None:
        """Do not count the last start of each message, which was blocked by a lock."""
        self._change(uncount_starts, messages)

    def forget(self, messages: Sequence[Message]) -> None:
        """Delete the counts of messages that are done."""
        self._change(forget_starts, messages)

    def _change(
        self, change: Callable[[Connection, Sequence[str]], None], messages: Sequence[Message]
    ) -> None:
        if not messages:
            return
        try:
            with begin(self._engine, lock_timeout_ms=SHORT_LOCK_TIMEOUT_MS) as (connection, _):
                change(connection, [start_key(message.id, message.body) for message in messages])
        except Exception as error:
            # One start too many is counted; a message that is done is not started again.
            log.warning("start counts not updated", **described(error))
