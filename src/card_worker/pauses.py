"""Growing pauses between tries."""

import random
from time import monotonic


class Pauses:
    """Pauses that double from `first_s` up to `max_s`, each shortened at random by up to a half.

    They begin anew when nothing has failed for `stable_s` after a pause.
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
