"""The work on one chunk, or on the end of a job: one commit for one batch."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection

from card_worker.bureau_file import file_name
from card_worker.contracts import keys
from card_worker.contracts.commands import event_id
from card_worker.contracts.enums import Action, EventType, Reason
from card_worker.contracts.events import BatchData
from card_worker.contracts.views import Problem
from card_worker.domain.answers import about_job, freeze
from card_worker.domain.rows import Batch, File, FileKind, Job
from card_worker.domain.views import recall_view
from card_worker.secret_issuer import SecretIssuer
from card_worker.storage import jobs, outbox
from card_worker.storage.bulk_write import write
from card_worker.storage.engine import wait_for_disk
from card_worker.storage.files import PartsWriter, insert_file

PROGRESS_INTERVAL = timedelta(seconds=1)


class Work(NamedTuple):
    """What the work on a chunk needs. `batch` is as it was when the chunk was started."""

    connection: Connection
    job: Job
    batch: Batch
    now: datetime
    issuer: SecretIssuer
    throttle: Callable[[float], None] | None = None
    """Called between pieces of the chunk with the seconds that the last one took, so that commands
    get their share of the database; None if no commands wait."""


class Stopped(Exception):
    """The order was cancelled: the commit is rolled back."""


class Impossible(Exception):
    """An order cannot be carried out, for a reason for which a command could be refused."""

    def __init__(self, reason: Reason, *problems: Problem) -> None:
        super().__init__(reason)
        self.reason, self.problems = reason, problems


def card_ids(work: Work, number: int) -> tuple[int, list[str]]:
    """Return the number of a chunk's first card, and the ids of its cards."""
    first, count = work.job.span(number)
    return first, work.batch.card_ids(first, count)


def add_file(
    work: Work, kind: FileKind, parts: PartsWriter, *, cards: int, recipients: Sequence[str] = ()
) -> File:
    """Add the row of a file whose content was written to `parts`."""
    parts.finish()
    file = File(
        name=parts.name,
        account_id=work.job.account_id,
        batch_id=work.job.batch_id,
        kind=kind,
        sha256=parts.sha256,
        cards=cards,
        bytes=parts.bytes,
        recipients=list(recipients),
        created_at=work.now,
    )
    insert_file(work.connection, file)
    return file


def new_file(work: Work, kind: FileKind) -> PartsWriter:
    """Return a writer for a new file of the batch."""
    job = work.job
    return PartsWriter(work.connection, file_name(job.account_id, job.batch_id, kind, job.id))


def emit_progress(work: Work, job: Job, batch: Batch) -> Job:
    """Emit the progress of a job, at most once in PROGRESS_INTERVAL, and not before its end."""
    if work.now - job.last_progress_at >= PROGRESS_INTERVAL and job.open_chunks:
        data = about_job(job, batch)
        if job.action is not Action.MAKE:
            data["recall"] = recall_view(job)
        jobs.record_progress(work.connection, job, work.now)
        emit(work, data, EventType.BATCH_PROGRESSED, f"left/{job.open_chunks}")
    return job


def emit(work: Work, data: BatchData, type: EventType, key: str) -> UUID:
    """Emit an event; return its id, which is the same each time this event is emitted."""
    id = event_id(work.job.account_id, keys.of_job(work.job.id, key))
    answer = freeze(data, id=id, type=type, subject=work.job.batch_id, at=work.now)
    wait_for_disk(work.connection, wait=True)  # an event must not be lost after it was published
    write(work.connection, [outbox.new_rows([answer])])
    return id
