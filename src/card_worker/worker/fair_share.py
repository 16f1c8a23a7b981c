"""Fair share of the database: jobs (low priority) leave time to commands whose senders wait.

While commands of others are answered, a job takes a tenth of the time of one worker: after each
piece of work it is throttled for nine times as long.
"""

from collections.abc import Callable
from time import sleep

from sqlalchemy import Engine

from card_worker.contracts.enums import EventType
from card_worker.storage import outbox
from card_worker.storage.engine import reading

LOW_PRIORITY = 9
"""The priority of messages that are taken after all others (Celery: 0 is the highest)."""
THROTTLE_FACTOR = 9.0
"""How many times as long as a piece of work took its worker is throttled."""
SLEEP_S_MAX = 5.0
"""Maximum for a pause within a commit; PostgreSQL ends a session that is idle for IDLE_MAX_S."""
JOB_EVENTS = frozenset(
    [
        *(type for type in EventType if type.startswith("batch.")),
        *(EventType.CARD_BLOCKED, EventType.CARD_UNBLOCKED, EventType.CARD_CLOSED),
        *(EventType.CARD_UPDATED, EventType.COMMAND_REJECTED),
    ]
)
"""Events that jobs emit, too. All others show that a command was answered."""


class FairShare:
    """Decides how long jobs are throttled in this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._newest: int | None = None
        """Position of the newest event when this was last checked."""
        self._is_shared = False
        """Whether commands were answered since then, by any process."""
        self._answers_commands = False
        """Whether this process answered them."""
        self._pieces_s: list[float] = []
        """Seconds of work before each pause within the current chunk."""

    def note_commands(self) -> None:
        """Note that this process has answered commands."""
        self._answers_commands = True

    def throttle(self) -> Callable[[float], None] | None:
        """Return the function to call between pieces of a chunk, with the seconds of the last one.

        None if no piece needs a pause. On SQLite, which has one transaction at a time, a pause
        within a commit would block the commands for which it is made.
        """
        is_used = self._is_shared and self._engine.dialect.name == "postgresql"
        return self._throttle if is_used else None

    def _throttle(self, seconds: float) -> None:
        # Commands of this worker wait for the chunk itself: a pause would only delay them.
        if not self._answers_commands:
            self._pieces_s.append(seconds)
            sleep(min(seconds * THROTTLE_FACTOR, SLEEP_S_MAX))

    def throttle_s(self, seconds: float) -> float:
        """Return how long to take no further chunk after one that took `seconds`."""
        self._is_shared = self._check_shared()
        if self._pieces_s:
            # Only the last piece was not followed by a pause.
            seconds, self._pieces_s = self._pieces_s[-1], []
        self._answers_commands = self._answers_commands and self._is_shared
        return seconds * THROTTLE_FACTOR if self._is_shared else 0.0

    def _check_shared(self) -> bool:
        """Say whether any process has answered commands since the last check."""
        with reading(self._engine) as connection:
            before, self._newest = self._newest, outbox.newest_position(connection)
            return before is not None and outbox.has_events(
                connection, before, except_types=JOB_EVENTS
            )
