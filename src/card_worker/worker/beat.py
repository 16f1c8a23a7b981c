"""Beat: requests sweeps at intervals, independent of the wall clock and outages of the broker."""

import signal
from datetime import UTC, datetime
from time import monotonic, sleep
from typing import Any

import structlog
from celery import beat
from celery.schedules import schedule

from card_worker.health import Record
from card_worker.pauses import Pauses, keep_trying

PAUSE_S_MAX = 3.0
STOP_CHECK_S = 0.2

_signals: list[int] = []
"""Those received that end beat."""

log = structlog.get_logger(__name__)


def every(seconds: float) -> schedule:
    """Return a schedule by the monotonic clock, which steps of the wall clock don't change."""
    return schedule(seconds, nowfun=lambda: datetime.fromtimestamp(monotonic(), UTC))


def end_between_tasks() -> None:
    """Let SIGTERM and SIGINT end beat when it next waits.

    Celery's own handler raises SystemExit wherever the signal arrives. Python drops an exception
    that is raised in a destructor, and beat would go on.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: _signals.append(received))


def _wait(seconds: float) -> None:
    until = monotonic() + seconds
    while monotonic() < until:
        _end_if_signalled()
        sleep(min(STOP_CHECK_S, seconds))


def _end_if_signalled() -> None:
    if _signals:
        raise SystemExit


class Scheduler(beat.Scheduler):  # type: ignore[misc]  # Celery has no types
    """Celery's scheduler in memory. Sends a due task again until the broker accepts it."""

    producer = None  # one from the app's pool each time: the pool replaces lost connections

    def __init__(self, *args: Any, lazy: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, lazy=lazy, **kwargs)
        self._pauses = Pauses(first_s=0.2, max_s=PAUSE_S_MAX)
        # Celery also creates a lazy scheduler, to print its settings.
        self._record = None if lazy else Record("beat")
        self._write_health()

    def install_default_entries(self, data: Any) -> None:
        """Add nothing: Celery's own clean-up of results is not used."""

    def tick(self, *args: Any, **kwargs: Any) -> float:
        _end_if_signalled()
        return min(float(super().tick(*args, **kwargs)), STOP_CHECK_S)

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        keep_trying(
            lambda: self._send(entry),
            "broker unavailable",
            pauses=self._pauses,
            is_retryable=lambda _: True,
            wait=_wait,
        )
        log.info("sweep requested", task=entry.task)
        self._write_health()

    def _write_health(self) -> None:
        if self._record is not None:
            intervals = [entry.schedule.seconds for entry in self.schedule.values()]
            self._record.write({"sent_at": monotonic(), "interval_s": min(intervals)})

    def _send(self, entry: Any) -> None:
        try:
            self.apply_async(entry, advance=False)
        except beat.SchedulingError as error:
            raise error.__context__ or error from None
