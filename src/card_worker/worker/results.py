"""Celery results of a group, for the producers that asked for them."""

from collections.abc import Sequence
from time import monotonic
from typing import Any, NamedTuple

import structlog
from celery.app.task import Context
from redis.exceptions import RedisError

from card_worker.pauses import Pauses, described

PAUSE_S_MAX = 60.0
REPLIES_PER_RESULT = 2
"""Replies to SET and to PUBLISH."""

log = structlog.get_logger(__name__)


class Result(NamedTuple):
    """The result of a task: a state of Celery's, and a value or an error."""

    message_id: str
    task: str
    state: str
    value: Any


class DeadLettered(Exception):
    """The result of a message that became a dead letter."""


class Results:
    """Stores results in Celery's own format, those of a group in one round trip.

    The answer itself is on the stream. So a worker does not wait for a backend that is unavailable:
    after a failure, nothing is stored for a growing pause.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._pauses = Pauses(first_s=1.0, max_s=PAUSE_S_MAX)
        self._again_at = float("-inf")

    def store(self, results: Sequence[Result]) -> None:
        """Store `results`, each independent of the others; log which are not stored."""
        if not results or monotonic() < self._again_at:
            return
        try:
            self._store(results)
        except (RedisError, OSError) as error:
            pause_s = self._pauses.log_next("result backend unavailable, results not stored", error)
            self._again_at = monotonic() + pause_s

    def _store(self, results: Sequence[Result]) -> None:
        with self._backend.client.pipeline(transaction=False) as pipeline:
            added = [result for result in results if self._is_added(pipeline, result)]
            replies = pipeline.execute(raise_on_error=False) if added else []
        for result, reply in zip(added, replies[::REPLIES_PER_RESULT], strict=True):
            if isinstance(reply, RedisError):
                _log_not_stored(result, reply)

    def _is_added(self, pipeline: Any, result: Result) -> bool:
        """Add a result to the pipeline; say whether it could be written as JSON."""
        try:
            self._add(pipeline, result)
        except Exception as error:
            _log_not_stored(result, error)
            return False
        return True

    def _add(self, pipeline: Any, result: Result) -> None:
        backend = self._backend
        request = Context(id=result.message_id, task=result.task, ignore_result=False)
        value = backend.encode_result(result.value, result.state)
        meta = backend._get_result_meta(
            result=value, state=result.state, traceback=None, request=request
        )
        written = backend.encode({**meta, "task_id": result.message_id})
        key = backend.get_key_for_task(result.message_id)
        # Everything that can fail comes before this: a pipeline keeps what was added.
        pipeline.set(key, written, ex=backend.expires or None)
        # A producer that waits for the result is subscribed to its key.
        pipeline.publish(key, written)


def _log_not_stored(result: Result, error: Exception) -> None:
    log.warning("result not stored", result_of=result.message_id, **described(error))
