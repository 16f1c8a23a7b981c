"""The Celery app: one task for each command, query and sweep, and the consumer of the queues."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache, partial
from typing import Any
from uuid import uuid4, uuid5

import structlog
from celery import Celery, Task
from celery.exceptions import Ignore, Reject
from kombu.exceptions import OperationalError
from kombu.message import Message as KombuMessage
from pydantic import TypeAdapter, ValidationError
from redis.exceptions import RedisError
from sqlalchemy import Engine

from card_worker import metrics
from card_worker.batches.chunks import Chunk, stalled_chunks
from card_worker.contracts.commands import (
    APPLY,
    CHUNK,
    QUEUES,
    SWEEP_CARDS,
    SWEEP_FILES,
    SWEEP_HOLDS,
    SWEEP_OLD,
    SWEEP_RUNS,
)
from card_worker.contracts.dead_letters import UNAUTHENTICATED, DeadLetterReason, Unreadable
from card_worker.contracts.envelope import call_of
from card_worker.contracts.json_text import write_json
from card_worker.contracts.queries import QUERIES
from card_worker.contracts.text import is_id
from card_worker.defects import report
from card_worker.pauses import described
from card_worker.secrets.masking import masked
from card_worker.settings import load_settings
from card_worker.storage.contention import Row
from card_worker.storage.dead_letters import DeadLetter
from card_worker.storage.errors import is_retryable, needs_operator
from card_worker.sweeps import (
    Place,
    Swept,
    delete_old,
    expire_cards,
    expire_holds,
    forget_attempts,
    lapse_orders,
)
from card_worker.worker import (
    grouping,
    starting,  # noqa: F401  # connects itself to Celery's signals
    stopping,
    tracing,
)
from card_worker.worker.dead_letters import dead_letter_of
from card_worker.worker.delivery import Delivery
from card_worker.worker.fair_share import LOW_PRIORITY
from card_worker.worker.messages import (
    TASKS,
    UNGROUPED,
    Answered,
    Failed,
    Message,
    Outcome,
    QueryAnswered,
    Returned,
    Waiting,
    body_of,
)
from card_worker.worker.process import engine, has_spans, health, put_files, vault
from card_worker.worker.received import queue_of
from card_worker.worker.results import DeadLettered

app = Celery(
    "card_worker",
    amqp="card_worker.worker.connections:AMQP",
    events="card_worker.worker.monitoring:Events",
    set_as_current=False,
)

log = structlog.get_logger(__name__)


@app.on_configure.connect
def _on_configure(sender: Celery, **_: Any) -> None:
    # As late as this, because `celery --config` sets the variable after the app was imported.
    module = os.environ.get("CELERY_CONFIG_MODULE") or "card_worker.celery_settings"
    sender.config_from_object(module)


@cache
def _delivery_of(_pid: int) -> Delivery:
    return Delivery(
        engine(),
        stopping=stopping.is_requested,
        vault=vault(),
        put_files=put_files,
        recipients=load_settings().letter_recipients or (),
        request=_request_chunks,
        peppers=load_settings().producer_peppers,
        signatures=load_settings().signatures,
        unauthenticated_max=load_settings().unauthenticated_max,
    )


def _request_chunks(chunks: Sequence[Chunk]) -> None:
    """Send messages that request chunks."""
    for chunk in chunks:
        # Each request for a chunk has the same message id.
        message_id = str(uuid5(chunk.job, str(chunk.number)))
        _send_low_priority(CHUNK, {**chunk._asdict(), "job": str(chunk.job)}, message_id)


def _send_low_priority(task: str, kwargs: Mapping[str, Any], message_id: str) -> None:
    """Send a message of the lowest priority: all commands on the queue are taken before it."""
    app.send_task(
        task,
        kwargs=kwargs,
        task_id=message_id,
        queue=QUEUES[task],
        priority=LOW_PRIORITY,
        ignore_result=True,
        retry_policy={"max_retries": 1},
        argsrepr="()",
        kwargsrepr="{}",
    )


def _delivery() -> Delivery:
    return _delivery_of(os.getpid())


def deliver(messages: Sequence[Message], locked: frozenset[Row] = frozenset()) -> list[Outcome]:
    """Handle a group of messages, in a process of the pool."""
    if messages[0].task in _SWEEPS:
        return [_sweep(message) for message in messages]
    if has_spans():
        return tracing.deliver_in_span(_delivery().deliver, messages, locked)
    return _delivery().deliver(messages, locked)


class AnyField(Task):  # type: ignore[misc]  # Celery has no types
    """A task whose fields may have any name; Celery's own fails on a field called `self`."""

    def __call__(self, /, **fields: Any) -> Any:
        return self.run(**fields)


def _make_task(name: str) -> None:
    # The consumer below needs only the name of a task. This runs when Celery itself runs the task.
    @app.task(name=name, bind=True, base=AnyField)
    def run(task: Task, /, **fields: Any) -> Any:
        message_id = task.request.id or str(uuid4())
        message = Message(task=name, id=message_id, queue=None, kwargs=fields, body=body_of(fields))
        (outcome,) = _deliver_call(message)
        match outcome:
            case Answered() | QueryAnswered():
                return _result(message, outcome)
            case Failed() if outcome.reason in UNAUTHENTICATED:
                raise Ignore  # no result for an unknown sender
            case Failed():
                raise DeadLettered(outcome.explanation)
            case Returned() | Waiting():
                raise Reject("not now", requeue=True)


def _deliver_call(message: Message) -> list[Outcome]:
    """Handle a message that Celery itself has read."""
    try:
        call = call_of(message.task, dict(message.kwargs))
    except Unreadable as problem:
        failed = Failed(problem.reason, problem.detail)
        letter = partial(dead_letter_of, message, failed.reason, failed.detail)
        return [failed if _delivery().dead_letter([letter]) else Returned()]
    return deliver([replace(message, kwargs=call.kwargs, signature=call.signature)])


def _result(message: Message, outcome: Answered | QueryAnswered) -> Any:
    """Return the value of a task's result: that of a query, an event, or a list of events."""
    if isinstance(outcome, QueryAnswered):
        return outcome.result
    if message.task in UNGROUPED:
        return None
    events = [json.loads(answer.event) for answer in outcome.answers]
    return events if message.task == APPLY else events[0]


for _name in TASKS:
    _make_task(_name)


# --- sweeps ---------------------------------------------------------------------------------------


def _sweep_files(_: Engine, __: Place) -> Swept:
    put_files()
    return Swept(0, None)


def _sweep_batches(engine: Engine, _: Place) -> Swept:
    _request_chunks(stalled_chunks(engine))
    forget_attempts(engine)
    return Swept(lapse_orders(engine), None)


def _sweep_old(engine: Engine, place: Place) -> Swept:
    return delete_old(engine, load_settings().kept_s, place)


_SWEEPS: dict[str, Callable[[Engine, Place], Swept]] = {
    SWEEP_CARDS: expire_cards,
    SWEEP_HOLDS: expire_holds,
    SWEEP_FILES: _sweep_files,
    SWEEP_RUNS: _sweep_batches,
    SWEEP_OLD: _sweep_old,
}
_PLACE = TypeAdapter(Place)


def _sweep(message: Message) -> Outcome:
    """Do a slice of a sweep and request the next one, which is taken after waiting commands.

    If the database or the broker is unavailable, the next sweep continues.
    """
    try:
        place = _PLACE.validate_python(message.kwargs)
    except ValidationError:
        failed = Failed(DeadLetterReason.SWEEP_INVALID)
        letter = partial(dead_letter_of, message, failed.reason, None)
        return failed if _delivery().dead_letter([letter]) else Returned()
    try:
        swept = _SWEEPS[message.task](engine(), place)
        metrics.count(metrics.SWEPT, message.task, by=swept.changed)
        if swept.following is not None:
            _request_slice(message.task, swept.following)
        else:
            metrics.stamp(metrics.SWEEP_DONE, message.task)
    except Exception as error:
        is_transient = is_retryable(error) and not needs_operator(error)
        is_away = is_transient or isinstance(error, RedisError | OperationalError)
        write = log.warning if is_away else log.error
        metrics.count(metrics.SWEEP_FAILURES, message.task)
        write("sweep failed, left to the next one", **described(error))
        if not is_away:
            report(error)
    return Answered(())


def _request_slice(sweep: str, place: Place) -> None:
    kwargs = {"swept": place.swept, "expires_at": place.expires_at, "id": place.id}
    _send_low_priority(sweep, json.loads(write_json(kwargs)), str(uuid4()))


class Consumer(grouping.Consumer):
    """Takes messages from the queues and handles commands in groups."""

    tasks = TASKS
    ungrouped = UNGROUPED
    deliver = staticmethod(deliver)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = load_settings()
        self.health = health()
        self.group_max, self.group_wait_s = settings.group_max, settings.group_wait_ms / 1000
        if settings.result_backend_url is None:
            self.with_results = frozenset(QUERIES)

    def dead_letter(self, failed: Sequence[tuple[KombuMessage, Failed]]) -> bool:
        return _delivery().dead_letter([partial(_dead_letter, *pair) for pair in failed])

    def result(self, message: Message, outcome: Answered | QueryAnswered) -> Any:
        return _result(message, outcome)


def _dead_letter(message: KombuMessage, failed: Failed, now: datetime) -> DeadLetter:
    headers, body = message.headers, message.body
    aside = message.delivery_info.get("aside")
    return DeadLetter(
        received_at=now,
        queue=queue_of(message),
        task=_id_or_none(headers.get("task")),
        message_id=_id_or_none(headers.get("id")),
        reason=failed.reason,
        headers=headers,
        content_type=_text(message.content_type),
        content_encoding=_text(message.content_encoding),
        body=body if isinstance(body, bytes) else str(body).encode(errors="surrogatepass"),
        detail=_describe_aside(aside) if aside else failed.detail,
        aside_key=aside.get("key", "") if aside else None,
    )


def _describe_aside(aside: Mapping[str, Any]) -> str:
    kept = f"kept at {aside['key']} for 7 days" if "key" in aside else "not kept: no space left"
    return f"{aside['bytes']} bytes, SHA-1 {aside['sha1']}, {kept}; the body is the beginning"


def _id_or_none(value: object) -> str | None:
    # Any other value is kept in the headers.
    return value if is_id(value) else None


def _text(value: object) -> str | None:
    """Return a string or None as it is, other JSON as text without secrets."""
    return value if isinstance(value, str | None) else write_json(masked(value))
