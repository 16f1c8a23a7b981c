"""Celery's consumer, kept up while its broker is away, refuses, or sends nonsense."""

from contextlib import suppress
from time import monotonic, sleep
from typing import Any

from celery.worker import state
from celery.worker.consumer import Consumer

from card_worker.pauses import Pauses

PAUSE_S_MAX = 3.0
STOP_CHECK_S = 0.1
"""How often a worker that waits for its broker checks whether it was told to stop."""


class ReconnectingConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """Connects anew after any failure of the broker, with growing pauses and one log line each.

    It takes part in no exchange between workers (gossip, mingle): what anybody publishes there
    would reach every worker, and none needs it.
    """

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        default_steps = (
            "celery.worker.consumer.connection:Connection",
            "celery.worker.consumer.mingle:Mingle",  # switched off, but others depend on it
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
        # What is in flight goes back before the pause, so that others can have it.
        with suppress(Exception):
            self.connection.collect()
        self._wait_for_broker(exc)

    def _wait_for_broker(self, error: Exception) -> None:
        """Wait before the next try. Raises WorkerShutdown or WorkerTerminate when told to stop."""
        until = monotonic() + self._pauses.log_next("broker unavailable", error)
        while monotonic() < until:
            state.maybe_shutdown()
            sleep(STOP_CHECK_S)
