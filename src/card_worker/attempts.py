"""The attempts of a group: counted per source, and refused beyond the limit of a producer.

Nobody knows before the comparison whether an attempt is wrong, and a key that was claimed can't be
given back. So a group in which the limit is reached is rolled back, and handled again with the
attempts that were beyond it refused. Two groups that reach it at the same time meet at the row of
the source, which only the last statement of a commit locks: the later one is rolled back as well.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TypeAlias, TypeVar

import structlog
from sqlalchemy import Connection

from card_worker.contracts.commands import Command
from card_worker.contracts.queries import CardQuery
from card_worker.domain.attempts import Tally, is_attempt, source_of, window
from card_worker.domain.producers import WRONG_MAX, Sender
from card_worker.storage.attempts import Stored, add_attempts, find_attempts, mark_reported

Attempt: TypeAlias = tuple[str, str, str]
"""(digest of what was signed, account_id, idempotency key)."""
Asked: TypeAlias = Command | CardQuery
T = TypeVar("T")
TRIES_MAX = 100
"""A commit that is repeated more often is defective."""

log = structlog.get_logger(__name__)


class LimitReached(Exception):
    """A group must be rolled back and handled again, with `refused` attempts refused."""

    def __init__(self, refused: frozenset[Attempt]) -> None:
        super().__init__()
        self.refused = refused


def within_limits(commit: Callable[[frozenset[Attempt]], T]) -> T:
    """Do a commit, which gets the attempts to refuse, until it is within the limits.

    It is repeated once for each source that reaches its limit, and if another commit came in
    between.
    """
    refused = frozenset[Attempt]()
    for _ in range(TRIES_MAX - 1):
        try:
            return commit(refused)
        except LimitReached as reached:
            refused = reached.refused
    return commit(refused)


class Attempts:
    """The attempts among the requests of a commit at `now`; other requests cost no statement."""

    def __init__(
        self,
        connection: Connection,
        requests: Iterable[tuple[Asked, Sender | None]],
        now: datetime,
        refused: frozenset[Attempt] = frozenset(),
    ) -> None:
        self._connection, self._window, self._refused = connection, window(now), refused
        self._sources: dict[Attempt, str] = {}
        self._limits: dict[str, int] = {}
        """How many may be wrong, by the producers among the sources."""
        for request, sender in requests:
            if not is_attempt(request):
                continue
            source = self._sources[_id(request, sender)] = source_of(request, sender)
            if sender is not None:
                # All keys of a producer count together.
                self._limits[source] = max(self._limits.get(source, 0), sender.key.wrong_max)
        self._finding = find_attempts(connection, self._limits, self._window)
        self._stored: dict[str, Tally] | None = None
        self._made: dict[str, Tally] = {}
        self._admitted = set[Attempt]()

    def is_refused(self, request: Asked, sender: Sender) -> bool:
        """Say whether a request is an attempt beyond the limit, before its key is claimed."""
        source = self._source(request, sender)
        if source is None:
            return False
        return _id(request, sender) in self._refused or self._is_full(source)

    def admit(self, request: Asked, sender: Sender | None) -> None:
        """Count a request if it is an attempt, before anything is compared. Raises LimitReached."""
        source = self._source(request, sender)
        if source is None:
            return
        if self._is_full(source):
            of_source = {each for each, of in self._sources.items() if of == source}
            raise LimitReached(self._refused | (of_source - self._admitted))
        self._admitted.add(_id(request, sender))
        self._made[source] = self._made.get(source, Tally()).plus(attempts=1)

    def note_wrong(self, request: Asked, sender: Sender | None) -> None:
        """Count a request as wrong, if it is an attempt. It was admitted."""
        source = self._source(request, sender)
        if source is not None:
            self._made[source] = self._made[source].plus(wrong=1)

    def save(self) -> None:
        """Store what was counted. Raises LimitReached if other commits came in between."""
        for stored in add_attempts(self._connection, self._made, self._window):
            limit = self._limits.get(stored.source)
            if self._made[stored.source].wrong:
                if limit is not None and not stored.tally.is_within(limit):
                    raise LimitReached(self._refused)
                if stored.tally.is_full(limit or WRONG_MAX) and not stored.is_reported:
                    self._report(stored, refuses=limit is not None)

    def _source(self, request: Asked, sender: Sender | None) -> str | None:
        return self._sources.get(_id(request, sender)) if self._sources else None

    def _is_full(self, source: str) -> bool:
        limit = self._limits.get(source)
        if limit is None:
            return False
        if self._stored is None:
            self._stored = self._finding()
        so_far = self._stored.get(source, Tally()).plus(*self._made.get(source, Tally()))
        return so_far.is_full(limit)

    def _report(self, stored: Stored, *, refuses: bool) -> None:
        log.warning(
            "many wrong tokens and PINs",
            source=stored.source,
            attempts=stored.attempts,
            wrong=stored.wrong,
            refuses=refuses,
        )
        mark_reported(self._connection, stored.source, self._window)


def _id(request: Asked, sender: Sender | None) -> Attempt:
    return "" if sender is None else sender.digest, request.account_id, request.key
