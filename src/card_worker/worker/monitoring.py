"""Celery's events for monitors such as Flower, sent without holding the worker up."""

from collections import deque
from typing import Any

from celery.app import events
from celery.events.dispatcher import EventDispatcher

BUFFERED_MAX = 1_000
"""How many events are kept while the broker is away; of more, the oldest are dropped."""


class Dispatcher(EventDispatcher):  # type: ignore[misc]  # Celery has no types
    """Tries an event once. Celery's own tries a heartbeat for as long as the broker is away, in the
    thread that would notice that and connect anew."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._outbound_buffer: deque[Any] = deque(maxlen=BUFFERED_MAX)

    def _publish(self, *args: Any, **options: Any) -> None:
        super()._publish(*args, **{**options, "retry": False})


class Events(events.Events):  # type: ignore[misc]
    """Celery's events with this module's dispatcher."""

    dispatcher_cls = f"{__name__}:Dispatcher"
