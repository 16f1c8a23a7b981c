"""Retries with growing pauses, and their log lines."""

import random
from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeVar

import structlog
from redis.exceptions import RedisError
from sqlalchemy.exc import OperationalError

from card_worker import metrics
from card_worker.health import note_progress

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class Pauses:
    """Pauses that double from `first_s` to `max_s` seconds, each randomly shortened by up to half.

    They start again with `first_s` if no failure came within `stable_s` after a pause.
    """

    def __init__(self, *, first_s: float, max_s: float, stable_s: float = 5.0) -> None:
        self._first_s, self._max_s, self._stable_s = first_s, max_s, stable_s
        self._full_s = first_s
        self._over_at = float("-inf")

    def next_s(self) -> float:
        """Return the pause after a failure that has just happened, in seconds."""
        now = monotonic()
        if now - self._over_at > self._stable_s:
            self._full_s = self._first_s
        pause_s = self._full_s * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
        self._full_s = min(2 * self._full_s, self._max_s)
        self._over_at = now + pause_s
        return pause_s

    def log_next(self, event: str, error: BaseException, *, alarm: bool = False) -> float:
        """Log `event` with the error and the pause that follows; return the pause in seconds.

        The level is error with `alarm`, when an operator has to act, else warning.
        """
        pause_s = self.next_s()
        note_progress()
        metrics.count(metrics.RETRIES, event)
        write = log.error if alarm else log.warning
        write(f"{event}, retrying", pause_s=round(pause_s, 1), **described(error))
        return pause_s


def keep_trying(
    work: Callable[[], Result],
    event: str,
    *,
    pauses: Pauses,
    is_retryable: Callable[[Exception], bool],
    is_alarming: Callable[[Exception], bool] = lambda _: False,
    wait: Callable[[float], None] = sleep,
) -> Result:
    """Return the result of `work`; after a retryable error log `event`, wait, and call it again.

    Errors for which `is_alarming` is true are logged with the level error. Raises the first error
    that is not retryable.
    """
    while True:
        try:
            return work()
        except Exception as error:
            if not is_retryable(error):
                raise
            wait(pauses.log_next(event, error, alarm=is_alarming(error)))


def described(error: BaseException) -> dict[str, str]:
    """Return the fields of a log line about an error. The text of a database may quote rows."""
    name = {"error": type(error).__name__}
    orig = getattr(error, "orig", None)
    state = getattr(orig, "sqlstate", None)
    if state is not None:
        return {**name, "sqlstate": state}
    if isinstance(error, OperationalError):
        # Connecting has failed, so the text quotes no row.
        return {**name, "reason": f"{' '.join(str(orig).split()):.200}"}
    if isinstance(error, RedisError | OSError):
        name["reason"] = f"{error!s:.200}"
    return name
