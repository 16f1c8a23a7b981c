"""What this process counts and measures for its metrics, which `exporter` serves.

Nothing is counted before `turn_on`. The library's own counters and histograms are not used here:
they take eight times as long for each message, and don't come out of the children of a pool.
"""

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from threading import Lock
from time import time
from typing import NamedTuple


class NoPort(Exception):
    """Metrics can't be served; the text is one line that names the setting."""


class Metric(NamedTuple):
    """A counter, or the time at which something was last done. No label has an id."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


COMMANDS = Metric(
    "card_worker_commands_total",
    "Answered commands and queries: done or refused, with the reason of a refusal.",
    ("command", "outcome", "reason"),
)
DEAD_LETTERS = Metric(
    "card_worker_dead_letters_total", "Messages stored as dead letters.", ("reason",)
)
UNAUTHENTICATED = Metric(
    "card_worker_unauthenticated_total",
    "Messages of unknown senders, and whether they were stored as dead letters.",
    ("reason", "stored"),
)
RETRIES = Metric(
    "card_worker_retries_total", "Failures of a server after which work was retried.", ("cause",)
)
DEFECTS = Metric("card_worker_defects_total", "Unexpected errors while messages were handled.")
RETURNED = Metric(
    "card_worker_returned_total", "Messages that were put back on their queues unhandled."
)
SWEPT = Metric("card_worker_swept_rows_total", "Rows that sweeps have changed.", ("sweep",))
SWEEP_FAILURES = Metric("card_worker_sweep_failures_total", "Sweeps that failed.", ("sweep",))
PUBLISHED = Metric(
    "card_worker_events_published_total",
    "Events that were published, and answers that were published again.",
    ("type",),
)
STATE_ERRORS = Metric(
    "card_worker_state_errors_total",
    "Reads of the shared state that failed. Its gauges are absent then.",
    ("part",),
)
COUNTERS = (
    *(COMMANDS, DEAD_LETTERS, UNAUTHENTICATED, RETRIES, DEFECTS, RETURNED, SWEPT, SWEEP_FAILURES),
    *(PUBLISHED, STATE_ERRORS),
)
SWEEP_DONE = Metric(
    "card_worker_sweep_last_success_timestamp_seconds",
    "When this worker last completed a sweep.",
    ("sweep",),
)
RECONCILE_DONE = Metric(
    "card_worker_reconcile_last_run_timestamp_seconds", "When the books were last checked."
)
STAMPS = (SWEEP_DONE, RECONCILE_DONE)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
MESSAGES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Histogram:
    """A histogram, to be filled by one thread."""

    def __init__(self, name: str, help: str, bounds: Sequence[float]) -> None:
        self.name, self.help, self.bounds = name, help, tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        """The number of values up to each bound, without those up to the one before; last: all
        larger ones."""
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


GROUP_MESSAGES = Histogram(
    "card_worker_group_messages", "Messages that were handled together.", MESSAGES
)
COMMIT_SECONDS = Histogram(
    "card_worker_commit_seconds", "Duration of a commit of a group, with its decisions.", SECONDS
)
TAKEN_TO_ANSWERED = Histogram(
    "card_worker_taken_to_answered_seconds",
    "From when a message was taken from its queue to the commit of its answer.",
    SECONDS,
)
SENT_TO_ANSWERED = Histogram(
    "card_worker_sent_to_answered_seconds",
    "From the header sent_at of a message to the commit of its answer, by both clocks.",
    SECONDS,
)
HISTOGRAMS = (GROUP_MESSAGES, COMMIT_SECONDS, TAKEN_TO_ANSWERED, SENT_TO_ANSWERED)

Key = tuple[Metric, tuple[str, ...]]
"""A metric and the values of its labels."""


class Counted(NamedTuple):
    """What a process has counted."""

    counts: Mapping[Key, int]
    stamps: Mapping[Key, float]
    """Unix times."""


_counts: Counter[Key] = Counter()
_stamps: dict[Key, float] = {}
_lock = Lock()
_exporting: int | None = None
"""The process that serves the metrics."""


def turn_on() -> None:
    """Count from now on, in this process and in the children of its pool."""
    global _exporting  # noqa: PLW0603
    _exporting = os.getpid()


def is_on() -> bool:
    """Say whether anything is counted."""
    return _exporting is not None


def count(metric: Metric, *labels: str, by: int = 1) -> None:
    """Add to a counter."""
    if is_on():
        with _lock:
            _counts[metric, labels] += by


def stamp(metric: Metric, *labels: str) -> None:
    """Set the time at which something was last done to now."""
    if is_on():
        with _lock:
            _stamps[metric, labels] = time()


def counted() -> Counted:
    """Return what was counted since the start."""
    with _lock:
        return Counted(dict(_counts), dict(_stamps))


def take() -> Counted | None:
    """Return what a child of a pool has counted since it was last asked; None in the parent."""
    if _exporting in (None, os.getpid()):
        return None
    taken = counted()
    _reset()
    return taken


def add(taken: Counted | None) -> None:
    """Add what a child has counted."""
    if taken is not None:
        with _lock:
            _counts.update(taken.counts)
            _stamps.update(taken.stamps)


def _reset() -> None:
    global _lock  # noqa: PLW0603
    _lock = Lock()  # another thread of the parent may hold it
    _counts.clear()
    _stamps.clear()


os.register_at_fork(after_in_child=_reset)
