"""Rows that belong to a row which doesn't exist; the database compares the keys."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, select

from card_worker.contracts.enums import TransactionType
from card_worker.storage.reconcile.reading import Books
from card_worker.storage.reconcile.report import Difference, Wrong, difference
from card_worker.storage.tables import (
    cards,
    chunks,
    file_parts,
    files,
    holds,
    jobs,
    outbox,
    transactions,
    unpublished,
)


class _Owned(NamedTuple):
    """A column that must name the key of an owner."""

    check: str
    column: ColumnElement[Any]
    owners: Select[Any]
    what: str
    subject: Callable[[Any], str]


_PENDING = transactions.c.type == TransactionType.PENDING_CAPTURE
_OWNED = (
    _Owned(
        "rows_have_their_card",
        transactions.c.card,
        select(cards.c.id),
        "card of transactions",
        "card {}".format,
    ),
    _Owned(
        "holds_have_their_transaction",
        holds.c.id,
        select(transactions.c.id).where(_PENDING),
        "pending transaction of the hold",
        "hold {}".format,
    ),
    _Owned(
        "notes_have_their_event",
        unpublished.c.position,
        select(outbox.c.position),
        "event of the note",
        "position {}".format,
    ),
    _Owned(
        "chunks_have_their_job", chunks.c.job, select(jobs.c.id), "job of chunks", "job {}".format
    ),
    _Owned("parts_have_their_file", file_parts.c.name, select(files.c.name), "file of parts", str),
)


def rows_have_their_owner(books: Books) -> Iterator[Difference]:
    """Prove that each row which names an owner has one."""
    for check, column, owners, what, subject in _OWNED:
        for (key,) in books.stream(select(column).except_(owners)):
            yield difference(check, "", subject(key), Wrong(what, None, "one"))
