"""Recalls cards: handles the command for a single card for each of them."""

from collections.abc import Iterable
from typing import TypeAlias

from card_worker.batches.work import Work, add_file, card_ids, emit, emit_progress, new_file
from card_worker.bureau_file import csv_of
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

Recalled: TypeAlias = (
    RecalledBlock | RecalledUnblock | RecalledClose | RecalledUpdate | WithdrawCard
)

COMMANDS: dict[Action, type[Recalled]] = {
    Action.BLOCK: RecalledBlock,
    Action.UNBLOCK: RecalledUnblock,
    Action.CLOSE: RecalledClose,
    Action.EXTEND: RecalledUpdate,
    Action.CANCEL: WithdrawCard,
}
ALREADY = {
    Action.BLOCK: Reason.CARD_BLOCKED,
    Action.UNBLOCK: Reason.CARD_NOT_BLOCKED,
    Action.CLOSE: Reason.CARD_CLOSED,
    Action.EXTEND: Reason.EXPIRY_NOT_LATER,
    Action.CANCEL: Reason.CARD_CLOSED,
}
"""The reason of the refusal if a card already is as the recall wants it. An extended card must also
have the same expiry."""
HEAD = b"card_id,reason\r\n"


def recall_chunk(work: Work, number: int) -> Job:
    """Recall the cards of a chunk."""
    connection, job, batch, now, issuer, _ = work
    first, ids = card_ids(work, number)
    commands = [_command(job, id, f"{job.id.hex}-{at}") for at, id in enumerate(ids, start=first)]
    answers = handle(connection, commands, now, issuer)
    reasons = {id: answer.reason for id, answer in zip(ids, answers, strict=True) if answer.reason}
    already = {id for id, reason in reasons.items() if reason is ALREADY[job.action]}
    if job.action is Action.EXTEND:
        already = _extended(work, already)
    refused = [[id, reason.value] for id, reason in reasons.items() if id not in already]
    jobs.finish_chunk(connection, job, number, now, refused=refused or None)
    done = len(ids) - len(reasons)
    counts = {"done": done, "already": len(already), "refused": len(refused)}
    return emit_progress(work, jobs.count_chunk(connection, job, now, **counts), batch)


def end_recall(work: Work) -> None:
    """Emit the totals of a recall, and add the file of the cards that were refused."""
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
    fields: dict[str, object] = {
        "account_id": job.account_id,
        "card_id": card_id,
        "command_id": command_id,
        "created_by": job.created_by,
        "originated_by": job.originated_by,
    }
    if job.action is Action.EXTEND:
        fields["expires_at"] = job.expires_at
    else:
        fields["reason"] = job.reason
    return COMMANDS[job.action].model_validate(fields)


def _extended(work: Work, ids: Iterable[str]) -> set[str]:
    """Return the ids of those cards that have the new expiry."""
    keys = [{"account_id": work.job.account_id, "card_id": id} for id in ids]
    found = find(work.connection, cards, ("card_id", "expires_at"), keys)()
    return {id for id, expires_at in found if expires_at == work.job.expires_at}


def _list_refused(work: Work) -> File:
    parts = new_file(work, FileKind.REFUSED)
    parts.write(HEAD)
    for result in jobs.chunk_results(work.connection, work.job):
        parts.write(csv_of(result.refused or ()))
    return add_file(work, FileKind.REFUSED, parts, cards=work.job.refused)
