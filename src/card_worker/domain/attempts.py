"""How many wrong PINs and unknown short tokens are accepted of a source in ten minutes.

The source is the producer that has signed a request. Unsigned requests have their account as
source; these are never refused, or a stranger could stop a shop.
"""

from datetime import UTC, datetime
from typing import NamedTuple

from card_worker.contracts.commands import Command
from card_worker.contracts.queries import CardQuery
from card_worker.contracts.transactions import ByCardOrToken
from card_worker.domain.producers import Sender

WINDOW_S = 600
WRONG_PERCENT = 5


class Tally(NamedTuple):
    """The attempts of a source in a window: requests with a PIN or a short token."""

    attempts: int = 0
    wrong: int = 0

    def plus(self, attempts: int = 0, wrong: int = 0) -> "Tally":
        return Tally(self.attempts + attempts, self.wrong + wrong)

    def is_within(self, wrong_max: int) -> bool:
        return self.wrong <= max(wrong_max, self.attempts * WRONG_PERCENT // 100)

    def is_full(self, wrong_max: int) -> bool:
        """Say whether one more attempt could be one too many."""
        return not self.plus(attempts=1, wrong=1).is_within(wrong_max)


def is_attempt(request: Command | CardQuery) -> bool:
    """Say whether a request brings a PIN or a short token."""
    return isinstance(request, ByCardOrToken) and request.is_attempt


def source_of(request: Command | CardQuery, sender: Sender | None) -> str:
    """Return the name of the source of a request."""
    return f"account/{request.account_id}" if sender is None else f"producer/{sender.key.producer}"


def window(now: datetime) -> datetime:
    """Return the begin of the window of a time."""
    return datetime.fromtimestamp(int(now.timestamp()) // WINDOW_S * WINDOW_S, UTC)
