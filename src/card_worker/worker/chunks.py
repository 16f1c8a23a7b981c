"""Messages with chunks of jobs, and requests for further chunks."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from time import perf_counter
from uuid import UUID

import structlog
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.exc import DBAPIError

from card_worker.batches.chunks import Chunk, do, first_chunks, note_error
from card_worker.contracts.dead_letters import DeadLetterReason
from card_worker.defects import log_defect
from card_worker.pauses import described
from card_worker.storage.engine import LOCK_TIMEOUT_MS, SHORT_LOCK_TIMEOUT_MS
from card_worker.storage.errors import is_retryable
from card_worker.worker.isolation import Isolation, is_suspect
from card_worker.worker.messages import Answered, Failed, Message, Outcome, Returned, Waiting
from card_worker.worker.resources import Resources
from card_worker.worker.retries import Blocked, Interrupted

_CHUNK = TypeAdapter(Chunk)

log = structlog.get_logger(__name__)


class Chunks:
    """Does chunks of jobs."""

    def __init__(self, resources: Resources) -> None:
        self._resources, self._isolation = resources, Isolation(resources)

    def deliver(self, message: Message) -> Outcome:
        """Do the chunk that a message names."""
        try:
            chunk = _CHUNK.validate_python(message.kwargs)
        except ValidationError:
            return self._resources.dead_letters.dead_letter(message, DeadLetterReason.CHUNK_INVALID)
        earlier_starts = count(message.returns)
        start = partial(self._do, message, chunk, earlier_starts)
        defect: Exception | None = None
        if not is_suspect(message):
            try:
                return self._resources.retries.run(start)
            except Interrupted:
                return Returned()
            except Blocked:
                return Waiting()
            except Exception as error:
                log_defect(error, messages=1)
                defect = error
        counted = partial(start, is_counted=True)
        return self._isolation.run(message, counted, defect, partial(self._note_error, chunk))

    def _note_error(self, chunk: Chunk, failed: Failed) -> None:
        try:
            note_error(self._resources.engine, chunk, failed.explanation)
        except DBAPIError as error:
            if is_retryable(error):
                raise
            log.warning("error of a batch not stored", **described(error))

    def _do(
        self,
        message: Message,
        chunk: Chunk,
        earlier_starts: Iterator[int],
        *,
        is_counted: bool = False,
    ) -> Outcome:
        started = perf_counter()
        following = do(
            self._resources.engine,
            self._resources.issuer,
            chunk,
            self._resources.fair_share.throttle(),
            again=next(earlier_starts) > 0,
            lock_timeout_ms=SHORT_LOCK_TIMEOUT_MS if message.is_waiting else LOCK_TIMEOUT_MS,
        )
        seconds = perf_counter() - started
        if is_counted:
            self._resources.starts.forget([message])
        throttle_s = self._resources.fair_share.throttle_s(seconds)
        if following:
            self.request(following)
        else:
            self._resources.put_files()
        return Answered((), throttle_s)

    def request_first(self, job_ids: Sequence[UUID]) -> None:
        """Request the first chunks of jobs. If that fails, a sweep does it later."""
        try:
            self.request(first_chunks(self._resources.engine, job_ids))
        except DBAPIError as error:
            log.warning("chunks not requested", error=type(error).__name__)

    def request(self, chunks: Sequence[Chunk]) -> None:
        """Request chunks. If that fails, a sweep does it later."""
        try:
            self._resources.request(chunks)
        except Exception as error:
            log.warning("chunks not requested", error=type(error).__name__)
