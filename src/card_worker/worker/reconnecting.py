"""Celery's consumer, which reconnects after any failure of its broker."""

from contextlib import suppress
from time import monotonic, sleep
from typing import Any

from celery.worker import state
from celery.worker.consumer import Consumer

from card_worker.pauses import Pauses

PAUSE_S_MAX = 3.0
STOP_CHECK_S = 0.1
"""Seconds between checks whether the worker was told to stop while it waits for its broker."""


class ReconnectingConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """Reconnects after any failure of the broker, with growing pauses and one log line each.

    Exchange between workers (gossip, mingle) is off: nothing needs it, and anybody could publish
    there to all workers.
    """

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        default_steps = (
            "celery.worker.consumer.connection:Connection",
            "celery.worker.consumer.mingle:Mingle",  # off, but other steps depend on it
            "celery.worker.consumer.events:Events",
            "celery.worker.consumer.heart:Heart",
            "card_worker.worker.remote_control:RemoteControl",
            "celery.worker.consumer.tasks:Tasks",
            "celery.worker.consumer.consumer:Evloop",
        )

    def __init__(self, *args: Any, worker_options: dict[str, Any] | None = None, **kw: Any) -> None:
        self._pauses = Pauses(first_s=0.2, max_s=PAUSE_S_MAX)
        alone = {"without_gossip": True, "without_mingle": True}
        super().__init__(*args, worker_options={**(worker_options or {}), **alone}, **kw)

    def ensure_connected(self, conn: Any) -> Any:
        while True:
            try:
                conn.ensure_connection(
                    max_retries=1, interval_start=0, reraise_as_library_errors=False
                )
            except self.connection_errors as error:
                self._wait_for_broker(error)
            else:
                self.first_connection_attempt = False
                return conn

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        self._wait_for_broker(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        # Messages in flight are returned before the pause, so that other workers take them.
        with suppress(Exception):
            self.connection.collect()
        self._wait_for_broker(exc)

    def _wait_for_broker(self, error: Exception) -> None:
        """Wait before the next try. Raises WorkerShutdown or WorkerTerminate when told to stop."""
        until = monotonic() + self._pauses.log_next("broker unavailable", error)
        while monotonic() < until:
            state.maybe_shutdown()
            sleep(STOP_CHECK_S)
