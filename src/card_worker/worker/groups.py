"""Groups of messages with commands: many messages, one commit."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from time import perf_counter

import structlog
from sqlalchemy import Engine

from card_worker.attempts import Attempt, within_limits
from card_worker.contracts.commands import Command
from card_worker.contracts.enums import EventType
from card_worker.contracts.message import describe_items, reason_of
from card_worker.contracts.queries import CardQuery
from card_worker.domain.answers import Answer
from card_worker.domain.refusal import Refused
from card_worker.handler import handle
from card_worker.storage.engine import (
    LOCK_TIMEOUT_MS,
    SHORT_LOCK_TIMEOUT_MS,
    RegistryChanged,
    begin,
)
from card_worker.storage.errors import bookkeeping
from card_worker.storage.pin_attempts import requests_with_pin, store_pin_attempts
from card_worker.worker.chunks import Chunks
from card_worker.worker.dead_letters import dead_letter_of_items
from card_worker.worker.messages import Answered, Failed, Outcome, ReadMessage, Returned
from card_worker.worker.resources import Resources

JOB_STARTS = frozenset(
    [
        EventType.BATCH_ACCEPTED,
        EventType.BATCH_APPROVED,
        EventType.BATCH_CANCELLED,
        EventType.BATCH_RECALLING,
    ]
)
"""Events with which a job starts; its id is that of the event."""
IDS_LOGGED_MAX = 10

log = structlog.get_logger(__name__)


class Groups:
    """Commits groups."""

    def __init__(self, resources: Resources, chunks: Chunks) -> None:
        self._resources, self._chunks = resources, chunks

    def commit(
        self,
        reads: Sequence[ReadMessage],
        *,
        is_counted: bool = False,
        lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    ) -> list[Outcome]:
        """Handle messages in one commit; `is_counted` says that their starts were counted."""
        started = perf_counter()
        commands = [command for read in reads for command in read.commands]
        senders = [read.sender for read in reads for _ in read.commands]
        traces = [read.message.conditions.trace for read in reads for _ in read.commands]
        attempted = reads if requests_with_pin(commands) else []
        permitted = [command for read in attempted for command in read.permitted]
        engine, version = self._resources.engine, self._resources.senders.version

        signed_with = {sender.key.key_id: sender.key for sender in senders if sender is not None}

        def check_keys(now: datetime) -> None:
            if not all(key.is_valid(now) for key in signed_with.values()):
                raise RegistryChanged

        def commit(refused: frozenset[Attempt]) -> list[Answer]:
            with begin(engine, lock_timeout_ms=lock_timeout_ms, registry_version=version) as (
                connection,
                now,
            ):
                check_keys(now)
                return handle(
                    connection,
                    commands,
                    now,
                    self._resources.issuer,
                    senders,
                    traces=traces,
                    refused=refused,
                )

        record_attempts(engine, permitted, version, check_keys, lock_timeout_ms=lock_timeout_ms)
        answers = within_limits(commit)
        self._resources.senders.warn_of_unsigned(senders.count(None))
        self._resources.fair_share.note_commands()
        commit_s = perf_counter() - started
        _log_group(commands, answers, messages=len(reads), ms=commit_s * 1000)
        self._follow_up(answers)
        self._resources.starts.forget(
            [read.message for read in reads if is_counted or read.message.deaths]
        )
        left = iter(answers)
        answered = [
            Answered(
                tuple(next(left) for _ in read.commands),
                commands=tuple(command.command for command in read.commands),
                commit_s=commit_s,
            )
            for read in reads
        ]
        return [self._store_items(*pair) for pair in zip(reads, answered, strict=True)]

    def commit_again(self, reads: Sequence[ReadMessage]) -> list[Outcome]:
        """Handle messages in one commit that waits for locks only briefly."""
        return self.commit(reads, lock_timeout_ms=SHORT_LOCK_TIMEOUT_MS) if reads else []

    def commit_counted(self, read: ReadMessage, lock_timeout_ms: int) -> Outcome:
        """Handle a message alone, after its start was counted."""
        (outcome,) = self.commit([read], is_counted=True, lock_timeout_ms=lock_timeout_ms)
        return outcome

    def _store_items(self, read: ReadMessage, answered: Answered) -> Outcome:
        """Store the unreadable items of a list. If that fails, the list is delivered again."""
        if not read.unreadable:
            return answered
        detail = describe_items(read.unreadable, len(read.items))
        failed = Failed(reason_of(read.unreadable), detail)
        letter = partial(dead_letter_of_items, read.message, read.unreadable, failed)
        stored = self._resources.dead_letters.store([letter])
        return replace(answered, unreadable=failed) if stored else Returned()

    def _follow_up(self, answers: Sequence[Answer]) -> None:
        """Start what follows a commit. If that fails, a sweep does it later."""
        job_ids = [answer.id for answer in answers if answer.type in JOB_STARTS]
        if job_ids:
            self._chunks.request_first(job_ids)
        if any(answer.type is EventType.BATCH_COMPLETED for answer in answers):
            self._resources.put_files()


def record_attempts(
    engine: Engine,
    requests: Sequence[Command | CardQuery],
    registry_version: int,
    check: Callable[[datetime], None] = lambda _: None,
    *,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
) -> None:
    """Record PIN attempts in a commit, before a PIN is compared.

    `check` gets the time of that commit, and may raise Refused or RegistryChanged. Raises these and
    BookkeepingError.
    """
    if requests_with_pin(requests):
        with (
            bookkeeping(RegistryChanged, Refused),
            begin(engine, lock_timeout_ms=lock_timeout_ms, registry_version=registry_version) as (
                connection,
                now,
            ),
        ):
            check(now)
            store_pin_attempts(connection, requests, now)


def _log_group(
    commands: Sequence[Command], answers: Sequence[Answer], *, messages: int, ms: float
) -> None:
    refused = [
        (command, answer)
        for command, answer in zip(commands, answers, strict=True)
        if answer.reason
    ]
    for command, answer in refused:
        log.info(
            "command refused",
            command_id=command.command_id,
            account_id=command.account_id,
            command=command.command,
            reason=answer.reason,
        )
    log.info(
        "group committed",
        messages=messages,
        commands=len(commands),
        refused=len(refused),
        ms=round(ms, 1),
        command_ids=[command.command_id for command in commands[:IDS_LOGGED_MAX]],
    )
