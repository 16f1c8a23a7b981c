"""Celery results of a group, for the producers that asked for them."""

from collections.abc import Sequence
from time import monotonic
from typing import Any, NamedTuple

from celery.app.task import Context
from redis.exceptions import RedisError

from card_worker.pauses import Pauses

PAUSE_S_MAX = 60.0


class Result(NamedTuple):
    """What a producer is given for its message: a state of Celery's, and a value or an error."""

    message_id: str
    task: str
    state: str
    value: Any


class Results:
    """Stores results in Celery's own format, those of a group in one round trip.

    A result is a convenience: the answer is on the stream. So nobody waits for a backend that is
    away: after a failure nothing is stored for a growing pause.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._pauses = Pauses(first_s=1.0, max_s=PAUSE_S_MAX)
        self._again_at = float("-inf")

    def store(self, results: Sequence[Result]) -> None:
        """Store `results`, or log that they are not stored."""
        if not results or monotonic() < self._again_at:
            return
        try:
            with self._backend.client.pipeline(transaction=False) as pipeline:
                for result in results:
                    self._add(pipeline, result)
                pipeline.execute()
        except (RedisError, OSError) as error:
            pause_s = self._pauses.log_next("result backend unavailable, results not stored", error)
            self._again_at = monotonic() + pause_s

    def _add(self, pipeline: Any, result: Result) -> None:
        backend = self._backend
        request = Context(id=result.message_id, task=result.task, ignore_result=False)
        value = backend.encode_result(result.value, result.state)
        meta = backend._get_result_meta(
            result=value, state=result.state, traceback=None, request=request
        )
        written = backend.encode({**meta, "task_id": result.message_id})
        key = backend.get_key_for_task(result.message_id)
        pipeline.set(key, written, ex=backend.expires or None)
        # Whoever waits for the result is subscribed to its key.
        pipeline.publish(key, written)
