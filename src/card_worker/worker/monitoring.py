"""Celery's events for monitors such as Flower, sent without blocking the worker."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from celery.app import events
from celery.events.dispatcher import EventDispatcher
from celery.utils.time import utcoffset
from kombu import serialization

from card_worker.contracts.json_text import write_json
from card_worker.contracts.text import is_id
from card_worker.worker.messages import Answered, Failed, Outcome, QueryAnswered
from card_worker.worker.received import Received

BUFFERED_MAX = 1_000
"""Number of events kept while the broker is unavailable; of more, the oldest are dropped."""
BUFFERED_PER_GROUP_MAX = 4_096
"""Events of a group are sent in one publication. Celery's own default is two dozen."""
SERIALIZER = "card_worker.json"
"""The serializer for these events: the same JSON as kombu's own, written faster."""
FIELDS_SHOWN = ("account_id", "card_id", "batch_id", "command_id", "action", "number")
FIELDS_CHARS_MAX = 400

serialization.register(SERIALIZER, write_json, None, "application/json", "utf-8")


class Dispatcher(EventDispatcher):  # type: ignore[misc]  # Celery has no types
    """Tries to send an event once. Celery's own tries for as long as the broker is unavailable, in
    the thread that would notice that and reconnect."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._outbound_buffer: deque[Any] = deque(maxlen=BUFFERED_MAX)

    def _publish(self, *args: Any, **options: Any) -> None:
        super()._publish(*args, **{**options, "retry": False})


class Events(events.Events):  # type: ignore[misc]
    """Celery's events with this module's dispatcher."""

    dispatcher_cls = f"{__name__}:Dispatcher"


class TaskEvents:
    """Emits Celery's task events for groups, if a monitor wants them."""

    def __init__(self, dispatcher: Any) -> None:
        self._dispatcher = dispatcher
        if dispatcher:
            dispatcher.buffer_limit = BUFFERED_PER_GROUP_MAX
            dispatcher.serializer = SERIALIZER

    def emit_started(self, group: Sequence[Received]) -> None:
        """Emit that each message of a group was received and started."""
        self._emit("task-received", ((received, _introduction(received)) for received in group))
        self._emit("task-started", ((received, {}) for received in group))

    def emit_outcomes(self, ended: Sequence[tuple[Received, Outcome]], seconds: float) -> None:
        """Emit the outcome of each message that is done, after so many seconds."""
        self._emit(
            "task-succeeded",
            (
                (received, {"result": _event_types(outcome), "runtime": seconds})
                for received, outcome in ended
                if isinstance(outcome, Answered | QueryAnswered)
            ),
        )
        self._emit(
            "task-failed",
            (
                (received, {"exception": outcome.explanation, "traceback": ""})
                for received, outcome in ended
                if isinstance(outcome, Failed)
            ),
        )

    def _emit(self, type: str, about: Iterable[tuple[Received, Mapping[str, Any]]]) -> None:
        dispatcher, offset = self._dispatcher, utcoffset()
        if dispatcher and dispatcher.enabled:
            for received, fields in about:
                dispatcher.send(type, uuid=received.message.id, utcoffset=lambda: offset, **fields)


def _introduction(received: Received) -> dict[str, Any]:
    """Return what monitors see of a message: the ids in it, never all of its fields."""
    named = ((name, received.message.kwargs.get(name)) for name in FIELDS_SHOWN)
    # Lists and objects may contain anything, also secrets.
    shown = {name: value for name, value in named if isinstance(value, str | int)}
    headers = received.raw.headers
    return {
        "name": received.message.task,
        "args": "()",
        "kwargs": repr(shown)[:FIELDS_CHARS_MAX],
        "root_id": _id_in(headers, "root_id"),
        "parent_id": _id_in(headers, "parent_id"),
        "retries": 0,
        "eta": None,
        "expires": None,
    }


def _id_in(headers: Mapping[str, Any], name: str) -> str | None:
    """Return the id in a header; None if the header holds anything else."""
    value = headers.get(name)
    return value if is_id(value) else None


def _event_types(outcome: Answered | QueryAnswered) -> str:
    if isinstance(outcome, QueryAnswered):
        return "shown"
    return ", ".join(
        f"{type} × {times}" if times > 1 else type
        for type, times in Counter(answer.type.value for answer in outcome.answers).items()
    )
