"""Beat: requests sweeps at intervals, independent of the wall clock and outages of the broker."""

from datetime import UTC, datetime
from time import monotonic
from typing import Any

import structlog
from celery import beat
from celery.schedules import schedule

from card_worker.health import Record
from card_worker.pauses import Pauses, keep_trying

PAUSE_S_MAX = 3.0

log = structlog.get_logger(__name__)


def every(seconds: float) -> schedule:
    """Return a schedule by the monotonic clock, which steps of the wall clock don't change."""
    return schedule(seconds, nowfun=lambda: datetime.fromtimestamp(monotonic(), UTC))


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

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        keep_trying(
            lambda: self._send(entry),
            "broker unavailable",
            pauses=self._pauses,
            is_retryable=lambda _: True,
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
