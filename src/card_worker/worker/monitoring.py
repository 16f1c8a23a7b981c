"""Celery's events for monitors such as Flower, sent without blocking the worker."""

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from celery import signals
from celery.app import events
from celery.events.dispatcher import EventDispatcher
from celery.utils.nodenames import NODENAME_DEFAULT, default_nodename, gethostname, nodename
from celery.utils.time import utcoffset
from kombu import serialization
from kombu.message import Message as KombuMessage

from card_worker.contracts.commands import SWEEPS
from card_worker.contracts.json_text import write_json
from card_worker.contracts.message import cost_of
from card_worker.contracts.text import is_id
from card_worker.domain.answers import Answer, refusal_of
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


@signals.celeryd_init.connect
def _name_worker(instance: Any, **_: Any) -> None:
    """Add the process id to Celery's default name, so that each worker of a host has its own."""
    if instance.hostname == default_nodename(""):
        instance.hostname = nodename(f"{NODENAME_DEFAULT}-{os.getpid()}", gethostname())


class TaskEvents:
    """Emits Celery's task events for groups, if a monitor wants them. Sweeps have none."""

    def __init__(self, dispatcher: Any) -> None:
        self._dispatcher = dispatcher
        if dispatcher:
            dispatcher.buffer_limit = BUFFERED_PER_GROUP_MAX
            dispatcher.serializer = SERIALIZER

    def emit_started(self, group: Sequence[Received]) -> None:
        """Emit that each message of a group was received and started."""
        if self._is_enabled:
            shown = [each for each in group if each.message.task not in SWEEPS]
            self._emit("task-received", ((each.message.id, _introduction(each)) for each in shown))
            self._emit("task-started", ((each.message.id, {}) for each in shown))

    def emit_outcomes(self, ended: Sequence[tuple[Received, Outcome]], seconds: float) -> None:
        """Emit the outcome of each message that is done.

        The runtime of each is its share of the `seconds` that all of them took.
        """
        if self._is_enabled:
            failures = [(received, why) for received, end in ended if (why := _failure(end))]
            sweeps = [received for received, _ in failures if received.message.task in SWEEPS]
            self._emit("task-succeeded", _successes(ended, seconds))
            self._emit("task-received", ((each.message.id, _introduction(each)) for each in sweeps))
            self._emit("task-failed", ((each.message.id, _failed(why)) for each, why in failures))

    def emit_unreadable(self, letters: Sequence[tuple[KombuMessage, Failed]]) -> None:
        """Emit that messages became dead letters, those whose task and id can be read."""
        named = [
            (id, name, failed.explanation)
            for raw, failed in letters
            if (id := _id_in(raw.headers, "id")) and (name := _id_in(raw.headers, "task"))
        ]
        self._emit("task-received", ((id, {"name": name}) for id, name, _ in named))
        self._emit("task-failed", ((id, _failed(why)) for id, _, why in named))

    @property
    def _is_enabled(self) -> bool:
        return bool(self._dispatcher) and self._dispatcher.enabled

    def _emit(self, type: str, about: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        if self._is_enabled:
            offset = utcoffset()
            for id, fields in about:
                self._dispatcher.send(type, uuid=id, utcoffset=lambda: offset, **fields)


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


def _successes(
    ended: Sequence[tuple[Received, Outcome]], seconds: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    costs = [cost_of(received.message.task, received.message.kwargs) for received, _ in ended]
    for (received, end), cost in zip(ended, costs, strict=True):
        if received.message.task in SWEEPS or _failure(end):
            continue
        if isinstance(end, Answered | QueryAnswered):
            runtime = seconds * cost / sum(costs)
            yield received.message.id, {"result": _summary(end), "runtime": runtime}


def _failure(outcome: Outcome) -> str | None:
    """Return why a message, or a part of it, became a dead letter; None if it didn't."""
    match outcome:
        case Failed():
            return outcome.explanation
        case Answered(unreadable=Failed() as unreadable):
            return f"{unreadable.explanation} {_summary(outcome)}".rstrip()
    return None


def _failed(why: str) -> dict[str, str]:
    # Flower searches results, but not exceptions.
    return {"exception": why, "result": why, "traceback": ""}


def _summary(outcome: Answered | QueryAnswered) -> str:
    """Return the types of events of an outcome, with the reasons of refusals."""
    if isinstance(outcome, QueryAnswered):
        reason = outcome.result.get("reason")
        return f"refused: {reason}" if reason else "shown"
    counted = Counter(map(_type_of, outcome.answers))
    return ", ".join(f"{type} × {n}" if n > 1 else type for type, n in counted.items())


def _type_of(answer: Answer) -> str:
    reason = refusal_of(answer)
    return f"{answer.type}: {reason}" if reason else answer.type.value
