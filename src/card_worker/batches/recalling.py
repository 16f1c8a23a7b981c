"""Recalling cards: each is handled by the command for a single card."""

import csv
import io
from collections.abc import Sequence

from card_worker.batches.work import Work, add_file, card_ids, emit, emit_progress, new_file
from card_worker.contracts.cards import WithdrawCard
from card_worker.contracts.commands import Command
from card_worker.contracts.enums import Action, EventType, Reason
from card_worker.contracts.internal import (
    RecalledBlock,
    RecalledClose,
    RecalledUnblock,
    RecalledUpdate,
)
from card_worker.domain.answers import about_job, add_files
from card_worker.domain.rows import File, FileKind, Job
from card_worker.domain.views import recall_view
from card_worker.handler import handle
from card_worker.storage import jobs
from card_worker.storage.batches import change_batch, find_batch
from card_worker.storage.json_rows import find
from card_worker.storage.tables import cards

ALREADY = {
    Action.BLOCK: Reason.CARD_BLOCKED,
    Action.UNBLOCK: Reason.CARD_NOT_BLOCKED,
    Action.CLOSE: Reason.CARD_CLOSED,
    Action.CANCEL: Reason.CARD_CLOSED,
}
"""The reason for which a card is refused that needs no change."""
HEAD = b"card_id,reason\r\n"


def recall(work: Work, number: int) -> Job:
    """Recall the cards of a chunk."""
    connection, job, batch, now, issuer, _ = work
    first, names = card_ids(work, number)
    commands = [
        _command(job, name, f"{job.id.hex}-{at}") for at, name in enumerate(names, start=first)
    ]
    already = _extended(work, names)
    answers = handle(connection, commands, now, issuer)
    refused = []
    for name, answer in zip(names, answers, strict=True):
        if answer.reason is None:
            already.discard(name)
        elif answer.reason is ALREADY.get(job.action):
            already.add(name)
        elif name not in already:
            refused.append([name, answer.reason.value])
    jobs.finish_chunk(connection, job, number, now, refused=refused or None)
    done = len(names) - len(already) - len(refused)
    counts = {"done": done, "already": len(already), "refused": len(refused)}
    return emit_progress(work, jobs.count_chunk(connection, job, now, **counts), batch)


def recalled(work: Work) -> None:
    """Emit the totals of a recall, and list the cards that were refused."""
    connection, job, now = work.connection, work.job, work.now
    batch = find_batch(connection, job.account_id, job.batch_id, lock=True)
    assert batch is not None
    files = []
    if job.action is Action.CANCEL:
        # Cards that were refused are active and stay so.
        batch = batch._replace(busy=False)
        change_batch(connection, batch)
    elif job.refused:
        files = [_list_refused(work)]
    data = about_job(job, batch)
    add_files(data, files)
    data["recall"] = recall_view(job)
    jobs.end(connection, job, now)
    emit(work, data, EventType.BATCH_RECALLED, "end")


def _command(job: Job, card_id: str, command_id: str) -> Command:
    about = {
        "account_id": job.account_id,
        "card_id": card_id,
        "command_id": command_id,
        "created_by": job.created_by,
        "originated_by": job.originated_by,
    }
    match job.action:
        case Action.BLOCK:
            return RecalledBlock.model_validate({**about, "reason": job.reason})
        case Action.UNBLOCK:
            return RecalledUnblock.model_validate({**about, "reason": job.reason})
        case Action.CLOSE:
            return RecalledClose.model_validate({**about, "reason": job.reason})
        case Action.EXTEND:
            return RecalledUpdate.model_validate({**about, "expires_at": job.expires_at})
        case Action.CANCEL:
            return WithdrawCard.model_validate({**about, "reason": job.reason})
        case Action.MAKE | Action.REMOVE:
            raise AssertionError(f"no command can {job.action} a card")


def _extended(work: Work, names: Sequence[str]) -> set[str]:
    """Return the cards that have the new expiry already."""
    job = work.job
    if job.action is not Action.EXTEND:
        return set()
    keys = [{"account_id": job.account_id, "card_id": name} for name in names]
    found = find(work.connection, cards, ("card_id", "expires_at"), keys)()
    return {name for name, expires_at in found if expires_at == job.expires_at}


def _list_refused(work: Work) -> File:
    parts = new_file(work, FileKind.REFUSED)
    parts.write(HEAD)
    for left in jobs.chunk_results(work.connection, work.job):
        text = io.StringIO(newline="")
        csv.writer(text).writerows(left.refused or ())
        parts.write(text.getvalue().encode())
    return add_file(work, FileKind.REFUSED, parts, cards=work.job.refused)
