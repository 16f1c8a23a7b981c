"""How often a message was started that may be what kills its worker.

A failure here is no message's fault.
"""

from collections.abc import Callable, Sequence

import structlog
from sqlalchemy import Connection, Engine

from card_worker.pauses import described
from card_worker.storage import dead_letters
from card_worker.storage.dead_letters import Start
from card_worker.storage.engine import LOCK_TIMEOUT_AGAIN_MS, begin
from card_worker.storage.errors import own_fault
from card_worker.worker.messages import Message, start_key

STARTS_MAX = 5

log = structlog.get_logger(__name__)


class Starts:
    """The starts of messages, as the database has them.

    A start counts unless the worker itself has broken it off: the next one then takes its place.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def count(self, messages: Sequence[Message], *, failed: bool = False) -> list[int]:
        """Note that messages are about to be started; return how many starts of each count.

        `failed` says that the last start of each ended by a defect. Raises OwnFault.
        """
        noted = [Start(start_key(one.id, one.body), one.deaths) for one in messages]
        with own_fault(), begin(self._engine) as (connection, now):
            return dead_letters.count_starts(connection, noted, now, failed=failed)

    def has_left(self, message: Message, *, failed: bool = False) -> bool:
        """Note one more start; say whether the message may still have it. Raises OwnFault."""
        (starts,) = self.count([message], failed=failed)
        return starts < STARTS_MAX

    def take_back(self, messages: Sequence[Message]) -> None:
        """Take back a start that came to nothing without the message's fault."""
        self._change(dead_letters.uncount_starts, messages)

    def forget(self, messages: Sequence[Message]) -> None:
        """Count no more starts of messages that are done."""
        self._change(dead_letters.forget_starts, messages)

    def _change(
        self, change: Callable[[Connection, Sequence[str]], None], messages: Sequence[Message]
    ) -> None:
        if not messages:
            return
        try:
            with begin(self._engine, lock_timeout_ms=LOCK_TIMEOUT_AGAIN_MS) as (connection, _):
                change(connection, [start_key(message.id, message.body) for message in messages])
        except Exception as error:
            # A start too many is counted; a message that is done isn't started again.
            log.warning("starts not noted", **described(error))
