"""Celery's signals of tasks, sent for each message after its commit, if anybody listens."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import Celery, signals, states
from kombu.message import Message as KombuMessage

from card_worker.contracts.text import is_id
from card_worker.secrets.masking import masked
from card_worker.worker.messages import Answered, Failed, Message, Outcome, QueryAnswered
from card_worker.worker.received import Received
from card_worker.worker.results import DeadLettered

SIGNALS = (
    signals.task_prerun,
    signals.task_success,
    signals.task_failure,
    signals.task_postrun,
)


class TaskSignals:
    """Sends Celery's signals with Celery's arguments; tokens and PINs in them are masked.

    `result` returns the value of a task's result. Celery logs the errors of listeners.
    """

    def __init__(
        self, app: Celery, result: Callable[[Message, Answered | QueryAnswered], Any]
    ) -> None:
        self._app, self._result = app, result

    def send_outcomes(self, ended: Sequence[tuple[Received, Outcome]]) -> None:
        """Send the signals of each message that is done."""
        if not _has_listeners():
            return
        for received, outcome in ended:
            message = received.message
            match outcome:
                case Answered() | QueryAnswered():
                    value = self._result(message, outcome)
                    self._send(message.task, message.id, message.kwargs, states.SUCCESS, value)
                case Failed():
                    self._send_failure(message.task, message.id, message.kwargs, outcome)

    def send_unreadable(self, letters: Sequence[tuple[KombuMessage, Failed]]) -> None:
        """Send the signals of messages that became dead letters, if task and id can be read."""
        if _has_listeners():
            for raw, failed in letters:
                task, id = raw.headers.get("task"), raw.headers.get("id")
                if is_id(id) and is_id(task) and task in self._app.tasks:
                    self._send_failure(task, id, {}, failed)

    def _send_failure(self, task: str, id: str, fields: Mapping[str, Any], failed: Failed) -> None:
        self._send(task, id, fields, states.FAILURE, DeadLettered(failed.explanation))

    def _send(self, name: str, id: str, fields: Mapping[str, Any], state: str, value: Any) -> None:
        task, call = self._app.tasks[name], {"args": (), "kwargs": masked(fields, name)}
        task.push_request(id=id, **call)
        try:
            signals.task_prerun.send(sender=task, task_id=id, task=task, **call)
            if state == states.SUCCESS:
                signals.task_success.send(sender=task, result=value)
            else:
                signals.task_failure.send(sender=task, task_id=id, **call, **_error(value))
            signals.task_postrun.send(
                sender=task, task_id=id, task=task, retval=value, state=state, **call
            )
        finally:
            task.pop_request()


def _has_listeners() -> bool:
    return any(signal.receivers for signal in SIGNALS)


def _error(error: DeadLettered) -> dict[str, Any]:
    try:
        raise error
    except DeadLettered:
        einfo = ExceptionInfo()  # it needs a traceback
    return {"exception": error, "traceback": error.__traceback__, "einfo": einfo}
