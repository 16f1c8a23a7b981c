"""Groups of messages: taken together, committed together, acknowledged together.

For producers and monitors each is a message of its own: with its own Celery events, its own result,
and its own outcome when another message of the group fails.
"""

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from time import monotonic
from typing import Any

import structlog
from celery import states
from celery.exceptions import WorkerLostError
from celery.worker import state
from kombu.message import Message as KombuMessage

from card_worker import metrics
from card_worker.contracts.dead_letters import UNAUTHENTICATED, DeadLetterReason, Unreadable
from card_worker.contracts.envelope import Call, decompressed, read_envelope
from card_worker.contracts.message import cost_of
from card_worker.contracts.text import is_id
from card_worker.defects import log_defect
from card_worker.health import Health, Record
from card_worker.storage.contention import Row
from card_worker.worker import stopping
from card_worker.worker.counting import count_outcomes
from card_worker.worker.messages import (
    Answered,
    Failed,
    Message,
    Outcome,
    QueryAnswered,
    Returned,
    Waiting,
    is_sent_by_owner,
)
from card_worker.worker.monitoring import TaskEvents
from card_worker.worker.received import Received, postpone, receive
from card_worker.worker.reconnecting import ReconnectingConsumer
from card_worker.worker.results import DeadLettered, Result, Results
from card_worker.worker.task_signals import TaskSignals

OBJECTS_PER_GROUP = 100_000
GROUP_COST_MAX = 2_000
"""Maximum for the sum of the costs (`cost_of`) of a group's messages. No message costs more."""
POSTPONED_S = 0.5
"""Seconds until a message whose rows were locked is delivered again, if no other comes before."""
POSTPONED_MAX = 1_000
"""Number of such messages that are held in addition to others; beyond it, they take their room."""
HEALTH_S = 2.0
"""Seconds between two writes of a worker's health record."""

log = structlog.get_logger(__name__)


class Consumer(ReconnectingConsumer):
    """Celery's consumer; messages that are taken together are handled together.

    A subclass defines how a group is handled.
    """

    tasks: frozenset[str]
    """The tasks that a message may name."""
    ungrouped: frozenset[str] = frozenset()
    """Tasks whose messages are handled one by one, after the groups."""
    with_results: frozenset[str] | None = None
    """The tasks whose results are stored; None: all."""
    group_max: int
    group_wait_s: float
    """Seconds for which a group waits for further messages."""

    @staticmethod
    def deliver(messages: Sequence[Message], locked: frozenset[Row] = frozenset()) -> list[Outcome]:
        """Handle a group. Called in the pool, so it must be importable by name.

        `locked` are rows that earlier messages wait for.
        """
        raise NotImplementedError

    def dead_letter(self, failed: Sequence[tuple[KombuMessage, Failed]]) -> bool:
        """Store messages as dead letters; return False if that failed."""
        raise NotImplementedError

    def result(self, message: Message, outcome: Answered | QueryAnswered) -> Any:
        """Return the value of the task's result, for a producer that asked for it."""
        raise NotImplementedError

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.health = Health()
        self._record: Record | None = None
        self._connections = 0
        self._results = Results(self.app.backend)
        self._signals = TaskSignals(self.app, self.result)

    def stop(self) -> None:
        stopping.request()
        super().stop()

    def cancel_active_requests(self) -> None:
        # Celery calls it before it waits for the pool.
        stopping.request()
        super().cancel_active_requests()

    def create_task_handler(self, *_: Any, **__: Any) -> Callable[[KombuMessage], None]:
        self._taken: list[Received] = []
        self._postponed: list[Received] = []
        self._held = 0  # postponed, or just delivered again
        self._locked = frozenset[Row]()
        self._connections += 1
        self._unreadable: list[tuple[KombuMessage, Failed]] = []
        self._is_scheduled = False
        self._events = TaskEvents(self.event_dispatcher)
        # Our transport reports when it has delivered all messages that it took together.
        transport = self.connection.transport
        self._reports_taken = hasattr(transport, "on_taken")
        if self._reports_taken:
            transport.on_taken = self._on_taken
        self._write_health()
        self.timer.call_repeatedly(HEALTH_S, self._write_health)
        return self._on_message

    def _write_health(self) -> None:
        """Write when messages were last taken, and since when the oldest is unsettled."""
        if not hasattr(self.connection.transport, "health"):
            self.health.note_turn(None)
            return
        if self._record is None:
            self._record = Record("worker")
        asked_at, unsettled_since = self.connection.transport.health()
        self.health.note_turn(unsettled_since)
        self._record.write(
            {"hostname": self.hostname, "asked_at": asked_at, "unsettled_since": unsettled_since}
        )

    def _on_message(self, raw: KombuMessage) -> None:
        try:
            call = self._read(raw)
        except Unreadable as problem:
            self._unreadable.append((raw, Failed(problem.reason, problem.detail)))
        else:
            self._taken.append(receive(raw, call))
        if not self._reports_taken:
            self._on_taken()

    def _read(self, raw: KombuMessage) -> Call:
        if malformed := raw.delivery_info.get("malformed"):
            is_large = "aside" in raw.delivery_info
            reason = (
                DeadLetterReason.ENTRY_TOO_LARGE if is_large else DeadLetterReason.ENTRY_MALFORMED
            )
            raise Unreadable(reason, f"{malformed!s:.200}")
        if raw.headers.get("compression"):
            # From here on the message is as if it had not been compressed, also in a dead letter.
            raw.body = decompressed(raw.body, raw.headers["compression"])
            del raw.headers["compression"]
        return read_envelope(
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
        if not self._reports_taken:
            self._on_taken()

    def _on_taken(self) -> None:
        if self._unreadable:
            self._dead_letter_unreadable()
        if not self._taken or self._is_scheduled:
            return
        if self.group_wait_s == 0 or len(self._taken) >= self.group_max:
            self._flush()
        else:
            self._is_scheduled = True
            self.timer.call_after(self.group_wait_s, self._flush)

    def _dead_letter_unreadable(self) -> None:
        unreadable, self._unreadable = self._unreadable, []
        raws = [raw for raw, _ in unreadable]
        if self.dead_letter(unreadable):
            self._events.emit_unreadable(unreadable)
            self._acknowledge(raws)
            results = [self._result_of_unreadable(*pair) for pair in unreadable]
            self._results.store([result for result in results if result])
            self._signals.send_unreadable(unreadable)
        else:
            self._give_back(raws)

    def _flush(self) -> None:
        self._is_scheduled, self._locked = False, frozenset()
        # Postponed messages were sent earlier, so they come first.
        taken, self._taken, self._postponed = [*self._postponed, *self._taken], [], []
        grouped = [received for received in taken if received.message.task not in self.ungrouped]
        ungrouped = [[received] for received in taken if received.message.task in self.ungrouped]
        for group in chain(self._groups(grouped), ungrouped):
            # Messages that are not started go back when the worker ends.
            if not stopping.is_requested():
                self._start(group)

    def _groups(self, taken: Sequence[Received]) -> Iterator[list[Received]]:
        """Yield messages in groups, bounded in number and cost."""
        group, cost = list[Received](), 0
        for received in taken:
            more = cost_of(received.message.task, received.message.kwargs)
            if group and (len(group) == self.group_max or cost + more > GROUP_COST_MAX):
                yield group
                group, cost = [], 0
            group.append(received)
            cost += more
        if group:
            yield group

    def _start(self, group: list[Received]) -> None:
        names = Counter(received.message.task for received in group)
        state.total_count.update(names)
        state.all_total_count[0] += len(group)
        self._events.emit_started(group)
        self._run(group, started=monotonic())

    def _run(self, group: list[Received], started: float) -> None:
        delivered, connection = False, self._connections

        def on_outcomes(ended: tuple[Sequence[Outcome], metrics.Counted | None]) -> None:
            nonlocal delivered
            delivered = True
            outcomes, counted = ended
            metrics.add(counted)
            # Messages that were taken over a lost connection have gone back.
            if connection == self._connections:
                self._finish(group, outcomes, seconds=monotonic() - started)

        try:
            self.pool.apply_async(
                _deliver_and_count,
                (self.deliver, [received.message for received in group], self._locked),
                callback=on_outcomes,
                error_callback=lambda error: self._on_error(group, started, error.exception),
            )
        except BaseException as error:
            # The solo pool raises what `deliver` and the callback raise.
            if delivered or not isinstance(error, Exception):
                # This ends the process.
                self._give_back([received.raw for received in group], died=True)
                raise
            self._on_error(group, started, error)

    def _on_error(self, group: list[Received], started: float, error: BaseException) -> None:
        """Finish a group for which `deliver` raised an error."""
        if not isinstance(error, Exception) or isinstance(error, WorkerLostError):
            # Its process has died.
            self._finish(group, [Returned(died=True)] * len(group), seconds=0)
            return
        log_defect(error, messages=len(group))
        if len(group) > 1:
            for received in group:
                if not stopping.is_requested():
                    self._run([received], started)
            return
        failed = Failed(DeadLetterReason.DEFECT, type(error).__name__)
        stored = self.dead_letter([(group[0].raw, failed)])
        self._finish(group, [failed if stored else Returned()], seconds=monotonic() - started)

    def _finish(
        self, group: list[Received], outcomes: Sequence[Outcome], *, seconds: float
    ) -> None:
        pairs = list(zip(group, outcomes, strict=True))
        for outcome in outcomes:
            if isinstance(outcome, Waiting):
                self._locked |= outcome.rows
        self._postpone(group, [received for received, end in pairs if isinstance(end, Waiting)])
        ended = [pair for pair in pairs if not isinstance(pair[1], Waiting)]
        back = [(received.raw, end) for received, end in ended if isinstance(end, Returned)]
        self._give_back([raw for raw, _ in back], died=any(end.died for _, end in back))
        self._events.emit_outcomes(ended, seconds)
        done = [received.raw for received, end in ended if not isinstance(end, Returned)]
        self._acknowledge(done)
        count_outcomes(ended)
        self._results.store([result for pair in ended if (result := self._result(*pair))])
        self._signals.send_outcomes(ended)
        throttles = [end.throttle_s for end in outcomes if isinstance(end, Answered)]
        self._throttle(max(throttles, default=0.0))

    def _postpone(self, group: Sequence[Received], waiting: Sequence[Received]) -> None:
        """Keep messages whose rows another session has locked; deliver them again soon.

        They take no room from others, up to POSTPONED_MAX.
        """
        before = sum(received.message.is_waiting for received in group)
        if not waiting and not before:
            return
        self._postponed += [postpone(received) for received in waiting]
        self._held += len(waiting) - before
        self.qos.value = self.initial_prefetch_count + min(self._held, POSTPONED_MAX)
        if waiting and not self._is_scheduled:
            self._is_scheduled = True
            self.timer.call_after(POSTPONED_S, self._flush)

    def _give_back(self, raws: Sequence[KombuMessage], *, died: bool = False) -> None:
        """Put messages back on their queues; `died` says that their process died.

        A worker that stops puts back all unsettled messages at its end, in their order.
        """
        if raws and not stopping.is_requested():
            requeue_all = getattr(raws[0].channel.qos, "requeue_all", None)
            settle_all = requeue_all and partial(requeue_all, died=died)
            self._settle(raws, settle_all, KombuMessage.requeue)

    def _acknowledge(self, raws: Sequence[KombuMessage]) -> None:
        if raws:
            ack_all = getattr(raws[0].channel.qos, "ack_all", None)
            done = self._settle(raws, ack_all, KombuMessage.ack)
            self.health.note_acknowledgement(done=done)

    def _settle(
        self,
        raws: Sequence[KombuMessage],
        settle_all: Callable[[Sequence[str]], None] | None,
        settle: Callable[[KombuMessage], None],
    ) -> bool:
        """Settle messages in one step if the transport can, else one by one; return whether it
        succeeded."""
        try:
            if settle_all is not None:
                settle_all([raw.delivery_tag for raw in raws])
                return not raws[0].channel.is_dropped
            for raw in raws:
                settle(raw)
        except self.connection_errors as error:
            # They are delivered again, and then repeated by their idempotency keys.
            log.warning("messages not acknowledged", messages=len(raws), error=type(error).__name__)
            return False
        return True

    def _throttle(self, seconds: float) -> None:
        """Take no message of the lowest priority for so many seconds."""
        transport = self.connection.transport
        if seconds > 0 and hasattr(transport, "throttle_low_priority"):
            transport.throttle_low_priority(seconds)
            # Take them again as soon as the time has passed.
            self.timer.call_after(seconds, transport.wake)

    def _result(self, received: Received, outcome: Outcome) -> Result | None:
        """Return what is stored for a producer that asked for a result."""
        id, task = received.message.id, received.message.task
        if not self._has_result(received.raw, task) or not is_sent_by_owner(received.message):
            return None
        match outcome:
            case Answered() | QueryAnswered():
                value = self.result(received.message, outcome)
                return Result(id, task, states.SUCCESS, value)
            case Failed() if outcome.reason not in UNAUTHENTICATED:
                return Result(id, task, states.FAILURE, DeadLettered(outcome.explanation))
            case Failed() | Returned() | Waiting():
                return None

    def _result_of_unreadable(self, raw: KombuMessage, failed: Failed) -> Result | None:
        """Return what is stored for the producer of a message whose id at least is readable."""
        id, task = raw.headers.get("id"), raw.headers.get("task")
        if failed.reason in UNAUTHENTICATED or not is_id(id) or not self._has_result(raw, task):
            return None
        return Result(id, str(task), states.FAILURE, DeadLettered(failed.explanation))

    def _has_result(self, raw: KombuMessage, task: object) -> bool:
        """Say whether a result is stored. A sender may have put anything into the headers."""
        if raw.headers.get("ignore_result") or not isinstance(task, str):
            return False
        return self.with_results is None or task in self.with_results


def _deliver_and_count(
    deliver: Callable[[Sequence[Message], frozenset[Row]], list[Outcome]],
    messages: Sequence[Message],
    locked: frozenset[Row],
) -> tuple[list[Outcome], metrics.Counted | None]:
    """Deliver a group in the pool; return what a child has counted, too."""
    return deliver(messages, locked), metrics.take()


def spare_cycle_search() -> None:
    """Let Python search for cyclic garbage once a group, and not in objects that exist already.

    A group creates hundreds of thousands of objects and drops all of them; none is in a cycle.
    """
    gc.freeze()
    gc.set_threshold(OBJECTS_PER_GROUP)
