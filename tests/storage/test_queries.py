"""Lists of cards: a status in SQL agrees with the status of the rules."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, insert

from card_worker.contracts.enums import CardType, Status
from card_worker.contracts.queries import ListCards
from card_worker.domain.ids import card_uuid
from card_worker.domain.rows import Card, State
from card_worker.handler import handle
from card_worker.query_handler import answer_query
from card_worker.storage.engine import begin, reading
from card_worker.storage.queries import CardFilter, list_cards
from card_worker.storage.tables import cards
from tests.codes import SEAL_TO, plain_issuer
from tests.domain.story import GIVEN, START
from tests.storage.statements import counting
from tests.storage.test_handler import ACCOUNT, NOW, create, handle_commands, spend

LATER = START + timedelta(days=1)


@pytest.fixture
def stored_cards(engine: Engine) -> list[Card]:
    """A card of every kind, blocked and not, due and not."""
    made = []
    for number, (kind, fields) in enumerate(GIVEN.items()):
        for blocked in (False, True):
            for due in (False, True):
                shown: dict[str, Any] = fields | {"blocked": blocked or "blocked" in kind}
                if fields["state"] is not State.INACTIVE:
                    shown |= {"expires_at": START if due else LATER}
                name = f"{kind}-{blocked:d}{due:d}"
                made.append(_card(number, name, shown))
    with begin(engine) as (connection, _):
        connection.execute(insert(cards), [card._asdict() for card in made])
    return made


def _card(number: int, name: str, fields: dict[str, Any]) -> Card:
    return Card(
        id=card_uuid(ACCOUNT, name),
        account_id=ACCOUNT,
        card_id=name,
        type=CardType.GIFT_CARD if number % 2 else CardType.CREDIT_NOTE,
        created_at=START + timedelta(hours=number),
        customer_id=f"customer-{number % 3}",
        **fields,
    )


def list_card_ids(engine: Engine, now: datetime = START, **wanted: Any) -> list[str]:
    with reading(engine) as connection:
        found = list_cards(connection, ACCOUNT, CardFilter(**wanted), now, cards_max=1000)
    return [card.card_id for card in found]


def card_ids(some: list[Card]) -> list[str]:
    return sorted(card.card_id for card in some)


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("now", [START - timedelta(seconds=1), START, LATER])
def test_a_filter_by_status_agrees_with_the_shown_status(
    status: Status, now: datetime, engine: Engine, stored_cards: list[Card]
) -> None:
    shown = card_ids([card for card in stored_cards if card.status(now) is status])
    assert list_card_ids(engine, now, status=status) == shown
    assert shown or now != START


def test_each_filter_returns_the_matching_cards(engine: Engine, stored_cards: list[Card]) -> None:
    at = START + timedelta(hours=4)
    for wanted, is_wanted in (
        ({"type": CardType.GIFT_CARD}, lambda card: card.type is CardType.GIFT_CARD),
        ({"customer_id": "customer-1"}, lambda card: card.customer_id == "customer-1"),
        ({"available_min": 1}, lambda card: card.amount_available >= 1),
        ({"available_max": 0}, lambda card: card.amount_available <= 0),
        ({"created_from": at}, lambda card: card.created_at >= at),
        ({"created_before": at}, lambda card: card.created_at < at),
        ({"expires_before": LATER}, lambda card: card.is_due(START)),
        ({"batch_id": "none"}, lambda card: False),
    ):
        expected = card_ids([card for card in stored_cards if is_wanted(card)])
        assert list_card_ids(engine, **wanted) == expected
        assert len(expected) < len(stored_cards)


def test_an_expired_hold_locks_nothing_for_a_filter(engine: Engine) -> None:
    handle_commands(engine, create("A1"), spend("A1", "hold", pending=True, hold_expires_in=60))
    handle_commands(engine, create("A2"), spend("A2", "hold", pending=True))
    cases: tuple[tuple[dict[str, Any], list[str]], ...] = (
        ({"available_min": 500}, ["A1"]),
        ({"available_max": 400}, ["A2"]),
    )
    with reading(engine) as connection:
        for asked, expected in cases:
            later = NOW + timedelta(seconds=60)
            found = list_cards(connection, ACCOUNT, CardFilter(**asked), later, cards_max=10)
            assert [card.card_id for card in found] == expected, asked


def test_a_list_continues_after_its_last_page(engine: Engine, stored_cards: list[Card]) -> None:
    seen: list[str] = []
    with reading(engine) as connection:
        while page := list_cards(
            connection,
            ACCOUNT,
            CardFilter(),
            START,
            cards_max=7,
            after=seen[-1] if seen else None,
        ):
            seen += [card.card_id for card in page]
    assert seen == card_ids(stored_cards)


def test_a_page_of_cards_with_codes_takes_as_many_statements_as_one_card(engine: Engine) -> None:
    codes = {"card_token": {}, "pin": {}, **SEAL_TO}
    made = [create(f"A{number}", **codes) for number in range(9)]
    with begin(engine) as (connection, _):
        handle(connection, made, NOW, plain_issuer())
    told = []
    for limit in (1, 9):
        query = ListCards(account_id=ACCOUNT, command_id="q", limit=limit)
        with reading(engine) as connection, counting(engine) as statements:
            page = answer_query(connection, query)["cards"]
        assert [len(card["tokens"]) for card in page] == [1] * limit
        assert all(card["pin"] for card in page)
        told.append(len(statements))
    assert told[0] == told[1]
