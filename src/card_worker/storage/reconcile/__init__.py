"""Comparing every row with the rows that it must agree with. Reads only, and changes nothing.

Each of PASSES does several checks. What can be read by key is read in slices, and what has no
index is compared by the database, so memory stays flat.
"""

from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import Connection

from card_worker.storage.reconcile import cards, events, ids, orders
from card_worker.storage.reconcile.reading import Progress, Reader
from card_worker.storage.reconcile.report import Differences
from card_worker.storage.reconcile.totals import CurrencyTotals, check_totals, totals
from card_worker.storage.reconcile.whole_tables import check_whole_tables

__all__ = ["CurrencyTotals", "Differences", "Progress", "differences", "totals"]

PASSES: tuple[Callable[[Reader], None], ...] = (
    cards.check_cards,
    events.check_events,
    ids.check_keys,
    ids.events_have_their_key,
    ids.check_tokens,
    orders.check_batches,
    orders.check_reserved_names,
    orders.check_jobs,
    orders.check_files,
    check_whole_tables,
    check_totals,
)


def differences(
    connection: Connection,
    progress: Progress = lambda *_: None,
    *,
    published_within: timedelta | None = None,
    limit: int | None = None,
) -> Differences:
    """Return the first `limit` differences in the transaction of `connection`, or all of them.

    An event that waits to be published for longer than `published_within`, if given, is one.
    """
    reader = Reader(connection, progress, Differences(limit))
    for check in PASSES:
        check(reader)
    if published_within is not None:
        ids.events_are_published(reader, published_within)
    return reader.found
