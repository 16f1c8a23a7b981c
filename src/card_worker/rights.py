"""Which signed commands of a group are refused for their senders, before their keys are claimed."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple, TypeAlias

from sqlalchemy import Connection

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
from card_worker.storage.idempotency import Key, find_digests
from card_worker.storage.producers import find_issued


class Sent(NamedTuple):
    """A command with its idempotency key, and its sender if it is signed."""

    command: Command
    key: Key
    digest: str
    sender: Sender | None

    @property
    def refused_key(self) -> Key:
        """The key of the refusal for the sender."""
        assert self.sender is not None
        account_id, key = self.key
        return account_id, keys.refused(self.sender.digest, key)


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


def refuse_senders(connection: Connection, sent: Sequence[Sent], now: datetime) -> Refusals:
    """Return which commands are refused for their senders.

    A command that was handled before is not refused: it gets its stored answer, at any age of the
    signature. One that was refused before is refused again; the same signature never gets another
    answer. What the commands before it issue counts for the daily limit of a producer, also if they
    are refused later.
    """
    signed = {place: each for place, each in enumerate(sent) if each.sender is not None}
    if not signed:
        return {}
    wanted = {each.refused_key for each in signed.values()} | {each.key for each in signed.values()}
    known = find_digests(connection, sorted(wanted))
    issued = find_issued(
        connection,
        {
            (each.sender.key.producer, now.date().isoformat(), issues(each.command)[1])
            for each in signed.values()
            if each.sender is not None and each.sender.key.issued_max is not None
        },
    )
    refusals: Refusals = {}
    for place, each in signed.items():
        if each.refused_key in known:
            refusals[place] = Refused(Reason.NOT_PERMITTED)  # its stored answer has the reason
        elif known.get(each.key) != each.digest:
            try:
                _check(connection, each, issued, now, is_known=each.key in known)
            except Refused as refusal:
                refusals[place] = refusal
    return refusals


def _check(
    connection: Connection, sent: Sent, issued: Issued, now: datetime, *, is_known: bool
) -> None:
    command, sender = sent.command, sent.sender
    assert sender is not None
    check_rights(command, sender)
    if is_known:
        return  # with other content, so it is refused for that
    window_s = sender.window_s(command.account_id)
    try:
        check_time(sender, now, window_s=window_s)
    except Refused:
        received_at = find_requeued(connection, sender.digest)
        if received_at is None:
            raise
        check_time(sender, received_at, window_s=window_s)
    check_issued(command, sender, issued, now)


def issued_by(sent: Iterable[Sent], now: datetime) -> Issued:
    """Return what these commands have issued, for the producers that have a limit."""
    issued = Issued()
    for command, _, _, sender in sent:
        if sender is not None and sender.key.issued_max is not None and not command.dry_run:
            amount, currency = issues(command)
            issued[sender.key.producer, now.date().isoformat(), currency] += amount
    return issued
