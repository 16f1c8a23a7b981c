"""Answers to publish again, because their commands were sent again.

A row is kept only until its answer is published. It is written with the commit that has found the
command handled before, and read by the relay, which publishes repeats after first publications.
"""

from collections.abc import Collection, Sequence
from functools import cache
from secrets import randbits
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    Connection,
    Delete,
    FromClause,
    Select,
    bindparam,
    delete,
    select,
    true,
    tuple_,
)

from card_worker.domain.answers import Answer
from card_worker.storage.json_rows import (
    columns_named,
    find,
    json_table,
    matching,
    parameters,
    send_with_rows,
    upsert,
)
from card_worker.storage.pipeline import send
from card_worker.storage.tables import outbox, repeats, unpublished

MARK_BITS = 53
_NAMES = ("event_id", "command_id", "mark")


class Repeat(NamedTuple):
    """An answer that is to be published again, with the command_id of the command sent again."""

    event_id: UUID
    command_id: str
    mark: int
    """Another number each time that the command is sent."""
    answer: Answer
    """The first answer."""


def note_repeats(connection: Connection, sent: Collection[tuple[UUID, str]]) -> None:
    """Store that answers, by id, are to be published again for commands, by command_id."""
    rows = [
        dict(zip(_NAMES, (event_id, command_id, new_mark()), strict=True))
        for event_id, command_id in sorted(sent)
    ]
    if rows:
        dialect, columns = connection.dialect.name, columns_named(repeats, _NAMES)
        send(connection, _note(dialect), parameters(dialect, columns, rows))


@cache
def _note(dialect: str) -> Any:
    columns = columns_named(repeats, _NAMES)
    # SQLite needs WHERE, or it takes ON CONFLICT for the condition of a join.
    return insert_repeats(dialect, select(json_table(dialect, columns)).where(true()))


def insert_repeats(dialect: str, rows: Select[Any]) -> Any:
    """Return the statement that stores repeats: `rows` are event_id, command_id and mark."""
    # In the order of the key, so that two commits with the same repeats don't deadlock.
    event_id, command_id, _ = rows.selected_columns
    rows = rows.order_by(event_id, command_id)
    statement = upsert(dialect, repeats).from_select(_NAMES, rows)
    # Published between two sendings, the answer must be published once more for the second.
    return statement.on_conflict_do_update(
        index_elements=list(repeats.primary_key), set_={"mark": statement.excluded.mark}
    )


def new_mark() -> int:
    return randbits(MARK_BITS)


_FIRST = select(*columns_named(repeats, _NAMES)).limit(bindparam("repeats_max"))


def first_repeats(connection: Connection, repeats_max: int) -> list[Repeat]:
    """Return some repeats whose answers have been published for the first time."""
    # Nearly always there is none. A join would read the outbox to find that out.
    rows = send(connection, _FIRST, {"repeats_max": repeats_max})()
    ids = [{"id": id} for id in {id for id, _, _ in rows}]
    answers = find(connection, outbox, ("position", *Answer._fields[:-1]), ids)()
    positions = [{"position": position} for position, *_ in answers]
    waiting = {row[0] for row in find(connection, unpublished, ("position",), positions)()}
    published = {row[0]: Answer(*row) for position, *row in answers if position not in waiting}
    return [
        Repeat(id, command_id, mark, published[id])
        for id, command_id, mark in rows
        if id in published
    ]


def delete_repeats(connection: Connection, published: Sequence[Repeat]) -> None:
    """Delete repeats that are published, unless the command was sent again meanwhile.

    Does not wait for a commit that is sending it again now.
    """
    keys = [{name: getattr(repeat, name) for name in _NAMES} for repeat in published]
    send_with_rows(connection, _delete, repeats, keys)


def _delete(source: FromClause) -> Delete:
    columns = columns_named(repeats, _NAMES)
    known = select(*columns).join(source, matching(repeats, source))
    return delete(repeats).where(
        tuple_(*columns).in_(known.with_for_update(of=repeats, skip_locked=True))
    )
