"""The tables of commands and events: a class without an entry stops the start."""

import pytest

from card_worker.contracts.cards import ActivateCard, BlockCard, CloseCard
from card_worker.domain.states import check_complete


def test_a_class_without_an_entry_is_named() -> None:
    with pytest.raises(TypeError, match=r"^the table has no entry for ActivateCard, CloseCard$"):
        check_complete("the table", BlockCard | ActivateCard | CloseCard, {BlockCard: None})


def test_a_complete_table_is_accepted() -> None:
    check_complete("the table", BlockCard | CloseCard, {CloseCard: None, BlockCard: None})
