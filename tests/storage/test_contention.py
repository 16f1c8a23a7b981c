"""A lock on any card that a command locks is found, also on one that was replaced."""

import pytest
from sqlalchemy import select

from card_worker.domain.decide import needs
from card_worker.domain.ids import card_uuid
from card_worker.storage.contention import find_contention
from card_worker.storage.engine import begin, open_engine
from card_worker.storage.tables import cards
from tests.storage.test_handler import ACCOUNT, command, create, handle_commands, spend


@pytest.mark.parametrize("locked", ["A1", "A2", "A3"])
def test_a_lock_on_each_card_that_a_refund_reaches_is_found(locked: str, postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    _, drawn = handle_commands(engine, create("A1"), spend("A1", "r1"))
    for old, new in (("A1", "A2"), ("A2", "A3")):
        lost = {"card_id": old, "new_card_id": new, "reason": "lost"}
        handle_commands(engine, command("cards.replace", f"replace-{old}", **lost))
    refund = command(
        "transactions.refund", "refund", transaction_id=str(drawn.id), ref_id="r2", amount=1
    )
    needed = needs(refund)
    with engine.begin() as holding, begin(engine) as (connection, _):
        holding.execute(select(cards.c.id).where(cards.c.card_id == locked).with_for_update())
        contention = find_contention(connection, [needed])
    card = card_uuid(ACCOUNT, locked)
    assert contention.locked == {card}
    assert card in contention.rows([needed])
    engine.dispose()
