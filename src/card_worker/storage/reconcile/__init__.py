"""Proving the books: every row beside those that it must agree with. Reads, changes nothing.

CHECKS is the table of what is proven. A pass over cards, events, batches or jobs does several
checks on each of its rows; every other pass is a check by itself. Whatever can be read by key is
read in slices, and what has no index is compared by the database, so memory stays flat.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta

from sqlalchemy import Connection

from card_worker.storage.reconcile import batches, cards, codes, events, files, jobs, keys, orphans
from card_worker.storage.reconcile.reading import Books
from card_worker.storage.reconcile.report import Difference, Progress
from card_worker.storage.reconcile.totals import CurrencyTotals, currencies_add_up, totals

__all__ = ["CHECKS", "CurrencyTotals", "Difference", "Progress", "differences", "totals"]

CHECKS: tuple[Callable[[Books], Iterator[Difference]], ...] = (
    cards.cards_add_up,
    events.events_equal_their_rows,
    keys.keys_have_their_answer,
    keys.events_have_their_key,
    keys.events_are_published,
    codes.tokens_have_their_card,
    codes.pins_have_their_card,
    codes.coded_cards_have_codes,
    codes.pin_attempts_are_settled,
    codes.pin_attempts_are_numbered,
    batches.batches_add_up,
    batches.batch_states_have_their_event,
    batches.cards_have_their_batch,
    batches.lists_reserve_their_names,
    jobs.jobs_add_up,
    jobs.batches_count_their_jobs,
    files.files_are_whole,
    orphans.rows_have_their_owner,
    currencies_add_up,
)


def _no_progress(_pass: str, _done: int, _total: int) -> None:
    """Report no progress."""


def differences(
    connection: Connection,
    progress: Progress = _no_progress,
    *,
    published_within: timedelta | None = None,
) -> Iterator[Difference]:
    """Yield whatever contradicts something else, as it is in the transaction of `connection`.

    An event that waits to be published for longer than `published_within` is reported; None
    doesn't ask how long events wait.
    """
    books = Books(connection, progress, published_within)
    for check in CHECKS:
        yield from check(books)
