"""What is done in books that were laid aside stays there, whichever field it is done to."""

from collections.abc import Mapping, MutableMapping
from dataclasses import fields
from typing import Any

import pytest

from card_worker.domain.books import Books


def change(value: Any) -> None:
    if isinstance(value, MutableMapping):
        value["new"] = "new"
        value["old"] = "new"
    else:
        value.append("new")


@pytest.mark.parametrize("name", [one.name for one in fields(Books)])
def test_a_change_in_books_laid_aside_stays_there(name: str) -> None:
    books = Books()
    value = getattr(books, name)
    if isinstance(value, int):
        books.aside()._told += 1  # the only number there is
        assert books._told == 0
        return
    if isinstance(value, MutableMapping):
        value["old"] = "old"
    else:
        value.append("old")
    before = dict(value) if isinstance(value, Mapping) else list(value)
    aside = getattr(books.aside(), name)
    assert aside == before
    change(aside)
    assert aside != before
    assert value == before
