"""Handles commands: claims their keys, loads, decides, applies the events, saves."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, TypeAlias
from uuid import UUID

from sqlalchemy import Connection

from card_worker.attempts import Attempt, Attempts
from card_worker.contracts.base import InternalCommand
from card_worker.contracts.commands import Command, event_id
from card_worker.contracts.enums import Reason
from card_worker.contracts.events import is_pruned
from card_worker.contracts.traces import Trace
from card_worker.contracts.transactions import CreateTransaction
from card_worker.domain.access import record_attempt
from card_worker.domain.answers import Answer, answer, repeated, traced
from card_worker.domain.books import Books
from card_worker.domain.decide import apply, decide, needs
from card_worker.domain.events import CommandRejected, Decision
from card_worker.domain.needs import Needs
from card_worker.domain.producers import Sender
from card_worker.domain.refusal import Refused
from card_worker.rights import Sent, is_permitted, issued_by, refuse_senders
from card_worker.secret_issuer import SecretIssuer
from card_worker.secrets.vault import Vault
from card_worker.storage.bulk_write import slices
from card_worker.storage.errors import LostRace
from card_worker.storage.idempotency import (
    Key,
    SentKey,
    claim_keys,
    conflict_key,
    key_and_digest,
)
from card_worker.storage.loading import load
from card_worker.storage.pin_attempts import delete_open_attempts, delete_unused_attempts
from card_worker.storage.pipeline import Pending
from card_worker.storage.producers import add_issued
from card_worker.storage.repeats import note_repeats
from card_worker.storage.saving import save

NO_SECRETS = SecretIssuer(Vault())
_CONFLICT = Refused(Reason.IDEMPOTENCY_CONFLICT)
Released: TypeAlias = dict[tuple[UUID, ...], Books]
"""Books after expired holds were released, by the ids of the events that do so."""


class _Request(NamedTuple):
    """A command, and the idempotency key of its answer."""

    command: Command
    needs: Needs
    key: Key
    sent: Sent
    refusal: Refused | None = None
    """Why it is refused whatever its rule says; `key` is not that of the command then."""
    trace: Trace | None = None

    @property
    def is_for_sender(self) -> bool:
        """Say whether it is refused by the rules for its sender."""
        return self.refusal is not None and self.refusal is not _CONFLICT


Claimed: TypeAlias = tuple[list[_Request], frozenset[Key], dict[UUID, Answer]]
"""The requests of a group, which of their keys were claimed now, and the answers of the others."""


def handle(
    connection: Connection,
    commands: Sequence[Command],
    now: datetime,
    issuer: SecretIssuer = NO_SECRETS,
    senders: Sequence[Sender | None] = (),
    *,
    traces: Sequence[Trace | None] = (),
    refused: frozenset[Attempt] = frozenset(),
) -> list[Answer]:
    """Answer `commands` within the open commit of `connection`; return the answers in their order.

    A command that was handled before gets its stored answer, also when it is twice in the list. The
    answer is published again, unless it is published now for the same command_id. A key that is
    used again with other content is refused, and that refusal is stored like any other. The number
    of SQL statements does not depend on the number of commands, but for slices of very large
    groups. PIN attempts must be stored before (`store_pin_attempts`). `issuer` makes the secrets
    that commands request. `senders` are those of the commands, None for one that is not signed;
    without it, none is signed. `traces` are the spans that have sent them, which the events repeat.
    `refused` are the attempts that a LimitReached has named.

    `now` is the time of the commit. A command on a card with a later event gets the time of that.

    Raises errors that is_retryable or is_race accept if all of it may be tried again, and
    LimitReached (`within_limits`).
    """
    senders = senders or [None] * len(commands)
    needed = [
        needs(command) if is_permitted(command, sender) else Needs()
        for command, sender in zip(commands, senders, strict=True)
    ]
    loading = load(connection, needed, now)
    attempts = Attempts(connection, zip(commands, senders, strict=True), now, refused)
    claiming = _claim(connection, commands, needed, senders, now, attempts=attempts)
    # The books are built while the server works on the claims.
    books = loading()
    requests, fresh, answers = claiming()
    known = [request for request in requests if request.key not in fresh]
    note_repeats(connection, _repeats(requests, fresh))
    first: dict[Key, _Request] = {}
    for request, trace in zip(requests, traces or [None] * len(commands), strict=True):
        if request.key in fresh and request.key not in first:
            first[request.key] = request._replace(trace=trace) if trace else request
    open_requests = list(first.values())
    attempted = [
        command
        for request in known
        if not request.is_for_sender and (command := _with_pin(request.command))
    ]
    if known and (open_requests or attempted):
        # The commits that handled these may have added rows after the books were loaded.
        books = load(connection, needed, now)()
        for command in attempted:
            record_attempt(books, command, None, now)
    _check_attempts(books, open_requests)
    released: Released = {}
    for requests_in_slice in slices(connection, open_requests):
        emitted = [
            answer
            for request in requests_in_slice
            for answer in _emit(
                books,
                request,
                _decide(connection, books, request, now, issuer, attempts=attempts),
                released,
            )
        ]
        save(connection, books.take_changes(), emitted)
        answers |= {answer.id: answer for answer in emitted}
    if not open_requests:
        save(connection, books.take_changes(), [])
    delete_open_attempts(connection, [each.needs for each in requests if each.is_for_sender])
    delete_unused_attempts(
        connection, [id for each in open_requests if (id := _unused_attempt(books, each.command))]
    )
    accepted = [each for each in open_requests if answers[event_id(*each.key)].reason is None]
    add_issued(connection, issued_by([each.sent for each in accepted], now))
    attempts.save()
    return [_given(answers[event_id(*request.key)], request) for request in requests]


def _given(answer: Answer, request: _Request) -> Answer:
    """Return what a request is answered with: a stored answer may have lost its content."""
    is_whole = answer.reason is not None or not is_pruned(answer.event)
    return answer if is_whole else repeated(answer, request.command.command_id)


def _unused_attempt(books: Books, command: Command) -> UUID | None:
    """Return the PIN attempt of a new command without a PIN: a copy in its group has one."""
    if type(command) is not CreateTransaction or command.pin is not None:
        return None
    attempt = books.pin_attempts.get(event_id(command.account_id, command.key))
    return None if attempt is None else attempt.id


def _with_pin(command: Command) -> CreateTransaction | None:
    """Return a command that has a PIN; None for others."""
    if isinstance(command, CreateTransaction) and command.pin is not None:
        return command
    return None


def _check_attempts(books: Books, requests: Sequence[_Request]) -> None:
    """Check that the PIN attempts of new requests are stored. Raises LostRace.

    Another commit that refuses a request with the same key for its sender deletes the attempt.
    """
    for each in requests:
        if each.refusal is None and _with_pin(each.command):
            assert each.needs.pin_attempt is not None
            if each.needs.pin_attempt not in books.pin_attempts:
                raise LostRace


def _repeats(requests: Sequence[_Request], fresh: frozenset[Key]) -> set[tuple[UUID, str]]:
    """Return which new answers are to be published also for other command_ids, by id."""
    firsts = {request.key: request.command.command_id for request in reversed(requests)}
    return {
        (event_id(*request.key), request.command.command_id)
        for request in requests
        if request.key in fresh and request.command.command_id != firsts[request.key]
    }


def _decide(
    connection: Connection,
    books: Books,
    request: _Request,
    now: datetime,
    issuer: SecretIssuer,
    *,
    attempts: Attempts,
) -> Decision:
    command, at = request.command, books.time(request.needs, now)
    if request.refusal is not None:
        reason, problems = request.refusal.reason, request.refusal.problems
        key_id = request.sent.of.key.key_id if request.is_for_sender else None
        return Decision(
            CommandRejected(command, at, reason, problems, key=request.key[1], key_id=key_id)
        )
    sender = request.sent.sender
    attempts.admit(command, sender)
    decision = decide(books, command, at)
    if decision.is_wrong:
        attempts.note_wrong(command, sender)
    return issuer.fill(connection, books, decision)


def _emit(books: Books, request: _Request, decision: Decision, released: Released) -> list[Answer]:
    """Apply the events of a decision; return their public forms, including the answer."""
    command = request.command
    if type(command) is CreateTransaction and not request.is_for_sender:
        # Also without a PIN: the group may contain the same command with a PIN as well.
        record_attempt(books, command, decision.pin_check, decision.answer.at)
    if request.is_for_sender:
        books = Books()  # he may know nothing of the account
    if command.dry_run:
        books = _aside(books, decision, released)
        answers = [answer(books, decision.answer, apply(decision.answer, books))]
    else:
        released.clear()
        answers = [answer(books, event, apply(event, books)) for event in decision.events]
    return answers if request.trace is None else [traced(each, request.trace) for each in answers]


def _aside(books: Books, decision: Decision, released: Released) -> Books:
    """Return a copy of the books for a dry run, with the events before its answer applied.

    These release expired holds on its cards. The result is cached in `released` for further dry
    runs on the same cards: a list may have 1,000 of them.
    """
    if not decision.before:
        return books.aside()
    ids = tuple(event.id for event in decision.before)
    if ids not in released:
        after = books.aside()
        for event in decision.before:
            apply(event, after)
        released[ids] = after
    return released[ids].aside()


def _claim(
    connection: Connection,
    commands: Sequence[Command],
    needed: Sequence[Needs],
    senders: Sequence[Sender | None],
    now: datetime,
    *,
    attempts: Attempts,
) -> Pending[Claimed]:
    """Claim the keys of commands, and derived keys for those that are refused before their rule."""
    sent = [
        Sent(command, *key_and_digest(command), sender)
        for command, sender in zip(commands, senders, strict=True)
    ]
    refusals = refuse_senders(connection, sent, attempts, now)
    known = [
        _Request(
            each.command,
            needs,
            each.refused_key,
            each._replace(digest=each.refused_key[1]),
            refusals[place],
        )
        if place in refusals
        else _Request(each.command, needs, each.key, each)
        for place, (each, needs) in enumerate(zip(sent, needed, strict=True))
    ]
    first = {request.key: request.sent.digest for request in reversed(known)}
    claiming = claim_keys(connection, [_sent_key(request) for request in known], now)

    def wait() -> Claimed:
        claimed = claiming()
        digests = first | claimed.digests
        requests = [
            request
            if digests[request.key] == request.sent.digest
            else request._replace(
                key=conflict_key(request.key, request.sent.digest), refusal=_CONFLICT
            )
            for request in known
        ]
        conflicts = [_sent_key(request) for request in requests if request.refusal is _CONFLICT]
        if not conflicts:
            return requests, claimed.fresh, claimed.answers
        refused = claim_keys(connection, conflicts, now)()
        return requests, claimed.fresh | refused.fresh, claimed.answers | refused.answers

    return wait


def _sent_key(request: _Request) -> SentKey:
    is_conflict = request.refusal is _CONFLICT
    digest = request.key[1] if is_conflict else request.sent.digest
    return SentKey(request.key, digest, _repeated(request.command))


def _repeated(command: Command) -> str | None:
    """Return the command_id for which an answer is repeated; nobody waits for internal ones."""
    return None if isinstance(command, InternalCommand) else command.command_id
