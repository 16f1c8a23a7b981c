"""A field of a row without a column stops the start."""

import pytest

from card_worker.domain.rows import Card
from card_worker.storage.books import check_columns
from card_worker.storage.tables import cards


def test_a_field_without_a_column_is_named() -> None:
    with pytest.raises(TypeError, match=r"^storage.tables.cards has no column frozen_until$"):
        check_columns(cards, [*Card._fields, "frozen_until"])
