"""The one path every command takes: claim, load, decide and evolve each in its order, save."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple, TypeAlias
from uuid import UUID

from sqlalchemy import Connection

from card_worker.contracts.commands import Command, event_id
from card_worker.contracts.enums import Reason
from card_worker.contracts.transactions import CreateTransaction
from card_worker.domain.answers import Answer, answer
from card_worker.domain.books import Books
from card_worker.domain.entry import settle
from card_worker.domain.events import CommandRejected, Decision, id_of
from card_worker.domain.evolve import evolve
from card_worker.domain.needs import Needs, needs
from card_worker.domain.rules import decide
from card_worker.secret_issuer import Mint
from card_worker.secrets.vault import Vault
from card_worker.storage.books import load, save
from card_worker.storage.bulk_write import slices
from card_worker.storage.idempotency import Key, claim, conflict_key, key_and_digest, stored_answers

NO_MINT = Mint(Vault())
Digests: TypeAlias = dict[Key, str]
Released: TypeAlias = dict[tuple[UUID, ...], Books]
"""Books after events, by the ids of these; until anything else happens in the books."""


class _Asked(NamedTuple):
    """A command under the key that its answer has."""

    command: Command
    needs: Needs
    key: Key
    conflicting: bool = False


def handle(
    connection: Connection, commands: Sequence[Command], now: datetime, mint: Mint = NO_MINT
) -> list[Answer]:
    """Answer `commands`, in their order, within the commit that `connection` has open.

    A command handled before gets the answer it got then, also when it stands twice in the list.
    A key used again for other content is refused, and that refusal is stored like any other. There
    is a handful of SQL statements, and one for each slice of the group. PINs in the commands must
    have been noted before (`note_pin_attempts`). `mint` makes the secrets that commands ask for.

    `now` is the time of the commit. A command on a card that has had a later event happens at the
    time of that one.

    Raises what is_retryable or is_race knows when the whole may be tried again.
    """
    needed = [needs(command) for command in commands]
    loading = load(connection, needed, now)
    claiming = _claim(connection, commands, needed, now)
    # What was asked for first is made into books while the server is at the claims.
    books = loading()
    asked, fresh = claiming()
    known = {event_id(*one.key) for one in asked if one.key not in fresh}
    answers = stored_answers(connection, known)
    if known:
        # Whoever handled these may have made, meanwhile, what wasn't there to be loaded.
        books = load(connection, needed, now)()
        for one in asked:
            if one.key not in fresh and isinstance(one.command, CreateTransaction):
                settle(books, one.command, None, now)
    todo = [one for one in _once_each(asked) if one.key in fresh]
    released: Released = {}
    for part in slices(connection, todo):
        told = [
            answer
            for one in part
            for answer in _tell(books, one, _decide(connection, books, one, now, mint), released)
        ]
        save(connection, books.take_changes(), told)
        answers |= {answer.id: answer for answer in told}
    if not todo:
        save(connection, books.take_changes(), [])
    return [answers[event_id(*one.key)] for one in asked]


def _decide(
    connection: Connection, books: Books, asked: _Asked, now: datetime, mint: Mint
) -> Decision:
    command, at = asked.command, books.time(asked.needs, now)
    if asked.conflicting:
        reason = Reason.IDEMPOTENCY_CONFLICT
        return Decision(CommandRejected(command, at, reason, key=asked.key[1]))
    return mint.fill(connection, books, decide(books, command, at))


def _tell(books: Books, asked: _Asked, decided: Decision, released: Released) -> list[Answer]:
    """Do what was decided; return what is told of it, the answer among it."""
    command = asked.command
    if type(command) is CreateTransaction:
        # Also without a PIN: the same command may stand in the group once more, with one.
        settle(books, command, decided.pin_attempt, decided.answer.at)
    if command.dry_run:
        books = _aside(books, decided, released)
        return [answer(books, decided.answer, evolve(decided.answer, books))]
    released.clear()
    return [answer(books, event, evolve(event, books)) for event in decided.events]


def _aside(books: Books, decided: Decision, released: Released) -> Books:
    """Return books for a dry run, what comes before its answer being done.

    That is the release of the due holds on its cards. It is kept in `released` for further dry
    runs on the same cards, of which a list can have 1,000.
    """
    if not decided.before:
        return books.aside()
    ids = tuple(id_of(event) for event in decided.before)
    if ids not in released:
        after = books.aside()
        for event in decided.before:
            evolve(event, after)
        released[ids] = after
    return released[ids].aside()


def _claim(
    connection: Connection, commands: Sequence[Command], needed: Sequence[Needs], now: datetime
) -> Callable[[], tuple[list[_Asked], frozenset[Key]]]:
    """Claim the keys of commands; return what waits for each command under the key of its answer,
    and for which of those keys are fresh."""
    known = [(*one, *key_and_digest(one[0])) for one in zip(commands, needed, strict=True)]
    first: Digests = {}
    for _, _, key, digest in known:
        first.setdefault(key, digest)
    claiming = claim(connection, first, now)

    def wait() -> tuple[list[_Asked], frozenset[Key]]:
        claimed = claiming()
        digests = first | claimed.digests
        asked = [
            _Asked(command, needs, key)
            if digests[key] == digest
            else _Asked(command, needs, conflict_key(key, digest), conflicting=True)
            for command, needs, key, digest in known
        ]
        conflicts = {one.key: one.key[1] for one in asked if one.conflicting}
        if not conflicts:
            return asked, claimed.fresh
        return asked, claimed.fresh | claim(connection, conflicts, now)().fresh

    return wait


def _once_each(asked: Sequence[_Asked]) -> list[_Asked]:
    first: dict[Key, _Asked] = {}
    for one in asked:
        first.setdefault(one.key, one)
    return list(first.values())
