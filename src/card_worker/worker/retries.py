"""Database work that is retried until it succeeds or the worker stops."""

from collections.abc import Callable
from functools import partial
from time import monotonic, sleep
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from card_worker.pauses import Pauses, keep_trying
from card_worker.storage.errors import is_lock_timeout, is_retryable, needs_operator, retry_races

PAUSE_S_MAX = 5.0
STOP_CHECK_S = 0.1

Done = TypeVar("Done")


class Interrupted(Exception):
    """The worker was told to stop while the database was unavailable."""


class Blocked(Exception):
    """Another session has locked a row for longer than the lock timeout."""


class Retries:
    """Retries work without limit if the database is the cause of its failure.

    `stopping` says whether the worker has been told to stop.
    """

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self._stopping = stopping

    def run(
        self, work: Callable[[], Done], *, gives_up: Callable[[Exception], bool] = lambda _: False
    ) -> Done:
        """Do `work` until it succeeds. Raises its error if the database is not the cause, or if
        `gives_up` is true for it.

        Raises Interrupted if the worker is told to stop meanwhile, and Blocked if another session
        holds a row for longer than the lock timeout.
        """

        def is_transient(error: Exception) -> bool:
            return is_retryable(error) and not is_lock_timeout(error) and not gives_up(error)

        try:
            return keep_trying(
                partial(retry_races, work),
                "database unavailable",
                pauses=Pauses(first_s=0.1, max_s=PAUSE_S_MAX),
                is_retryable=is_transient,
                is_alarming=needs_operator,
                wait=self.wait,
            )
        except DBAPIError as error:
            if is_lock_timeout(error):
                raise Blocked from error
            raise

    def wait(self, seconds: float) -> None:
        """Wait. Raises Interrupted if the worker is told to stop meanwhile."""
        until = monotonic() + seconds
        while monotonic() < until:
            if self._stopping():
                raise Interrupted
            sleep(min(STOP_CHECK_S, seconds))
