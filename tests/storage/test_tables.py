"""The table of a row class has a column for each field."""

from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from card_worker.contracts.enums import CardType
from card_worker.storage.tables import _column
from card_worker.storage.types import EnumText, Flag, JsonText, UtcTime, Uuid, WholeNumber


@pytest.mark.parametrize(
    ("hint", "type_"),
    [
        (UUID, Uuid),
        (datetime, UtcTime),
        (bool, type(Flag)),
        (int, type(WholeNumber)),
        (dict[str, str], JsonText),
        (tuple[CardType, ...], JsonText),
        (CardType, EnumText),
    ],
)
def test_a_column_has_the_type_of_its_field(hint: Any, type_: type[Any]) -> None:
    column, optional = _column("field", hint), _column("field", hint | None)
    assert isinstance(column.type, type_)
    assert isinstance(optional.type, type_)
    assert (column.nullable, optional.nullable) == (False, True)
