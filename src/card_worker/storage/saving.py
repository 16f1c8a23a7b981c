"""Saving what a group of commands changed in the books, with its answers."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Column, Connection, Table

from card_worker.contracts.json_text import write_json
from card_worker.domain.answers import Answer
from card_worker.domain.books import Changed, Changes
from card_worker.domain.rows import Batch, Card
from card_worker.storage import jobs, outbox
from card_worker.storage.batches import release_card_ids
from card_worker.storage.bulk_write import Change, ChangedRows, NewRows, write
from card_worker.storage.json_rows import Row
from card_worker.storage.roles import CHANGING
from card_worker.storage.tables import (
    batches,
    cards,
    file_parts,
    files,
    holds,
    pin_attempts,
    pins,
    reserved_card_ids,
    tokens,
    transactions,
)
from card_worker.storage.types import JsonText

_PAYMENT_COLUMNS = frozenset(
    ["version", "changed_at", "postings"]
    + [name for name in Card._fields if name.startswith("amount_")]
)
"""The columns of a card that payments change."""


def save(connection: Connection, changes: Changes, answers: Sequence[Answer]) -> None:
    """Write the changes of the books, and the answers to the outbox."""
    for before, after in changes.batches.changed:
        if before.busy and not after.busy:
            release_card_ids(connection, before)
    reserved = [row for batch in changes.batches.new for row in _reserved(batch)]
    write(
        connection,
        [
            *_changes(batches, changes.batches),
            NewRows(reserved_card_ids, reserved),
            *jobs.new_rows(changes.jobs),
            _new(files, changes.files),
            _new(file_parts, changes.file_parts),
            *_changes(cards, changes.cards),
            _new(transactions, changes.transactions),
            *_changes(holds, changes.holds),
            *_changes(tokens, changes.tokens),
            *_changes(pins, changes.pins),
            *_changes(pin_attempts, changes.pin_attempts),
            outbox.new_rows(answers),
        ],
    )


def _reserved(batch: Batch) -> Iterator[Row]:
    """Yield a row for each card_id that a new batch reserves."""
    if batch.busy:
        key = {"account_id": batch.account_id, "batch_id": batch.batch_id}
        for card in batch.card_list or ():
            yield {**key, "card_id": card["card_id"]}


def _changes(table: Table, rows: Changed[Any]) -> list[Change]:
    return [_new(table, rows.new), ChangedRows(table, _updates(table, rows.changed))]


def _new(table: Table, rows: Sequence[Any]) -> NewRows:
    """Return rows to insert, without columns that are NULL in all of them."""
    if not rows:
        return NewRows(table, [])
    columns = zip(rows[0]._fields, zip(*rows, strict=True), strict=True)
    filled = {
        name: column for name, column in columns if any(value is not None for value in column)
    }
    return NewRows(table, _transposed(filled), rows[0]._fields)


def _updates(table: Table, changed: Sequence[tuple[Any, Any]]) -> list[Row]:
    """Return the rows that differ from before: the columns that payments change, or all columns
    that change."""
    if not changed:
        return []
    before, after = (zip(*side, strict=True) for side in zip(*changed, strict=True))
    columns = dict(zip(changed[0][0]._fields, after, strict=True))
    differing = {
        name
        for (name, now), was in zip(columns.items(), before, strict=True)
        if _differs(table.c[name], was, now)
    }
    if not differing:
        return []
    keys = {column.name for column in table.primary_key}
    if differing <= _PAYMENT_COLUMNS:
        names = keys | _PAYMENT_COLUMNS
    else:
        names = keys | CHANGING[table.name] | differing
    return _transposed({name: columns[name] for name in columns if name in names})


def _differs(column: Column[Any], before: tuple[Any, ...], after: tuple[Any, ...]) -> bool:
    if not isinstance(column.type, JsonText):
        return after != before
    # As JSON, because in Python 1, 1.0 and True are equal.
    return any(
        now is not was and write_json(now) != write_json(was)
        for was, now in zip(before, after, strict=True)
    )


def _transposed(columns: dict[str, tuple[Any, ...]]) -> list[Row]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
