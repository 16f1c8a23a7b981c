"""Rows that another session has locked: messages that need them wait, all others are committed."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from card_worker.domain.decide import needs
from card_worker.storage.contention import Contention, Row, find_contention
from card_worker.storage.engine import SHORT_LOCK_TIMEOUT_MS, begin
from card_worker.worker.groups import Groups
from card_worker.worker.messages import Outcome, ReadMessage, Waiting
from card_worker.worker.resources import Resources
from card_worker.worker.retries import Blocked

UNKNOWN = Contention({}, frozenset())


class LockedRows:
    """Commits groups around locked rows."""

    def __init__(self, resources: Resources, groups: Groups) -> None:
        self._engine, self._retries, self._groups = resources.engine, resources.retries, groups

    def commit(self, reads: Sequence[ReadMessage], locked: set[Row]) -> list[Outcome]:
        """Commit the messages that need none of the `locked` rows, together or one by one.

        Those that need one wait, and so do later ones that need a row which a waiting one needs, so
        that commands for a card keep their order. Rows that are found locked are added to `locked`.
        """
        contention = self.find(reads, locked)
        rows = [rows_of(contention, read) for read in reads]
        outcomes: dict[int, Outcome] = {}
        # Messages that have waited come first, in a commit of their own: a lock that is not found
        # above (such as on the key of a command) would fail the commit of the others each time.
        for is_waiting in (True, False):
            places = [at for at, read in enumerate(reads) if read.message.is_waiting == is_waiting]
            free = [places[at] for at in _free([rows[at] for at in places], locked)]
            commit = partial(self._groups.commit_again, [reads[at] for at in free])
            try:
                done = self._retries.run(commit)
            except Blocked:
                done = [self._commit_one(reads[at], rows[at], locked) for at in free]
            outcomes |= zip(free, done, strict=True)
        return [outcomes.get(at, Waiting()) for at in range(len(reads))]

    def _commit_one(self, read: ReadMessage, rows: set[Row], locked: set[Row]) -> Outcome:
        if not rows & locked:
            with suppress(Blocked):
                (outcome,) = self._retries.run(partial(self._groups.commit_again, [read]))
                return outcome
        locked |= rows
        return Waiting()

    def find(self, reads: Sequence[ReadMessage], locked: set[Row]) -> Contention:
        """Return which rows the messages need; add those that are locked to `locked`."""
        try:
            contention = self._retries.run(partial(self._find, reads))
        except Blocked:
            # A whole table is locked.
            return UNKNOWN
        locked |= contention.locked
        return contention

    def _find(self, reads: Sequence[ReadMessage]) -> Contention:
        needed = [needs(command) for read in reads for command in read.permitted]
        with begin(self._engine, lock_timeout_ms=SHORT_LOCK_TIMEOUT_MS) as (connection, _):
            return find_contention(connection, needed)


def rows_of(contention: Contention, read: ReadMessage) -> set[Row]:
    """Return the rows that a message needs: by name, and of cards also by id."""
    return contention.rows(map(needs, read.permitted))


def _free(rows: Sequence[set[Row]], locked: set[Row]) -> list[int]:
    """Return the places of messages that need no locked row, nor one that an earlier one needs."""
    free = []
    for place, needed in enumerate(rows):
        if needed & locked:
            locked |= needed
        else:
            free.append(place)
    return free
