"""Which signed commands of a group are refused for their senders, before their keys are claimed."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, TypeAlias

from sqlalchemy import Connection

from card_worker.attempts import Attempts
from card_worker.contracts import keys
from card_worker.contracts.commands import Command
from card_worker.contracts.enums import Reason
from card_worker.contracts.queries import Query
from card_worker.domain.producers import (
    Issued,
    Sender,
    check_issued,
    check_rights,
    check_time,
    issues,
)
from card_worker.domain.refusal import Refused
from card_worker.storage.dead_letters import find_requeued
from card_worker.storage.idempotency import Key, SentKey, claim_keys, find_digests
from card_worker.storage.producers import find_issued


class Sent(NamedTuple):
    """A command with its idempotency key, and its sender if it is signed."""

    command: Command
    key: Key
    digest: str
    sender: Sender | None

    @property
    def of(self) -> Sender:
        assert self.sender is not None
        return self.sender

    @property
    def refused_key(self) -> Key:
        """The key of the refusal for the sender."""
        account_id, key = self.key
        return account_id, keys.refused(self.of.digest, key)


Refusals: TypeAlias = dict[int, Refused]
"""By the place of the command."""


def is_permitted(request: Command | Query, sender: Sender | None) -> bool:
    """Say whether a request is within the rights of its sender's key, whatever the time."""
    if sender is not None:
        try:
            check_rights(request, sender)
        except Refused:
            return False
    return True


def refuse_senders(
    connection: Connection, sent: Sequence[Sent], attempts: Attempts, now: datetime
) -> Refusals:
    """Return which commands are refused for their senders.

    A command that was handled before is not refused: it gets its stored answer, at any age of the
    signature. One that was refused before is refused again; the same signature never gets another
    answer. What the commands before it issue counts for the daily limit of a producer, also if they
    are refused later.
    """
    signed = {place: each for place, each in enumerate(sent) if each.sender is not None}
    if not signed:
        return {}
    refused = find_digests(connection, [each.refused_key for each in signed.values()])
    issued = find_issued(connection, issued_by(signed.values(), now))
    new = _Judged(connection, {}, Issued(issued), attempts, now)
    if not refused and all(map(new.is_accepted_if_new, signed.values())):
        return {}  # also if some were handled before
    known = refused | find_digests(connection, [each.key for each in signed.values()])
    judged = _Judged(connection, known, issued, attempts, now)
    refusals = {
        place: refusal for place, each in signed.items() if (refusal := judged.refusal(each))
    }
    return _without_handled(connection, signed, known, refusals, now)


class _Judged:
    """The commands of a group that were judged so far, in their order."""

    def __init__(
        self,
        connection: Connection,
        known: dict[Key, str],
        issued: Issued,
        attempts: Attempts,
        now: datetime,
    ) -> None:
        self._connection, self._issued, self._now = connection, issued, now
        self._attempts = attempts
        self._stored, self._digests = known, dict(known)
        self._requeued: dict[str, datetime | None] = {}

    def refusal(self, sent: Sent) -> Refused | None:
        if sent.refused_key in self._stored:
            return Refused(Reason.NOT_PERMITTED)  # its stored answer has the reason
        digest = self._digests.get(sent.key)
        if digest == sent.digest:
            return None
        try:
            # With other content than the stored one it is refused anyway.
            self._check(sent, is_new=digest is None)
        except Refused as refusal:
            return refusal
        self._digests.setdefault(sent.key, sent.digest)
        return None

    def is_accepted_if_new(self, sent: Sent) -> bool:
        """Say whether a command is accepted, also if it was not handled before."""
        try:
            self._check(sent, is_new=True)
        except Refused:
            return False
        return True

    def _check(self, sent: Sent, *, is_new: bool) -> None:
        command, sender = sent.command, sent.of
        check_rights(command, sender)
        if not is_new:
            return
        window_s = sender.window_s(command.account_id)
        try:
            check_time(sender, self._now, window_s=window_s)
        except Refused:
            received_at = self._requeued_at(sender.digest)
            if received_at is None:
                raise
            check_time(sender, received_at, window_s=window_s)
        if self._attempts.is_refused(command, sender):
            raise Refused(Reason.TOO_MANY_ATTEMPTS)
        check_issued(command, sender, self._issued, self._now)

    def _requeued_at(self, signature: str) -> datetime | None:
        if signature not in self._requeued:
            self._requeued[signature] = find_requeued(self._connection, signature)
        return self._requeued[signature]


def _without_handled(
    connection: Connection,
    signed: Mapping[int, Sent],
    known: Mapping[Key, str],
    refusals: Refusals,
    now: datetime,
) -> Refusals:
    """Return the refusals without commands that another commit is handling: it was sent twice.

    Waits for the end of that commit: as when a key is claimed, but the key stays free.
    """
    new = [signed[place] for place in refusals if signed[place].key not in known]
    if not new or connection.dialect.name != "postgresql":  # SQLite has one commit at a time
        return refusals
    with connection.begin_nested() as savepoint:
        claimed = claim_keys(
            connection, [SentKey(each.key, each.digest, None) for each in new], now
        )
        handled = claimed().digests
        savepoint.rollback()
    return {
        place: refusal
        for place, refusal in refusals.items()
        if signed[place].key in known or handled.get(signed[place].key) != signed[place].digest
    }


def issued_by(sent: Iterable[Sent], now: datetime) -> Issued:
    """Return what these commands issue, for the producers that have a limit."""
    issued = Issued()
    for command, _, _, sender in sent:
        if sender is not None and sender.is_counted:
            amount, currency = issues(command)
            if amount:
                issued[sender.key.producer, now.date().isoformat(), currency] += amount
    return issued
