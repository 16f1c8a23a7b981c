"""Waiting messages as one group: taken together, committed together, acknowledged together.

Each stays a message of its own for everybody else: its own Celery events, its own result, its own
fate when another one of the group fails.
"""

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from time import monotonic
from typing import Any

import structlog
from celery import states
from celery.exceptions import WorkerLostError
from celery.utils.time import utcoffset
from celery.worker import state
from kombu import serialization
from kombu.message import Message as KombuMessage

from card_worker.contracts.dead_letters import DeadLetterReason
from card_worker.contracts.fields import write_json
from card_worker.contracts.message import Unreadable, cost_of, is_id, validate_envelope
from card_worker.health import Record
from card_worker.storage.contention import Row
from card_worker.worker import stopping
from card_worker.worker.messages import Answered, Failed, Fate, Message, Returned, Shown, Waiting
from card_worker.worker.reconnecting import ReconnectingConsumer
from card_worker.worker.results import Result, Results

EVENTS_BUFFERED_MAX = 4_096
"""Celery's events of a group leave in one publication, not in one for every two dozen."""
EVENTS_AS = "card_worker.json"
"""A serializer for those events: the same JSON as kombu's own, written faster."""
OBJECTS_PER_GROUP = 100_000
GROUP_COST_MAX = 2_000
"""How much the messages of a group may cost together (`cost_of`). No message costs more."""
PARKED_S = 0.5
"""How soon a message is delivered again whose rows were locked, if no other comes before."""
PARKED_MAX = 1_000
"""So many of them are held besides the others; beyond that, nothing more is taken."""
HEALTH_S = 5.0
"""How often a worker writes down its health."""

SHOWN = ("account_id", "card_id", "batch_id", "command_id", "action", "number")
SHOWN_CHARS_MAX = 400

log = structlog.get_logger(__name__)

serialization.register(EVENTS_AS, write_json, None, "application/json", "utf-8")


@dataclass(frozen=True, slots=True)
class Received:
    """A message as kombu gave it, with what was read of it."""

    raw: KombuMessage
    message: Message


class Consumer(ReconnectingConsumer):
    """Celery's consumer, but what is taken together is handled together.

    A subclass says what to do with a group.
    """

    tasks: frozenset[str]
    """The tasks a message may name."""
    apart: frozenset[str] = frozenset()
    """Those that are never handled together with others, and after them."""
    group_max: int
    group_wait_s: float
    """How long a group waits for company; a lone message with it."""

    @staticmethod
    def deliver(messages: Sequence[Message], locked: frozenset[Row] = frozenset()) -> list[Fate]:
        """Bring a group to its end. Called in the pool, so it must be importable by name.

        `locked` are rows that earlier messages wait for.
        """
        raise NotImplementedError

    def dead_letter(self, failed: Sequence[tuple[KombuMessage, Failed]]) -> bool:
        """Store messages as dead letters; return False if that failed."""
        raise NotImplementedError

    def result(self, message: Message, fate: Answered | Shown) -> Any:
        """Return what a producer that asked for a result is given."""
        raise NotImplementedError

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._record: Record | None = None
        self._connections = 0
        backend = self.app.conf.result_backend and self.app.backend
        self._results = Results(backend) if backend else None

    def stop(self) -> None:
        stopping.ask()
        super().stop()

    def cancel_active_requests(self) -> None:
        # Celery calls it before it waits for the pool.
        stopping.ask()
        super().cancel_active_requests()

    def create_task_handler(self, *_: Any, **__: Any) -> Callable[[KombuMessage], None]:
        self._waiting: list[Received] = []
        self._parked: list[Received] = []
        self._held = 0  # parked, or just delivered again
        self._locked = frozenset[Row]()
        self._connections += 1
        self._unreadable: list[tuple[KombuMessage, Failed]] = []
        self._is_due = False
        if self.event_dispatcher:
            self.event_dispatcher.buffer_limit = EVENTS_BUFFERED_MAX
            self.event_dispatcher.serializer = EVENTS_AS
        # A transport that takes many says when it has delivered them all.
        transport = self.connection.transport
        self._says_when = hasattr(transport, "on_taken")
        if self._says_when:
            transport.on_taken = self._on_taken
        if hasattr(transport, "health"):
            self._write_health()
            self.timer.call_repeatedly(HEALTH_S, self._write_health)
        return self._on_message

    def _write_health(self) -> None:
        """Say when messages were last asked for, and since when the oldest waits for its end."""
        if self._record is None:
            self._record = Record("worker")
        asked_at, unsettled_since = self.connection.transport.health()
        self._record.write(
            {"hostname": self.hostname, "asked_at": asked_at, "unsettled_since": unsettled_since}
        )

    def _on_message(self, raw: KombuMessage) -> None:
        try:
            kwargs = self._validate(raw)
        except Unreadable as problem:
            self._unreadable.append((raw, Failed(problem.reason, problem.detail)))
        else:
            self._waiting.append(Received(raw, _message(raw, kwargs)))
        if not self._says_when:
            self._on_taken()

    def _validate(self, raw: KombuMessage) -> dict[str, Any]:
        if malformed := raw.delivery_info.get("malformed"):
            is_large = "aside" in raw.delivery_info
            reason = (
                DeadLetterReason.ENTRY_TOO_LARGE if is_large else DeadLetterReason.ENTRY_MALFORMED
            )
            raise Unreadable(reason, f"{malformed!s:.200}")
        return validate_envelope(
            raw.headers,
            raw.body,
            content_type=raw.content_type,
            content_encoding=raw.content_encoding,
            tasks=self.tasks,
        )

    def on_decode_error(self, message: KombuMessage, exc: Exception) -> None:
        """Store as a dead letter what kombu can't decode. Celery would log its body and drop it."""
        failed = Failed(DeadLetterReason.DECODING_FAILED, type(exc).__name__)
        self._unreadable.append((message, failed))
        if not self._says_when:
            self._on_taken()

    def _on_taken(self) -> None:
        if self._unreadable:
            self._dead_letter_unreadable()
        if not self._waiting or self._is_due:
            return
        if self.group_wait_s == 0 or len(self._waiting) >= self.group_max:
            self._flush()
        else:
            self._is_due = True
            self.timer.call_after(self.group_wait_s, self._flush)

    def _dead_letter_unreadable(self) -> None:
        unreadable, self._unreadable = self._unreadable, []
        raws = [raw for raw, _ in unreadable]
        if self.dead_letter(unreadable):
            self._acknowledge(raws)
        else:
            self._give_back(raws)

    def _flush(self) -> None:
        self._is_due, self._locked = False, frozenset()
        # What is parked was sent earlier, so it goes first.
        waiting, self._waiting, self._parked = [*self._parked, *self._waiting], [], []
        together = [one for one in waiting if one.message.task not in self.apart]
        apart = [[one] for one in waiting if one.message.task in self.apart]
        for group in chain(self._groups(together), apart):
            # What isn't started any more goes back when the worker ends.
            if not stopping.is_asked():
                self._start(group)

    def _groups(self, waiting: Sequence[Received]) -> Iterator[list[Received]]:
        """Yield messages in groups, bounded by their number and by their cost."""
        group, cost = list[Received](), 0
        for one in waiting:
            more = cost_of(one.message.task, one.message.kwargs)
            if group and (len(group) == self.group_max or cost + more > GROUP_COST_MAX):
                yield group
                group, cost = [], 0
            group.append(one)
            cost += more
        if group:
            yield group

    def _start(self, group: list[Received]) -> None:
        names = Counter(one.message.task for one in group)
        state.total_count.update(names)
        state.all_total_count[0] += len(group)
        self._tell("task-received", ((one, _introduction(one)) for one in group))
        self._tell("task-started", ((one, {}) for one in group))
        self._run(group, started=monotonic())

    def _run(self, group: list[Received], started: float) -> None:
        delivered, connection = False, self._connections

        def on_fates(fates: Sequence[Fate]) -> None:
            nonlocal delivered
            delivered = True
            # What was taken over a connection that is lost has gone back.
            if connection == self._connections:
                self._finish(group, fates, seconds=monotonic() - started)

        try:
            self.pool.apply_async(
                self.deliver,
                ([one.message for one in group], self._locked),
                callback=on_fates,
                error_callback=lambda error: self._on_error(group, started, error.exception),
            )
        except BaseException as error:
            # The solo pool lets through what `deliver` raises, and what comes after it as well.
            if delivered or not isinstance(error, Exception):
                # It ends this process.
                self._give_back([one.raw for one in group], died=True)
                raise
            self._on_error(group, started, error)

    def _on_error(self, group: list[Received], started: float, error: BaseException) -> None:
        """Deal with a group that `deliver` has no fates for."""
        if not isinstance(error, Exception) or isinstance(error, WorkerLostError):
            # The process that had it is gone.
            self._finish(group, [Returned(died=True)] * len(group), seconds=0)
            return
        log.error("defect", error=type(error).__name__, messages=len(group))
        if len(group) > 1:
            for one in group:
                if not stopping.is_asked():
                    self._run([one], started)
            return
        failed = Failed(DeadLetterReason.DEFECT, type(error).__name__)
        stored = self.dead_letter([(group[0].raw, failed)])
        self._finish(group, [failed if stored else Returned()], seconds=monotonic() - started)

    def _finish(self, group: list[Received], fates: Sequence[Fate], *, seconds: float) -> None:
        ends = list(zip(group, fates, strict=True))
        waiting = [fate.rows for fate in fates if isinstance(fate, Waiting)]
        self._locked = self._locked.union(*waiting)
        self._park(group, [one for one, fate in ends if isinstance(fate, Waiting)])
        ends = [(one, fate) for one, fate in ends if not isinstance(fate, Waiting)]
        back = [(one.raw, fate) for one, fate in ends if isinstance(fate, Returned)]
        self._give_back([raw for raw, _ in back], died=any(fate.died for _, fate in back))
        self._tell(
            "task-succeeded",
            (
                (one, {"result": _types(fate), "runtime": seconds})
                for one, fate in ends
                if isinstance(fate, Answered | Shown)
            ),
        )
        self._tell(
            "task-failed",
            (
                (one, {"exception": fate.explanation, "traceback": ""})
                for one, fate in ends
                if isinstance(fate, Failed)
            ),
        )
        self._acknowledge([one.raw for one, fate in ends if not isinstance(fate, Returned)])
        if self._results is not None:
            self._results.store([result for end in ends if (result := self._result(*end))])
        self._rest(max(fate.rest_s if isinstance(fate, Answered) else 0.0 for fate in fates))

    def _park(self, group: Sequence[Received], waiting: Sequence[Received]) -> None:
        """Keep messages whose rows another session has locked, and deliver them again soon.

        They take no room from others, up to PARKED_MAX.
        """
        before = sum(one.message.is_waiting for one in group)
        if not waiting and not before:
            return
        self._parked += [_parked(one) for one in waiting]
        self._held += len(waiting) - before
        self.qos.value = self.initial_prefetch_count + min(self._held, PARKED_MAX)
        if waiting and not self._is_due:
            self._is_due = True
            self.timer.call_after(PARKED_S, self._flush)

    def _give_back(self, raws: Sequence[KombuMessage], *, died: bool = False) -> None:
        """Put messages back; `died` says that a process ended at them which wasn't told to.

        When the worker stops they are left for its end, which gives back all that it has taken,
        in the order in which it was.
        """
        if raws and not stopping.is_asked():
            at_once = getattr(raws[0].channel.qos, "requeue_all", None)
            self._settle(raws, at_once and partial(at_once, died=died), KombuMessage.requeue)

    def _acknowledge(self, raws: Sequence[KombuMessage]) -> None:
        if raws:
            at_once = getattr(raws[0].channel.qos, "ack_all", None)
            self._settle(raws, at_once, KombuMessage.ack)

    def _settle(
        self,
        raws: Sequence[KombuMessage],
        at_once: Callable[[Sequence[str]], None] | None,
        one: Callable[[KombuMessage], None],
    ) -> None:
        """Settle messages in one step where the transport can, else one by one."""
        try:
            if at_once is not None:
                at_once([raw.delivery_tag for raw in raws])
                return
            for raw in raws:
                one(raw)
        except self.connection_errors as error:
            # They come again, and their keys are known.
            log.warning("not acknowledged", messages=len(raws), error=type(error).__name__)

    def _rest(self, seconds: float) -> None:
        """Take no message of the lowest priority for a while; all others as ever."""
        transport = self.connection.transport
        if seconds > 0 and hasattr(transport, "rest"):
            transport.rest(seconds)
            # So that the loop comes by when the time is up.
            self.timer.call_after(seconds, transport.wake)

    def _tell(self, kind: str, about: Iterable[tuple[Received, Mapping[str, Any]]]) -> None:
        events, offset = self.event_dispatcher, utcoffset()
        if events and events.enabled:
            for one, fields in about:
                events.send(kind, uuid=one.message.id, utcoffset=lambda: offset, **fields)

    def _result(self, one: Received, fate: Fate) -> Result | None:
        """Return what is stored for a producer that asked for a result."""
        if one.raw.headers.get("ignore_result"):
            return None
        id, task = one.message.id, one.message.task
        match fate:
            case Answered() | Shown():
                return Result(id, task, states.SUCCESS, self.result(one.message, fate))
            case Failed():
                return Result(id, task, states.FAILURE, DeadLettered(fate.explanation))
            case Returned() | Waiting():
                return None


class DeadLettered(Exception):
    """What a producer that asked for a result is given for a message that is a dead letter."""


def _message(raw: KombuMessage, kwargs: Mapping[str, Any]) -> Message:
    about = raw.delivery_info
    redelivered = int(bool(about.get("redelivered")))
    return Message(
        task=raw.headers["task"],
        id=raw.headers["id"],
        queue=queue_of(raw),
        kwargs=kwargs,
        body=raw.body,
        headers=raw.headers,
        returns=about.get("returns", redelivered),
        deaths=about.get("deaths", redelivered),
    )


def _parked(one: Received) -> Received:
    raw: Any = one.raw
    # For a health check it has just been delivered: it isn't stuck, but waits for others.
    raw.delivered_at = monotonic()
    return replace(one, message=replace(one.message, is_waiting=True))


def spare_cycle_search() -> None:
    """Let Python look for garbage in cycles once a group, and not in all that is loaded already.

    A group makes its objects by the hundred thousand, drops them all, and has none in a cycle.
    """
    gc.freeze()
    gc.set_threshold(OBJECTS_PER_GROUP)


def queue_of(raw: KombuMessage) -> str | None:
    """Return the queue that a message lay on; of another transport's, what it says of itself."""
    about = raw.delivery_info
    queue = about.get("queue", about.get("routing_key"))
    return queue if isinstance(queue, str) else None


def _introduction(one: Received) -> dict[str, Any]:
    """Return how a message is shown to monitors: what it is about, never all that it says."""
    named = ((name, one.message.kwargs.get(name)) for name in SHOWN)
    # Lists and objects may hold anything, also secrets.
    shown = {name: value for name, value in named if isinstance(value, str | int)}
    headers = one.raw.headers
    return {
        "name": one.message.task,
        "args": "()",
        "kwargs": repr(shown)[:SHOWN_CHARS_MAX],
        "root_id": _id_in(headers, "root_id"),
        "parent_id": _id_in(headers, "parent_id"),
        "retries": 0,
        "eta": None,
        "expires": None,
    }


def _id_in(headers: Mapping[str, Any], name: str) -> str | None:
    """Return the id that a header holds; None if it holds anything else."""
    value = headers.get(name)
    return value if is_id(value) else None


def _types(fate: Answered | Shown) -> str:
    if isinstance(fate, Shown):
        return "shown"
    return ", ".join(
        f"{kind} × {times}" if times > 1 else kind
        for kind, times in Counter(answer.type.value for answer in fate.answers).items()
    )
