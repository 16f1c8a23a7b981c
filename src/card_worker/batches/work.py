"""A chunk at work, or the end of a job: within one commit, on one batch."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection

from card_worker.contracts import keys
from card_worker.contracts.commands import event_id
from card_worker.contracts.enums import Action, EventType, Reason
from card_worker.contracts.events import BatchData, Problem
from card_worker.domain.answers import about_job, freeze
from card_worker.domain.rows import Batch, File, Holds, Job
from card_worker.domain.views import recall_view
from card_worker.secret_issuer import SecretIssuer, file_name
from card_worker.storage import jobs, outbox
from card_worker.storage.bulk_write import write
from card_worker.storage.engine import wait_for_disk
from card_worker.storage.files import PartsWriter, add

TELL_EVERY = timedelta(seconds=1)


class Work(NamedTuple):
    """What a chunk is done with. `batch` is as it was when the chunk began."""

    connection: Connection
    job: Job
    batch: Batch
    now: datetime
    issuer: SecretIssuer
    company: Callable[[float], None] | None = None
    """Others wait for answers meanwhile: called after so many seconds of work, to let them go
    before; None when there are none."""


class Stopped(Exception):
    """The order doesn't run any more: what was made of it just now is not to be kept."""


class Impossible(Exception):
    """An order can't be made, for a reason that a command could be refused for."""

    def __init__(self, reason: Reason, *problems: Problem) -> None:
        super().__init__(reason)
        self.reason, self.problems = reason, problems


def card_ids(work: Work, number: int) -> tuple[int, list[str]]:
    """Return the number of a chunk's first card, and what its cards are called."""
    first, count = work.job.span(number)
    return first, work.batch.card_ids(first, count)


def add_file(
    work: Work, holds: Holds, parts: PartsWriter, *, cards: int, recipients: Sequence[str] = ()
) -> File:
    """Add a file all of whose parts were written."""
    parts.finish()
    file = File(
        name=parts.name,
        account_id=work.job.account_id,
        batch_id=work.job.batch_id,
        holds=holds,
        sha256=parts.sha256,
        cards=cards,
        bytes=parts.bytes,
        recipients=list(recipients),
        created_at=work.now,
    )
    add(work.connection, file)
    return file


def new_file(work: Work, holds: Holds) -> PartsWriter:
    """Return what takes the content of a file of the batch."""
    job = work.job
    return PartsWriter(work.connection, file_name(job.account_id, job.batch_id, holds, job.id))


def tell_progress(work: Work, job: Job, batch: Batch) -> Job:
    """Tell how far a job is, unless it was told a moment ago or is about to end."""
    if work.now - job.last_progress_at >= TELL_EVERY and job.open_chunks:
        data = about_job(job, batch)
        if job.action is not Action.MAKE:
            data["recall"] = recall_view(job)
        jobs.told(work.connection, job, work.now)
        tell(work, data, EventType.BATCH_PROGRESSED, f"left/{job.open_chunks}")
    return job


def tell(work: Work, data: BatchData, type: EventType, key: str) -> UUID:
    """Tell the world; return the event's id, which is the same whenever this is told again."""
    id = event_id(work.job.account_id, keys.of_job(work.job.id, key))
    answer = freeze(data, id=id, type=type, subject=work.job.batch_id, at=work.now)
    wait_for_disk(work.connection, wait=True)  # what is told is so for good
    write(work.connection, [outbox.new([answer])])
    return id
