"""Growing pauses between tries."""

import random
from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeVar

import structlog
from redis.exceptions import RedisError
from sqlalchemy.exc import OperationalError

Done = TypeVar("Done")

log = structlog.get_logger(__name__)


class Pauses:
    """Pauses that double from `first_s` up to `max_s`, each shortened at random by up to a half.

    They start again at `first_s` if nothing has failed for `stable_s` after a pause.
    """

    def __init__(self, *, first_s: float, max_s: float, stable_s: float = 5.0) -> None:
        self._first_s, self._max_s, self._stable_s = first_s, max_s, stable_s
        self._full_s = first_s
        self._over_at = float("-inf")

    def next_s(self) -> float:
        """Return how many seconds to wait after a failure that has just happened."""
        now = monotonic()
        if now - self._over_at > self._stable_s:
            self._full_s = self._first_s
        pause_s = self._full_s * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
        self._full_s = min(2 * self._full_s, self._max_s)
        self._over_at = now + pause_s
        return pause_s

    def log_next(self, event: str, error: BaseException, *, alarm: bool = False) -> float:
        """Log a failure with the pause after it; return the pause in seconds.

        `alarm` says that an operator has to act.
        """
        pause_s = self.next_s()
        write = log.error if alarm else log.warning
        write(f"{event}, retrying", pause_s=round(pause_s, 1), **described(error))
        return pause_s


def keep_trying(
    work: Callable[[], Done],
    event: str,
    *,
    pauses: Pauses,
    is_retryable: Callable[[Exception], bool],
    is_alarming: Callable[[Exception], bool] = lambda _: False,
    wait: Callable[[float], None] = sleep,
) -> Done:
    """Do `work`; after a retryable failure log `event`, wait, and do it again.

    Failures for which `is_alarming` is true need an operator and are logged as errors.
    """
    while True:
        try:
            return work()
        except Exception as error:
            if not is_retryable(error):
                raise
            wait(pauses.log_next(event, error, alarm=is_alarming(error)))


def described(error: BaseException) -> dict[str, str]:
    """Return what a log line may say about an error. A database's text may quote rows."""
    name = {"error": type(error).__name__}
    orig = getattr(error, "orig", None)
    state = getattr(orig, "sqlstate", None)
    if state is not None:
        return {**name, "sqlstate": state}
    if isinstance(error, OperationalError):
        # Connecting failed: the text names a role, a database or a file, and quotes no row.
        return {**name, "reason": f"{' '.join(str(orig).split()):.200}"}
    if isinstance(error, RedisError | OSError):
        name["reason"] = f"{error!s:.200}"
    return name
