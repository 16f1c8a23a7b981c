"""Removes the cards of an order that was cancelled before it was complete."""

from uuid import UUID

import structlog

from card_worker.batches.work import Impossible, Work, card_ids, emit
from card_worker.contracts.enums import Action, BatchState, EventType
from card_worker.domain.answers import about_job
from card_worker.domain.ids import card_uuids
from card_worker.domain.orders import new_job
from card_worker.domain.rows import Job
from card_worker.storage import jobs
from card_worker.storage.batches import change_batch, find_batch, remove_cards
from card_worker.storage.bulk_write import write

log = structlog.get_logger(__name__)


def cancel_order(work: Work, why: Impossible) -> UUID | None:
    """Cancel an order that cannot be made; return the id of the job that removes its cards."""
    connection, job, batch, now, *_ = work
    if batch.state is not BatchState.RUNNING:
        return None
    batch = batch._replace(
        state=BatchState.CANCELLED,
        busy=batch.created > 0,
        job_count=batch.job_count + (batch.created > 0),
        last_error=why.reason.text,
    )
    change_batch(connection, batch)
    data = about_job(job, batch)
    data["reason"] = why.reason
    if why.problems:
        data["problems"] = why.problems
    removal = emit(work, data, EventType.BATCH_CANCELLED, "cancelled")
    log.warning(
        "order cancelled, its cards cannot be made", batch_id=batch.batch_id, reason=why.reason
    )
    if not batch.busy:
        jobs.end(connection, job, now)
        return None
    removing = new_job(batch, Action.REMOVE, last=batch.requested, id=removal, cause=job, at=now)
    write(connection, jobs.new_rows([removing]))
    return removal


def remove_chunk(work: Work, number: int) -> Job:
    """Remove the cards of a chunk."""
    connection, job, batch, now, *_ = work
    _, names = card_ids(work, number)
    # Some of these card_ids may belong to other cards, which are the reason of the cancellation.
    ids = [UUID(bytes=id) for id in card_uuids(batch.account_id, names)]
    removed = remove_cards(connection, batch, ids)
    jobs.finish_chunk(connection, job, number, now)
    return jobs.count_chunk(connection, job, now, done=removed)


def end_removal(work: Work) -> None:
    """End the removal: the ids of the cards may be used again."""
    connection, job, now = work.connection, work.job, work.now
    batch = find_batch(connection, job.account_id, job.batch_id, lock=True)
    assert batch is not None
    change_batch(connection, batch._replace(busy=False, created=0))
    jobs.end_others(connection, job, now)
    jobs.end(connection, job, now)
