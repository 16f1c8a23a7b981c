"""Changes in books that were laid aside stay there, and a shelf tells what has changed."""

from collections.abc import Mapping, MutableMapping
from dataclasses import fields
from typing import Any, NamedTuple

import pytest

from card_worker.domain.books import Books, Changed, Shelf


class Row(NamedTuple):
    """A row for any shelf."""

    id: str
    text: str

    @property
    def key(self) -> str:
        return self.id


OLD, NEW, CHANGED = Row("old", "old"), Row("new", "new"), Row("old", "new")


def fill(value: Any) -> None:
    match value:
        case Shelf():
            value.load(OLD)
        case MutableMapping():
            value["old"] = "old"
        case _:
            value.append("old")


def change(value: Any) -> None:
    match value:
        case Shelf():
            value.put(NEW)
            value.put(CHANGED)
        case MutableMapping():
            value["new"] = "new"
            value["old"] = "new"
        case _:
            value.append("new")


@pytest.mark.parametrize("name", [each.name for each in fields(Books) if each.name != "now"])
def test_a_change_in_books_laid_aside_stays_there(name: str) -> None:
    books = Books()
    value = getattr(books, name)
    if isinstance(value, int):
        books.aside()._saved += 1  # the only number there is
        assert books._saved == 0
        return
    fill(value)
    before = dict(value) if isinstance(value, Mapping) else list(value)
    aside = getattr(books.aside(), name)
    assert aside == before
    change(aside)
    assert aside != before
    assert value == before


def test_a_shelf_tells_what_was_added_and_changed_since_it_was_asked_last() -> None:
    shelf = Shelf[str, Row](lambda row: row.id)
    fill(shelf)
    change(shelf)
    shelf.put(NEW._replace(text="newer"))
    assert shelf.take_changes() == Changed([NEW._replace(text="newer")], [(OLD, CHANGED)])
    assert shelf.take_changes() == Changed([], [])
    shelf.put(CHANGED._replace(text="newest"))
    assert shelf.take_changes().changed == [(CHANGED, CHANGED._replace(text="newest"))]
